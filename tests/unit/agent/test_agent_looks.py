"""The supervisor's clocks: what is looked after each second, whatever another look comes to."""

import asyncio
from pathlib import Path

import pytest

from tpnet.agent import supervisor
from tpnet.agent.supervisor import Agent
from tpnet.model import TpnetError

KINDS = ("beat", "watch", "changes", "mirror", "glance", "vanished", "look", "mend")


class Looked:
    """In the place of signs, workers, targets, orders and sessions at once: counts looks, and fails at one kind of them."""

    def __init__(self, agent, failing, error):
        self.agent, self.failing, self.error = agent, failing, error
        self.seen = dict.fromkeys(KINDS, 0)

    def _saw(self, kind):
        self.seen[kind] += 1
        if min(self.seen.values()) >= 3:
            self.agent.stop()
        if kind == self.failing:
            raise self.error

    def beat(self, who):
        self._saw("beat")

    def watch(self):
        self._saw("watch")

    async def look_for_changes(self):
        self._saw("changes")

    def mirror(self):
        self._saw("mirror")

    def glance(self):
        self._saw("glance")

    def look_for_the_vanished(self):
        self._saw("vanished")

    async def look(self):
        self._saw("look")

    async def mend(self):
        self._saw("mend")


@pytest.mark.parametrize("error", [TpnetError("It is said."), OSError(24, "too many"), ZeroDivisionError()])
@pytest.mark.parametrize("failing", KINDS)
def test_a_look_that_fails_keeps_no_other_from_its_work(failing, error, monkeypatch, caplog):
    monkeypatch.setattr(supervisor, "MIRROR_EVERY", 0.001)
    monkeypatch.setattr(supervisor, "LOOK_EVERY", 0.001)
    monkeypatch.setattr(supervisor, "BEAT_EVERY", 0.001)

    async def body():
        agent = Agent(
            Path("/nowhere"), None, udp_port=0, worker_uids=range(1, 2), end_seconds=0, bytes_untouched=False
        )
        looked = Looked(agent, failing, error)
        agent._signs = agent._workers = agent._orders = agent._targets = agent._sessions = looked
        async with asyncio.timeout(10):
            await agent.run()
        assert min(looked.seen.values()) >= 3

    asyncio.run(body())
    assert ("It is said." if isinstance(error, TpnetError) else "Traceback") in caplog.text
