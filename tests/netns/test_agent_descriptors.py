"""A supervisor whose descriptors are all in use: what cannot be served goes to the app, and it recovers alone."""

import contextlib
import resource
from pathlib import Path

import pytest
from agent_lab import Agent, AgentLab, ask, wait_until


@pytest.fixture
def lab():
    with contextlib.closing(Agent()) as agent:
        agent.start()
        with contextlib.closing(AgentLab(agent)) as lab:
            lab.nginx()
            lab.session()
            lab.create()
            wait_until(lambda: lab.control.status().targets[0].ready)
            yield lab


@contextlib.contextmanager
def no_room(pid, free):
    """The process may open so few more descriptors."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = {int(one.name) for one in Path(f"/proc/{pid}/fd").iterdir()}
    limit = sorted(set(range(len(used) + free + 1)) - used)[free]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("free", [0, 3, 12])
def test_clients_are_the_apps_while_no_socket_can_be_made_and_the_workers_again_afterwards(lab, free):
    pid = lab.agent.process.pid
    with no_room(pid, free):
        for _ in range(300):  # many times what was prepared
            assert ask(lab.net) == (200, "the app")
        assert lab.agent.process.poll() is None
    wait_until(lambda: lab.control.status().targets[0].ready)

    def served():
        return lab.control.status().targets[0].requests

    before = served()
    wait_until(lambda: ask(lab.net) == (200, "the app") and served() > before)
    assert lab.control.info().worker_restarts == 0
    assert lab.agent.words().count("no sockets could be prepared") <= 1
