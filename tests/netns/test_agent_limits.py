"""An agent that may have few file descriptors: nobody is turned away, and it recovers by itself."""

import contextlib
import os
import signal
import socket
import time

import pytest
from agent_lab import GET, Agent, AgentLab, ask, ip, settled, wait_until

from tpnet.agent.status import memory_kib


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


def came_by(lab, pod):
    """Requests that the worker has seen of a pod."""
    name = f"netns/{pod.name}"
    return next(one.requests for one in lab.control.status().targets if one.name == name)


@contextlib.contextmanager
def from_address(lab, address, pod):
    """A connection of another client."""
    with lab.net.client.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(5)
        sock.bind((address, 0))
        sock.connect((pod.address[4], 8080))
        yield sock


@pytest.mark.slow
def test_one_address_takes_a_share_of_the_descriptors_and_the_app_has_the_rest(descriptors=2000):
    with limited(descriptors) as small, contextlib.ExitStack() as clients:
        small.nginx()
        small.create()
        assert ask(small.net) == (200, "the app")
        ip("-n", small.net.client_name, "addr", "add", "10.77.1.77/24", "dev", "pod1")

        def target():
            return small.control.status().targets[0]

        open_ = []
        for _ in range(450):
            sock = clients.enter_context(small.net.connect(8080))
            open_.append(sock)
            assert served(sock)
        wait_until(lambda: target().open > 50)
        assert target().open < descriptors // 6
        assert target().ready, "for others it is there"
        assert small.agent.words().count("out of file descriptors") == 0
        # Another client is the worker's yet.
        before = settled(lambda: target().requests)
        with from_address(small, "10.77.1.77", small.pod) as other:
            assert served(other)
            wait_until(lambda: target().requests == before + 1)
        assert all(served(sock) for sock in open_)
        clients.close()

        def again():
            before = target().requests
            assert ask(small.net) == (200, "the app")
            time.sleep(1.1)
            return target().requests > before

        wait_until(again, 15)
        assert len(small.control.info().worker_pids) == 1
        assert small.control.info().worker_restarts == 0


@pytest.mark.slow
def test_of_a_worker_that_is_replaced_nobody_s_share_is_left(descriptors=2000):
    """Who was passed by is the worker's again when the one that passed it by is gone."""
    with limited(descriptors) as small, contextlib.ExitStack() as clients:
        small.nginx()
        small.create()
        for _ in range(450):
            clients.enter_context(small.net.connect(8080))
        os.kill(small.agent.worker(), signal.SIGKILL)
        clients.close()

        def again():
            status = small.control.status().targets[0]
            assert ask(small.net) == (200, "the app")
            time.sleep(1.1)
            return small.control.status().targets[0].requests > status.requests

        wait_until(again, 15)


HEAD = b"GET / HTTP/1.1\r\nhost: shop\r\nx: "


@pytest.mark.slow
def test_heads_that_never_end_take_a_share_of_the_memory_and_the_app_has_the_rest():
    with limited(20_000) as small, contextlib.ExitStack() as clients:
        small.pod.app(8080, "the app")
        small.create()
        ip("-n", small.net.client_name, "addr", "add", "10.77.1.77/24", "dev", "pod1")
        assert ask(small.net) == (200, "the app")
        worker = small.agent.worker()
        before = memory_kib([worker])
        for _ in range(1200):
            sock = clients.enter_context(small.net.connect(8080))
            sock.sendall(HEAD + b"x" * 60_000)

        def held():
            return small.control.status().targets[0].verdicts.get("P", 0)

        wait_until(lambda: held() > 700, 20, held)
        grown = memory_kib([worker]) - before
        assert grown < 60_000, "of 70 MB"
        # Another client's long head is the worker's to decide yet.
        with from_address(small, "10.77.1.77", small.pod) as other:
            other.sendall(HEAD + b"x" * 40_000)
            time.sleep(0.3)
            other.sendall(b"\r\ncoder: bob\r\n\r\n")
            assert other.recv(1000).startswith(b"HTTP/1.1 200")
            # It is matched; its session is nobody's, so that the app answered.
            wait_until(lambda: sum(small.control.status().intercepts[0].reasons.values()) == 1)


@pytest.mark.slow
@pytest.mark.parametrize("descriptors", [128, 320])
def test_a_hundred_clients_at_once_are_all_served_whatever_there_is(descriptors):
    with limited(descriptors) as small:
        small.nginx()
        small.create()
        for _ in range(2):
            with contextlib.ExitStack() as clients:
                open_ = [clients.enter_context(small.net.connect(8080, timeout=10)) for _ in range(100)]
                for _ in range(2):
                    missed = [number for number, sock in enumerate(open_) if not served(sock)]
                    assert missed == [], small.control.status()
            # It recovers alone: what comes now passes through the worker again.
            before = small.control.status().targets[0].requests

            def passes(before=before):
                assert ask(small.net) == (200, "the app")
                return small.control.status().targets[0].requests > before

            wait_until(passes)
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
            seen = settled(lambda: came_by(small, other))
            for _ in range(50):
                began = time.monotonic()
                assert ask(small.net, pod=other) == (200, "the app")
                assert time.monotonic() - began < 10
            wait_until(
                lambda seen=seen: came_by(small, other) == seen + 50, why=lambda: came_by(small, other)
            )
            # Of a burst the app has what comes faster than sockets are prepared.
            at_once = [clients.enter_context(small.net.connect(8080, pod=other)) for _ in range(100)]
            assert all(served(sock) for sock in at_once)
            wait_until(
                lambda seen=seen: came_by(small, other) > seen + 100, why=lambda: came_by(small, other)
            )
        assert all(served(sock) for sock in idle)
