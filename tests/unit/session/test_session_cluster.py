import asyncio
import time
from types import SimpleNamespace
from typing import ClassVar

import pytest

from tpnet.control.kubernetes.api import Unreachable
from tpnet.model import Intercept, NodeAgentSpec, NotThere, Refused, TpnetError
from tpnet.session import cluster as cluster_module
from tpnet.session.cluster import ClusterPresence
from tpnet.tunnel import KeyPair, address_of, prefix_of

KEYS = {node: KeyPair().public for node in ("n1", "n2", "n3", "n1-again")}


def spec(node, endpoints=("10.0.0.1:21820",)):
    address = str(address_of(KEYS[node], prefix_of()))
    return NodeAgentSpec(KEYS[node], address, endpoints, 7, 1280)


class FakeControl:
    user, server = "bob", "https://fake"

    def __init__(self):
        self.serving, self.agents, self.calls = set(), {}, []
        self.sessions, self.away = {}, False
        self.refuse = None
        self.changed = lambda: None

    def _ask(self, *call):
        self.calls.append(call)
        if self.away:
            raise Unreachable("The API server https://fake does not answer: refused.")

    def begin_session(self, key):
        self._ask("begin", key)
        if self.refuse:
            raise self.refuse
        name = f"bob-{len([call for call in self.calls if call[0] == 'begin'])}"
        self.sessions[name] = key
        return name

    def renew(self, name):
        self._ask("renew", name)
        if name not in self.sessions:
            raise NotThere(f'sessions.tpnet.dev "{name}" not found.')

    def end_session(self, name):
        self._ask("end", name)
        self.sessions.pop(name, None)

    def delete_intercept(self, name, user):
        self._ask("delete", name)

    def info(self):
        self._ask("info")

    def follow(self, namespace, session, changed):
        self._ask("follow", namespace, session)
        self.changed = changed

    def nodes(self, session):
        return set(self.serving) if session in self.sessions else set()

    def agent(self, node):
        self._ask("agent", node)
        try:
            return self.agents[node]
        except KeyError:
            raise NotThere(f'nodeagents.tpnet.dev "{node}" not found.') from None

    def count(self, *call):
        return self.calls.count(call)


class FakeEnd:
    def __init__(self, keys):
        self.keys, self.living, self.closed, self.removed = keys, True, False, []
        self.address, self.reason = address_of(keys.public, prefix_of()), "fake"
        self.device = SimpleNamespace(name="fake0")

    def alive(self):
        return self.living and not self.closed

    def remove_peer(self, key):
        self.removed.append(key)

    def close(self):
        self.closed = True


class FakeLink:
    made: ClassVar = []  # of the test that runs; see world

    def __init__(self, end, agent, changed):
        assert end.alive()
        self.end, self.agent, self.changed = end, agent, changed
        self.up = self.ever_up = self.gone = False
        self.silent_for = self.rtt_ms = 0.0
        self.endpoint = None
        self.started, self.forgotten, self.closed, self.nudges = False, False, False, 0
        FakeLink.made.append(self)

    async def start(self):
        self.started = True

    def nudge(self):
        self.nudges += 1

    def close(self, *, forget=False):
        self.closed, self.forgotten = True, forget

    def hear(self):
        self.up = self.ever_up = True
        self.silent_for = 0.0
        self.changed(True)


class World:
    def __init__(self):
        self.control, self.ends, self.links = FakeControl(), [], FakeLink.made
        self.told, self.names, self.busy = [], {}, set()

    def presence(self):
        async def restored():
            self.told.append("restored")

        async def renewed():
            self.told.append("renewed")

        return ClusterPresence(
            self.control,
            handlers=lambda: dict(self.names),
            restored=restored,
            renewed=renewed,
            busy=lambda agent: agent in self.busy,
        )

    def link(self, node):
        """The latest link to the agent of that key."""
        return next(link for link in reversed(self.links) if link.agent.public_key == KEYS[node])


@pytest.fixture
def world(monkeypatch):
    made = World()
    FakeLink.made.clear()

    async def open_async(keys, **more):
        made.ends.append(FakeEnd(keys))
        return made.ends[-1]

    monkeypatch.setattr(cluster_module, "TunnelEnd", SimpleNamespace(open_async=open_async))
    monkeypatch.setattr(cluster_module, "Link", FakeLink)
    for name, value in {
        "RENEW_EVERY": 0.05,
        "RETRY_EVERY": 0.03,
        "ASK_AFTER": 0.1,
        "KEEP_SECONDS": 0.15,
        "FIRST_NUDGES": 0.02,
        "NUDGE_EVERY": 0.04,
        "SETTLE_SECONDS": 0.4,
    }.items():
        monkeypatch.setattr(cluster_module, name, value)
    return made


async def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def play(world, story):
    """Run ``story(presence)`` with a session that is open and kept."""

    async def main():
        presence = world.presence()
        await presence.open()
        keeper = asyncio.create_task(presence.run())
        try:
            await story(presence)
            assert not keeper.done()
        finally:
            keeper.cancel()
            await asyncio.wait({keeper}, timeout=2)
            assert keeper.done()
            world.control.away = False
            await presence.end()
        assert all(end.closed for end in world.ends)
        assert world.control.sessions == {}

    asyncio.run(main())


def test_a_session_that_cannot_begin_leaves_nothing(world):
    async def main():
        presence = world.presence()
        world.control.refuse = Refused("bob may not create sessions.tpnet.dev in tpnet.")
        with pytest.raises(Refused, match="may not create"):
            await presence.open()
        assert all(end.closed for end in world.ends)
        with pytest.raises(TpnetError, match="no tunnel at this moment"):
            _ = presence.tunnel
        assert not [call for call in world.control.calls if call[0] == "end"]

    asyncio.run(main())


def test_an_end_leaves_no_intercept_and_no_session(world):
    async def story(presence):
        world.names = {"shop/a": True, "shop/b": False}

    play(world, story)
    assert world.control.count("delete", "shop/a") == world.control.count("delete", "shop/b") == 1
    assert world.control.count("end", "bob-1") == 1


def test_each_node_that_serves_us_has_a_link_and_no_other(world):
    async def story(presence):
        world.control.agents = {node: spec(node) for node in ("n1", "n2", "n3")}
        await presence.expect(Intercept("shop/a", "bob", "", "svc/orders", (), 80))
        assert world.control.count("follow", "shop", "bob-1") == 1
        world.control.serving = {"n1", "n2"}
        world.control.changed()
        await until(lambda: set(presence.links()) == {"n1", "n2"})
        assert all(link.started for link in world.links)
        assert world.control.count("agent", "n3") == 0

    play(world, story)


def test_only_agents_that_we_have_links_to_may_enter(world):
    async def story(presence):
        world.control.agents = {node: spec(node) for node in ("n1", "n2")}
        world.control.serving = {"n1"}
        await until(presence.links)
        assert presence.is_agent(str(address_of(KEYS["n1"], prefix_of())))
        assert not presence.is_agent(str(address_of(KEYS["n2"], prefix_of())))
        assert not presence.is_agent("::1")

    play(world, story)


def test_whom_a_node_agent_says_it_is_counts_by_its_key_alone(world):
    async def story(presence):
        lying = NodeAgentSpec(KEYS["n1"], str(address_of(KEYS["n2"], prefix_of())), ("10.0.0.1:1",), 7, 1280)
        world.control.agents, world.control.serving = {"n1": lying}, {"n1"}
        await until(presence.links)
        assert presence.is_agent(str(address_of(KEYS["n1"], prefix_of())))
        assert not presence.is_agent(lying.tunnel_address)

    play(world, story)


def test_up_is_when_every_agent_answers(world, monkeypatch):
    monkeypatch.setattr(cluster_module, "SETTLE_SECONDS", 15.0)

    async def story(presence):
        assert not presence.up
        world.control.agents = {node: spec(node) for node in ("n1", "n2")}
        world.control.serving = {"n1", "n2"}
        await until(lambda: len(presence.links()) == 2)
        world.link("n1").hear()
        assert not presence.up
        begun = time.monotonic()
        settling = asyncio.create_task(presence.settled())
        await asyncio.sleep(0.05)
        assert not settling.done()
        world.link("n2").hear()
        await settling
        assert time.monotonic() - begun < 10
        assert presence.up

    play(world, story)


def test_an_agent_that_does_not_answer_is_not_waited_for_without_end(world):
    async def story(presence):
        world.control.agents, world.control.serving = {"n1": spec("n1")}, {"n1"}
        begun = time.monotonic()
        await presence.settled()
        assert 0.35 <= time.monotonic() - begun < 10

    play(world, story)


def test_a_silent_agents_node_is_asked_for_who_it_is_now_and_the_old_key_is_forgotten(world):
    async def story(presence):
        world.control.agents, world.control.serving = {"n1": spec("n1")}, {"n1"}
        await until(presence.links)
        old = world.link("n1")
        old.hear()
        world.control.agents["n1"] = spec("n1-again")
        await asyncio.sleep(0.2)
        assert presence.links()["n1"] is old, "one that answers is not asked for"
        old.silent_for = 5.0
        await until(lambda: presence.links()["n1"] is not old)
        assert (old.closed, old.forgotten) == (True, True)
        assert presence.links()["n1"].agent.public_key == KEYS["n1-again"]
        assert not presence.is_agent(str(old.agent.address))

    play(world, story)


def test_after_a_goodbye_the_node_s_next_agent_is_looked_for_at_once(world, monkeypatch):
    monkeypatch.setattr(cluster_module, "ASK_AFTER", 5.0)
    monkeypatch.setattr(cluster_module, "ASK_GONE", 0.02)
    monkeypatch.setattr(cluster_module, "RETIRED_SECONDS", 0.2)

    async def story(presence):
        world.control.agents = {"n1": spec("n1")}
        world.control.serving = {"n1"}
        await until(presence.links)
        link = presence.links()["n1"]
        link.hear()
        asked = world.control.count("agent", "n1")
        # It has taken its part and itself back, as agents do that end.
        world.control.serving, world.control.agents = set(), {}
        link.up, link.gone = False, True
        link.changed(False)
        await until(lambda: world.control.count("agent", "n1") > asked + 3)
        world.control.agents = {"n1": spec("n2")}
        await until(lambda: presence.links()["n1"] is not link)
        assert link.closed
        assert not link.forgotten
        assert link.end.removed == [], "what it has under way may end"
        assert presence.links()["n1"].agent.public_key == spec("n2").public_key
        await until(lambda: link.end.removed == [spec("n1").public_key])

    play(world, story)


def test_a_silent_agent_that_is_the_same_keeps_its_link(world):
    async def story(presence):
        world.control.agents, world.control.serving = {"n1": spec("n1")}, {"n1"}
        await until(presence.links)
        world.link("n1").silent_for = 5.0
        before = world.control.count("agent", "n1")
        await until(lambda: world.control.count("agent", "n1") >= before + 2)
        assert len(world.links) == 1
        assert world.link("n1").nudges > 2

    play(world, story)


def test_a_node_that_serves_us_no_more_is_let_go_of_after_a_while(world):
    async def story(presence):
        world.control.agents = {node: spec(node) for node in ("n1", "n2")}
        world.control.serving = {"n1", "n2"}
        await until(lambda: len(presence.links()) == 2)
        world.control.serving = {"n1"}
        await asyncio.sleep(0.06)
        assert len(presence.links()) == 2, "a part that comes back at once finds its link"
        await until(lambda: set(presence.links()) == {"n1"})
        assert world.link("n2").forgotten

    play(world, story)


def test_a_node_keeps_its_link_while_connections_from_there_are_open(world):
    async def story(presence):
        world.control.agents = {"n1": spec("n1")}
        world.control.serving = {"n1"}
        await until(presence.links)
        link = presence.links()["n1"]
        world.busy.add(str(link.agent.address))
        world.control.serving = set()
        nudges = link.nudges
        await asyncio.sleep(0.5)  # three times as long as one that is not busy is kept
        assert link.nudges > nudges
        assert presence.links() == {"n1": link}
        world.busy.clear()
        await until(lambda: not presence.links())
        assert link.forgotten

    play(world, story)


def test_a_session_that_was_ended_is_made_anew_with_another_key(world):
    async def story(presence):
        world.control.agents, world.control.serving = {"n1": spec("n1")}, {"n1"}
        await until(presence.links)
        first = world.control.sessions.pop("bob-1")
        await until(lambda: "restored" in world.told)
        assert presence.name == "bob-2"
        assert world.control.sessions["bob-2"] != first
        assert world.ends[0].closed
        assert presence.tunnel is world.ends[1]
        await until(presence.links)
        assert presence.links()["n1"].end is world.ends[1]

    play(world, story)


def test_an_api_server_that_is_away_ends_nothing(world):
    async def story(presence):
        world.control.agents, world.control.serving = {"n1": spec("n1")}, {"n1"}
        await until(presence.links)
        world.link("n1").hear()
        world.control.away = True
        renewals = world.control.count("renew", "bob-1")
        await until(lambda: world.control.count("renew", "bob-1") >= renewals + 4)
        assert not await presence.agent_answers()
        assert presence.up
        assert len(world.ends) == 1
        world.control.away = False
        world.told.clear()
        await until(lambda: "renewed" in world.told)
        assert presence.name == "bob-1"
        assert "restored" not in world.told

    play(world, story)


def test_news_of_a_handler_needs_nobody_told(world):
    async def story(presence):
        presence.wake()
        await presence.renew()

    play(world, story)


def test_news_after_the_end_is_no_error(world):
    async def main():
        presence = world.presence()
        await presence.open()
        await presence.expect(Intercept("shop/a", "bob", "", "svc/orders", (), 80))
        await presence.end()

    asyncio.run(main())
    world.control.changed()


@pytest.mark.parametrize("event", ["_news", "_wake"])
def test_an_end_that_comes_with_news_is_the_end(world, event):
    async def main():
        presence = world.presence()
        await presence.open()
        keeper = asyncio.create_task(presence.run())
        await asyncio.sleep(0.03)
        getattr(presence, event).set()
        await asyncio.sleep(0)  # who waits for it is about to go on
        keeper.cancel()
        _, going_on = await asyncio.wait({keeper}, timeout=1)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        assert not going_on
        await presence.end()

    asyncio.run(main())


def test_a_device_that_died_is_made_anew_and_leaves_no_session(world):
    async def story(presence):
        world.ends[0].living = False
        await until(lambda: "restored" in world.told)
        assert presence.tunnel is world.ends[1]
        await until(lambda: set(world.control.sessions) == {"bob-2"})

    play(world, story)


def test_nodes_that_are_gone_do_not_keep_us_from_those_that_are_there(world, monkeypatch):
    monkeypatch.setattr(cluster_module, "NUDGE_EVERY", 0.1)  # as it is: half of ASK_AFTER
    monkeypatch.setattr(cluster_module, "ASK_AFTER", 0.2)
    monkeypatch.setattr(cluster_module, "RENEW_EVERY", 60.0)

    async def story(presence):
        world.control.agents = {"n9": spec("n3")}
        world.control.serving = {"n1", "n2", "n3", "n4", "n9"}
        await until(lambda: set(presence.links()) == {"n9"})

    play(world, story)


def test_an_agent_that_stays_silent_is_asked_for_less_and_less(world, monkeypatch):
    monkeypatch.setattr(cluster_module, "ASK_AFTER", 0.02)
    monkeypatch.setattr(cluster_module, "ASK_QUICKLY", 3)
    monkeypatch.setattr(cluster_module, "NUDGE_EVERY", 0.01)

    async def story(presence):
        world.control.serving = {"n1"}
        await asyncio.sleep(1.0)
        assert 3 <= world.control.count("agent", "n1") <= 9
        world.control.agents = {"n1": spec("n1")}
        await until(presence.links)

    play(world, story)


def test_the_quick_handshakes_are_for_the_first_seconds(world, monkeypatch):
    monkeypatch.setattr(cluster_module, "FIRST_NUDGES", 0.01)
    monkeypatch.setattr(cluster_module, "NUDGE_EVERY", 0.1)

    async def story(presence):
        world.control.agents, world.control.serving = {"n1": spec("n1")}, {"n1"}
        await until(presence.links)
        link = world.link("n1")
        await until(lambda: link.nudges > 10)
        link.silent_for = 60.0
        await asyncio.sleep(0.05)
        before = link.nudges
        await asyncio.sleep(0.5)
        assert link.nudges - before <= 6

    play(world, story)


@pytest.mark.parametrize("answers", [True, False])
def test_a_node_that_serves_us_again_is_met_anew_unless_it_answers(world, answers):
    async def story(presence):
        world.control.agents, world.control.serving = {"n1": spec("n1")}, {"n1"}
        world.control.changed()
        await until(presence.links)
        first = world.link("n1")
        if answers:
            first.hear()
        world.control.serving = set()
        await asyncio.sleep(0.1)  # in which its agent may have let go of us
        assert not first.closed
        world.control.serving = {"n1"}
        if answers:
            # What its agent sends at this moment would be lost while new keys are agreed on.
            await asyncio.sleep(0.3)
            assert not first.closed
        else:
            await until(lambda: presence.links() and presence.links()["n1"] is not first)
            assert first.forgotten
            assert world.link("n1").started
        assert (presence.links()["n1"] is first) is answers

    play(world, story)
