"""An agent whose output goes nowhere: a pipe that nobody reads, a disk that is full, a reader that has gone."""

import contextlib
import fcntl
import os
import signal

import pytest
from agent_lab import Agent, wait_until
from books import judge
from laptops import Stage


class Unread:
    """A pipe that is full, once ``fill`` was called, and that nobody reads."""

    def __init__(self):
        self._read, self.fd = os.pipe()
        fcntl.fcntl(self.fd, fcntl.F_SETPIPE_SZ, 4096)

    def fill(self):
        # Of its own, since O_NONBLOCK is the open file's, which is the agent's too.
        own = os.open(f"/proc/self/fd/{self.fd}", os.O_WRONLY | os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(own, b"x")
        os.close(own)

    def close(self):
        os.close(self._read)
        os.close(self.fd)


class Full:
    """A file on a disk that is full."""

    def __init__(self):
        self.fd = os.open("/dev/full", os.O_WRONLY)

    def fill(self):
        pass

    def close(self):
        os.close(self.fd)


class Left:
    """A pipe whose reader goes."""

    def __init__(self):
        self._read, self.fd = os.pipe()

    def fill(self):
        os.close(self._read)

    def close(self):
        os.close(self.fd)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Unread, Full, Left])
def test_output_that_goes_nowhere_holds_nobody_up(kind):
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(contextlib.closing(kind()))
        agent = stack.enter_context(contextlib.closing(Agent()))
        agent.start(stderr=output.fd)
        stage = stack.enter_context(contextlib.closing(Stage(agent)))
        with stage.load(rate=100) as load:
            load.wait_for(stage.bob.name, stage.bob.name)
            output.fill()
            for number in range(30):  # each is said, and more than 4 KiB in all
                stage.bob.add(stage.lab, f"more{number}", headers=stage.headers(f"other{number}"))
                stage.bob.remove(f"more{number}")
            assert load.errors() == []
            assert load.closed() == []
            load.wait_for(stage.bob.name, stage.bob.name)
            old = agent.worker()
            os.kill(old, signal.SIGKILL)
            wait_until(lambda: agent.worker() != old)
            load.wait_for(stage.bob.name, stage.bob.name)
        assert judge(load, stage.books, replays=True) == []
        assert agent.stop() == 0
