"""A worker or a supervisor that hangs: nobody waits for it, and it is found and replaced."""

import contextlib
import os
import signal
import socket
import threading
import time

import pytest
from agent_lab import Agent, wait_until
from books import judge
from laptops import Stage, answer, request
from worker_lab import answering

BLOCKS = """
import signal
def block(*_):
    while True:
        pass
signal.signal(signal.SIGUSR1, block)
"""
"""For every Python that starts below the agent: SIGUSR1 blocks its main thread for good."""

SIGN_OF_LIFE = 1.0
"""Seconds after which the kernel knows."""
SLACK = 1.5
"""Seconds for a machine that has other things to do."""
ENOUGH = 60
"""Requests over connections of their own that show it."""


@pytest.fixture
def own(tmp_path):
    """A stage at an agent of this test's own."""
    (tmp_path / "sitecustomize.py").write_text(BLOCKS)
    with contextlib.closing(Agent()) as agent:
        agent.start(f"import os; os.environ['PYTHONPATH'] = {str(tmp_path)!r}")
        with contextlib.closing(Stage(agent)) as stage:
            yield stage


def fresh(load, since):
    """How many were asked over connections of their own since then."""
    return sum(entry.at > since and not entry.kept for entry in load.entries)


def served(load, since):
    """All that was asked over connections of their own since then was answered, and soon; it was asked a lot."""
    late = [
        str(entry)
        for entry in load.entries
        if entry.at > since and not entry.kept and (entry.error or entry.seconds > SIGN_OF_LIFE + SLACK)
    ]
    assert late == []
    assert fresh(load, since) >= ENOUGH


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGUSR1], ids=["stopped", "blocked"])
def test_a_worker_that_hangs_is_passed_by_within_a_second_and_replaced(own, how):
    with own.load(rate=150) as load:
        load.wait_for(own.bob.name, own.bob.name)
        old = own.agent.worker()
        hung = time.monotonic()
        os.kill(old, how)
        wait_until(lambda: own.agent.worker() != old)
        assert own.control.info().worker_restarts == 1
        load.wait_for(own.bob.name, own.bob.name)
        wait_until(lambda: fresh(load, hung + SIGN_OF_LIFE + SLACK) >= ENOUGH, 20)
    served(load, hung + SIGN_OF_LIFE + SLACK)
    assert load.errors(hung + SIGN_OF_LIFE + SLACK) == []
    assert load.strays() == []
    assert judge(load, own.books, replays=True) == []


@pytest.mark.slow
def test_a_supervisor_that_is_stopped_is_missed_by_nobody(own):
    with own.load(rate=150) as load:
        load.wait_for(own.bob.name, own.bob.name)
        pid = own.agent.process.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            stopped = time.monotonic()
            time.sleep(7)
        finally:
            os.kill(pid, signal.SIGCONT)
        load.wait_for(own.bob.name, own.bob.name, 20)
    served(load, stopped)
    assert load.errors() == []
    assert load.closed() == []
    assert judge(load, own.books, replays=True) == []


def probe(own, family):
    """Who answers a request over a connection of its own that no ledger knows."""
    with own.connect(family=family) as sock:
        sock.sendall(request())
        return answer(sock)


@pytest.mark.slow
def test_both_stopped_new_connections_are_the_app_s_within_a_second(own):
    with own.load(rate=150) as load:
        load.wait_for(own.bob.name, own.bob.name)
        pids = own.agent.process.pid, own.agent.worker()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(SIGN_OF_LIFE + SLACK)
            # The ledger's clients wait by now: the kernel had given the worker what they asked in the first second.
            for family in (4, 6) * 50:
                began = time.monotonic()
                assert probe(own, family) == (200, "app")
                assert time.monotonic() - began < SIGN_OF_LIFE + SLACK
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        load.wait_for(own.bob.name, own.bob.name, 20)
    assert load.strays() == []
    assert judge(load, own.books, replays=True) == []


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_handler_that_is_too_busy_to_accept_is_waited_for_while_its_laptop_is_heard(scene, method):
    """Its queue of connections is full for 1.5 s, so that the kernel drops the session daemon's SYN."""
    scene.app(answering("app"))
    scene.bob.handler.close()
    with contextlib.ExitStack() as stack:
        handler = stack.enter_context(scene.bob.laptop.socket(socket.AF_INET, socket.SOCK_STREAM))
        handler.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        handler.bind(("127.0.0.1", 8080))
        handler.listen(0)
        scene.intercept()
        for _ in range(2):
            waiting = stack.enter_context(scene.bob.laptop.socket(socket.AF_INET, socket.SOCK_STREAM))
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", 8080))

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    sock = stack.enter_context(handler.accept()[0])
                    threading.Thread(target=answering("bob"), args=(sock,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        with scene.connect() as sock:
            sock.sendall(scene.matched(method, body=b"abc" if method == b"POST" else b""))
            time.sleep(1.5)
            thread.start()
            assert answer(sock) == (200, "bob 3" if method == b"POST" else "bob 0")
        handler.shutdown(socket.SHUT_RDWR)
        thread.join(5)
