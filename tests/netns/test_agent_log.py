"""An agent whose log leads nowhere serves as if nothing was."""

import contextlib
import os
import pty
import termios
import time

import pytest
from agent_lab import Agent, AgentLab, ask, wait_until

# Little room, so that a few calls of the test fill it.
SMALL = "import tpnet.log as log\nlog.ROOM = 300"


def nobody_reads(stack):
    read, write = os.pipe()
    stack.callback(os.close, read)
    stack.callback(os.close, write)
    os.set_blocking(write, False)
    size = 1 << 12
    while size:
        try:
            os.write(write, b"." * size)
        except BlockingIOError:
            size //= 2
    os.set_blocking(write, True)
    return write, read


def stopped_terminal(stack):
    """A terminal on which somebody has typed Ctrl-S."""
    master, slave = pty.openpty()
    stack.callback(os.close, master)
    stack.callback(os.close, slave)
    termios.tcflow(slave, termios.TCOOFF)
    return slave, None


def full_disk(stack):
    return stack.enter_context(open("/dev/full", "wb")).fileno(), None


@pytest.mark.parametrize("behind", [nobody_reads, stopped_terminal, full_disk])
def test_an_agent_whose_log_nobody_takes_answers_intercepts_and_serves(behind):
    with contextlib.ExitStack() as stack:
        stderr, reader = behind(stack)
        agent = stack.enter_context(contextlib.closing(Agent()))
        agent.process = agent.launch(SMALL, stderr=stderr)
        wait_until(agent.answers, 20)
        lab = stack.enter_context(contextlib.closing(AgentLab(agent)))
        lab.nginx()
        lab.session()
        for turn in range(3):
            lab.create()
            wait_until(lambda: lab.control.status().targets[0].ready)
            assert ask(lab.net) == (200, "the app")
            os.kill(agent.worker(), 9)  # of this there is much to be said
            wait_until(lambda turn=turn: lab.control.info().worker_restarts == turn + 1)
            wait_until(lambda: lab.control.status().targets[0].ready)
            lab.control.delete_intercept("orders-bob", "bob")
        if reader is not None:
            assert b" lines were dropped" in read_all(reader)
        assert agent.stop() == 0


def read_all(fd, seconds=10):
    data = b""
    ends = time.monotonic() + seconds
    os.set_blocking(fd, False)
    while b"dropped" not in data and time.monotonic() < ends:
        with contextlib.suppress(BlockingIOError):
            data += os.read(fd, 1 << 16)
        time.sleep(0.01)
    return data
