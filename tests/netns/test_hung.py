"""A worker or a supervisor that hangs: nobody waits for it, and it is found and replaced."""

import contextlib
import os
import signal
import time

import pytest
from agent_lab import Agent, wait_until
from books import judge
from laptops import Stage, answer, request

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


@pytest.fixture
def own(tmp_path):
    """A stage at an agent of this test's own."""
    (tmp_path / "sitecustomize.py").write_text(BLOCKS)
    with contextlib.closing(Agent()) as agent:
        agent.start(f"import os; os.environ['PYTHONPATH'] = {str(tmp_path)!r}")
        with contextlib.closing(Stage(agent)) as stage:
            yield stage


def served(own, load, since):
    """All that was asked over connections of their own since then was answered, and soon; it was asked a lot."""
    late = [
        str(entry)
        for entry in load.entries
        if entry.at > since and not entry.kept and (entry.error or entry.seconds > SIGN_OF_LIFE + SLACK)
    ]
    assert late == []
    assert sum(entry.at > since and not entry.kept for entry in load.entries) > 50


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGUSR1], ids=["stopped", "blocked"])
def test_a_worker_that_hangs_is_passed_by_within_a_second_and_replaced(own, how):
    with own.load(rate=150) as load:
        load.wait_for(own.bob.name, own.bob.name)
        old = own.agent.worker()
        hung = time.monotonic()
        os.kill(old, how)
        wait_until(lambda: own.agent.worker() != old, 10)
        assert own.control.info().worker_restarts == 1
        load.wait_for(own.bob.name, own.bob.name)
        time.sleep(max(0.0, hung + SIGN_OF_LIFE + SLACK + 1.5 - time.monotonic()))
    served(own, load, hung + SIGN_OF_LIFE + SLACK)
    assert load.errors(hung + SIGN_OF_LIFE + SLACK) == []
    assert load.strays() == []
    assert judge(load, own.books, replays=True) == []


def test_a_supervisor_that_is_stopped_is_missed_by_nobody(own):
    with own.load(rate=150) as load:
        load.wait_for(own.bob.name, own.bob.name)
        pid = own.agent.process.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            stopped = time.monotonic()
            time.sleep(7)
            gone_on = time.monotonic()
        finally:
            os.kill(pid, signal.SIGCONT)
        load.wait_for(own.bob.name, own.bob.name, 20)
    served(own, load, stopped)
    assert sum(stopped < entry.at < gone_on - 1 for entry in load.entries) > 300
    assert load.errors() == []
    assert load.closed() == []
    assert judge(load, own.books, replays=True) == []


def probe(own, family):
    """Who answers a request over a connection of its own that no ledger knows."""
    with own.connect(family=family) as sock:
        sock.sendall(request())
        return answer(sock)


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
