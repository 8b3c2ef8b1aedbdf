"""An agent that may have few file descriptors: nobody is turned away, and it recovers by itself."""

import contextlib
import time

import pytest
from agent_lab import GET, Agent, AgentLab, ask, wait_until


@contextlib.contextmanager
def limited(descriptors, pods=1):
    """A lab whose agent and worker may have so many file descriptors."""
    with contextlib.closing(Agent()) as agent:
        agent.start(through=("prlimit", f"--nofile={descriptors}:{descriptors}"))
        with contextlib.closing(AgentLab(agent, pods)) as lab:
            lab.session()
            yield lab


def served(sock):
    """Whether a client of the app is: it asks and is answered over its kept connection."""
    try:
        sock.sendall(GET % b"")
        return sock.recv(1000).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


@pytest.mark.slow
def test_when_the_worker_has_no_descriptors_left_the_app_takes_new_clients_and_later_the_worker_again():
    with limited(800) as small, contextlib.ExitStack() as clients:
        small.nginx()
        small.create()
        assert ask(small.net) == (200, "the app")

        def target():
            return small.control.status().targets[0]

        open_ = []
        for _ in range(400):
            sock = clients.enter_context(small.net.connect(8080))
            open_.append(sock)
            assert served(sock)
        wait_until(lambda: target().open > 50)
        assert target().open < 300
        assert not target().ready
        assert target().reason == "the worker is out of file descriptors"
        assert all(served(sock) for sock in open_)
        clients.close()
        wait_until(lambda: target().ready)
        assert target().reason == ""
        before = target().requests
        assert ask(small.net) == (200, "the app")
        wait_until(lambda: target().requests == before + 1)
        assert len(small.control.info().worker_pids) == 1
        assert small.control.info().worker_restarts == 0


@pytest.mark.slow
@pytest.mark.parametrize("descriptors", [128, 320])
def test_a_hundred_clients_at_once_are_all_served_whatever_there_is(descriptors):
    with limited(descriptors) as small:
        small.nginx()
        small.create()
        for _ in range(2):
            with contextlib.ExitStack() as clients:
                open_ = [clients.enter_context(small.net.connect(8080)) for _ in range(100)]
                assert [number for number, sock in enumerate(open_) if not served(sock)] == []
                assert [number for number, sock in enumerate(open_) if not served(sock)] == []
            # It recovers alone: what comes now passes through the worker again.
            before = small.control.status().targets[0].requests

            def passes(before=before):
                assert ask(small.net) == (200, "the app")
                return small.control.status().targets[0].requests > before

            wait_until(passes, 10)
        assert small.control.info().worker_restarts == 0


@pytest.mark.slow
def test_a_thousand_idle_connections_of_one_target_starve_no_other():
    with limited(3000, pods=2) as small, contextlib.ExitStack() as clients:
        for pod in small.net.pods:
            pod.app(8080, "the app")
        small.create(target=f"tpn-{small.net.tag}-pod*")
        one, other = small.net.pods
        idle = [clients.enter_context(small.net.connect(8080, pod=one)) for _ in range(1000)]
        assert all(served(sock) for sock in idle)
        for _ in range(2):
            for _ in range(50):
                began = time.monotonic()
                assert ask(small.net, pod=other) == (200, "the app")
                assert time.monotonic() - began < 2
            at_once = [clients.enter_context(small.net.connect(8080, pod=other)) for _ in range(100)]
            assert all(served(sock) for sock in at_once)
        assert all(served(sock) for sock in idle)
