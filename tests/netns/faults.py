"""What is done to an agent and its developer under load, for tests and for the soak: each step ends when all is well again.

Every step is told by what it may do to a request: ``HARMLESS`` ones nobody may notice, ``CUTTING`` ones may end what is
under way through what they kill. None may lead a request astray.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from agent_lab import wait_until
from ledger import Outcome
from networks import dropped
from worker_lab import reset

CUT_SECONDS = 3.0
"""Seconds after a cutting step in which what it killed, or the kernel had given it, may yet fail."""


def settled(stage, load):
    """Until bob is served again, over new connections that are made from now on."""
    load.wait_for(stage.bob.name, stage.bob.name, 25, since=time.monotonic())


def restart(stage, load):
    """An orderly end, and the next agent at once, as an upgrade does it."""
    agent = stage.agent
    old = agent.process
    old.terminate()
    try:
        agent.start()
        settled(stage, load)
        assert old.wait(60) == 0, agent.words()
    finally:
        old.kill()
        old.wait()


def overlapping_restart(stage, load):
    """The same, and the next step may come while the old agent waits for what is under way; see ``Watch.ended``."""
    old = stage.agent.process
    old.terminate()
    stage.ending.append(old)
    stage.agent.start()
    settled(stage, load)


def leave_and_return(stage, load):
    stage.bob.remove()
    load.wait_for(stage.bob.name, "app", since=time.monotonic())
    stage.bob.start_session()
    stage.intercept()


def supervisor_stops(stage, load, seconds=3.0):
    os.kill(stage.agent.process.pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        os.kill(stage.agent.process.pid, signal.SIGCONT)


def idle_clients(stage, load, count=200):
    """A crowd that connects, says nothing, and goes, half of it with RST."""
    with contextlib.ExitStack() as clients:
        socks = [clients.enter_context(stage.connect()) for _ in range(count)]
        time.sleep(0.5)
        for sock in socks[::2]:
            reset(sock)


def clients_vanish(stage, load, count=30):
    """Clients of which nothing is heard any more, some of them in the middle of a request."""
    with contextlib.ExitStack() as clients:
        socks = [clients.enter_context(stage.connect()) for _ in range(count)]
        for number, sock in enumerate(socks):
            sock.sendall((b"", b"GET / HT", b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nabc")[number % 3])
        ports = ", ".join(str(sock.getsockname()[1]) for sock in socks)
        with (
            dropped(stage.net.client, f"meta l4proto tcp th dport {{ {ports} }}"),
            contextlib.suppress(OSError),
        ):
            time.sleep(0.5)
            clients.close()
            time.sleep(1)


def other_rules(stage, load):
    """A colleague of bob's comes and goes on the same port."""
    stage.bob.add(stage.lab, "other", headers=stage.headers("somebody"))
    time.sleep(0.3)
    stage.bob.remove("other")


def worker_dies(stage, load):
    old = stage.agent.worker()
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: stage.agent.worker() != old)


def worker_hangs(stage, load):
    old = stage.agent.worker()
    os.kill(old, signal.SIGSTOP)
    wait_until(lambda: stage.agent.worker() != old)


def agent_dies(stage, load):
    stage.agent.kill()
    time.sleep(0.5)
    stage.agent.start()


def tunnel_dies(stage, load, seconds=3.0):
    with dropped(stage.bob.laptop, "meta l4proto udp"):
        time.sleep(seconds)


def handler_restarts(stage, load):
    stage.bob.handler.close()
    load.wait_for(stage.bob.name, "app", since=time.monotonic())
    stage.serve()


HARMLESS = (
    restart,
    overlapping_restart,
    leave_and_return,
    supervisor_stops,
    idle_clients,
    clients_vanish,
    other_rules,
)
CUTTING = (worker_dies, worker_hangs, agent_dies, tunnel_dies, handler_restarts)


class Watch:
    """Runs steps, and knows which entries each may have harmed."""

    def __init__(self, stage, load):
        self._stage, self._load = stage, load
        self._cuts: list[tuple[float, float]] = []

    def run(self, step):
        began = time.monotonic()
        step(self._stage, self._load)
        settled(self._stage, self._load)
        if step in CUTTING:
            self._cuts.append((began, time.monotonic() + CUT_SECONDS))

    def ended(self, seconds=60):
        """Wait until the agents that were told to end have, in an orderly way; to be called once the load has stopped."""
        for old in self._stage.ending:
            assert old.wait(seconds) == 0, self._stage.agent.words()

    def harmed(self):
        """The entries that failed and that no step explains."""
        return harmed(self._load.entries, self._cuts)


def harmed(entries, cuts=()):
    """The entries that failed, outside of these spans of time."""
    return [
        entry
        for entry in entries
        if entry.outcome is not Outcome.OK
        # A kept connection that was seen to have ended: a client connects anew.
        and not (entry.outcome is Outcome.REFUSED and entry.kept)
        and not any(entry.at < until and entry.at + entry.seconds > since for since, until in cuts)
    ]


def away(load, header):
    """The longest time for which this developer's requests over new connections went to the app, in seconds."""
    longest, since = 0.0, None
    for entry in sorted(load.entries, key=lambda entry: entry.at):
        if entry.header != header or entry.kept or entry.outcome is not Outcome.OK or entry.seconds > 2:
            continue
        if entry.answered == header:
            since = None
        else:
            since = since or entry.at
            longest = max(longest, entry.at - since)
    return longest
