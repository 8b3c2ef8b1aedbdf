"""The worker's event loop: level-triggered epoll, one handler per file descriptor, and coarse deadlines.

``tpnet.proxy.worker`` runs it; connections register with it. It must never give the events of a descriptor
that was closed in this round to a socket that has got the same descriptor since.
"""

from __future__ import annotations

import math
import select
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tpnet.proxy.transport import Socket

IN = select.EPOLLIN
OUT = select.EPOLLOUT
PRI = select.EPOLLPRI
ERR = select.EPOLLERR
HUP = select.EPOLLHUP

TICK = 0.1
"""Seconds between two looks at the deadlines, while there is one that may be near."""
_IDLE_TICK = 1.0
BEAT_EVERY = 0.1
"""Seconds between two signs of life, at least."""
_IDLE_BEAT = 0.25
"""And at most, when nothing happens."""
_ROUND = 512
"""Events taken from the kernel at once."""

Handler = Callable[[int], None]


class Deadlines:
    """Things that are to end ``seconds`` after they were added, all with the same patience.

    Adding and discarding cost a dict operation; nothing is kept for what was discarded. ``expire`` is called
    once for each that is overdue, at most ``TICK`` late, or a second with ``near`` false.
    """

    __slots__ = ("_due", "_expire", "_loop", "_seconds", "near")

    def __init__(
        self, loop: Loop, seconds: float, expire: Callable[[Any], None], *, near: bool = True
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._expire = expire
        self._due: dict[Any, float] = {}
        self.near = near
        loop.deadlines.append(self)

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, thing: Any) -> bool:
        return thing in self._due

    def add(self, thing: Any) -> None:
        """Start (or start again) the time of ``thing``."""
        loop = self._loop
        self._due.pop(thing, None)
        self._due[thing] = loop.now + self._seconds
        if self.near and loop.next_tick > loop.now + TICK:
            loop.next_tick = loop.now + TICK

    def discard(self, thing: Any) -> None:
        """Forget ``thing``, which may not be there."""
        self._due.pop(thing, None)

    def run(self, now: float) -> None:
        """Expire what is overdue. Insertion order is the order of deadlines: the patience is the same."""
        overdue = []
        for thing, due in self._due.items():
            if due > now:
                break
            overdue.append(thing)
        for thing in overdue:
            if self._due.pop(thing, None) is not None:
                self._expire(thing)


class Loop:
    """One thread's loop. ``now`` is the monotonic time of the current round.

    ``handlers`` maps a descriptor to what is called with its events; users of the loop write it directly,
    together with ``epoll``. ``deadlines`` are looked at each ``TICK``, ``ticks`` called then too. ``sockets``
    counts those that are open; who opens one adds it.
    """

    __slots__ = (
        "_beat", "_beaten", "_closed", "_running", "deadlines", "epoll", "handlers", "next_tick", "now",
        "on_error", "sockets", "ticks",
    )  # fmt: skip

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.handlers: dict[int, Handler] = {}
        self.deadlines: list[Deadlines] = []
        self.ticks: list[Callable[[float], None]] = []
        self.now = time.monotonic()
        self.next_tick = 0.0
        self.sockets = 0
        self.on_error: Callable[[BaseException], None] = report
        self._closed: set[int] = set()  # in this round: its events for these are stale
        self._running = False
        self._beat: Callable[[], None] = lambda: None
        self._beaten = math.inf

    def give_signs(self, beat: Callable[[], None]) -> None:
        """Call ``beat`` in every round from now on, but ten times a second at most, and four times at least.

        A handler that does not return, or a process that is stopped, gives none.
        """
        self._beat = beat
        self._beaten = 0.0

    def add(self, fd: int, events: int, handler: Handler) -> None:
        """Call ``handler`` with the events of ``fd`` from now on."""
        self.handlers[fd] = handler
        self.epoll.register(fd, events)

    def close(self, sock: Socket) -> None:
        """Close a socket; its handler is not called again.

        At once, since who closes first keeps the port in TIME_WAIT, and that should be the one that closes without us.
        The kernel takes a closed descriptor out of the epoll set by itself, provided that nobody else holds a
        duplicate. That is so for everything but listeners, which are unregistered by their owner.
        """
        fd = sock.fileno()
        self.handlers.pop(fd, None)
        self.sockets -= 1
        self._closed.add(fd)
        sock.close()

    def stop(self) -> None:
        """End ``run`` after this round."""
        self._running = False

    def run(self) -> None:
        """Serve until ``stop``. An exception of a handler is given to ``on_error``; the loop lives on."""
        self._running = True
        poll, handlers, closed, monotonic = self.epoll.poll, self.handlers, self._closed, time.monotonic
        while self._running:
            events = poll(max(min(self.next_tick, self._beaten + _IDLE_BEAT) - monotonic(), 0.0), _ROUND)
            self.now = now = monotonic()
            if now - self._beaten >= BEAT_EVERY:
                self._beaten = now
                self._beat()
            for fd, mask in events:
                handler = handlers.get(fd)
                if handler is not None and not (closed and fd in closed):
                    try:
                        handler(mask)
                    except Exception as error:  # noqa: BLE001 - one's failure must not end the others
                        self._failed(handler, error)
            if now >= self.next_tick:
                self._tick(now)
                near = any(len(deadlines) and deadlines.near for deadlines in self.deadlines)
                self.next_tick = now + (TICK if near else _IDLE_TICK)
            if closed:
                closed.clear()

    def _tick(self, now: float) -> None:
        for run in (*(deadlines.run for deadlines in self.deadlines), *self.ticks):
            try:
                run(now)
            except Exception as error:  # noqa: BLE001 - as above
                self.on_error(error)

    def _failed(self, handler: Handler, error: Exception) -> None:
        self.on_error(error)
        owner = getattr(handler, "__self__", None)
        fail = getattr(owner, "fail", None)
        if fail is not None:
            try:
                fail()
            except Exception as again:  # noqa: BLE001 - as above
                self.on_error(again)


def report(error: BaseException) -> None:
    """One line on stderr: what kind of error and where, never its text, which may hold a peer's bytes."""
    where = "?"
    trace = error.__traceback__
    while trace is not None:
        where = f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    print(f"tpnet worker: {type(error).__name__} at {where}", file=sys.stderr, flush=True)  # noqa: T201
