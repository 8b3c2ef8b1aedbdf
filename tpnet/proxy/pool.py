"""Prepared sockets, which the supervisor makes: asked for ahead of need, handed out, waited for in order.

A worker may make no socket in another namespace. So it is told with every change how well a pool stands: new clients go
to the app, without us, as soon as there is nothing to serve them with; who has been accepted waits for as long as it
takes. Must never ask for more than ``ask`` lets it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

from tpnet.kernel.signs import Level

if TYPE_CHECKING:
    from collections.abc import Callable

    from tpnet.proxy.loop import Loop
    from tpnet.proxy.transport import Socket

LATE = 0.005
"""Seconds that who makes sockets may take. When few are left after that, new clients are left to the app: if he has
stopped, those that come by then wait for him."""
ASK_AGAIN = 1.0
"""Seconds after which a request for sockets that was not answered in full is made again."""

CROWD = 128
"""Those who may wait; more clients wait in the kernel's queue."""


class Waiting(Protocol):
    """Something that wants a prepared socket."""

    def given(self, sock: Socket) -> None:
        """Here it is."""


class SocketPool:
    """Prepared sockets of one kind, asked for ahead: at least a handful, and what goes within a second.

    ``tell_level(level)`` is told how well it stands, each time that changes. It begins at ``LOW``.
    """

    __slots__ = (
        "_ask", "_asked", "_asked_at", "_declines", "_denied", "_least", "_loop", "_most", "_short_since", "_taken",
        "_want", "level", "ready", "tell_level", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        loop: Loop,
        least: int,
        most: int,
        ask: Callable[[int], int],
        tell_level: Callable[[Level], None] = lambda _level: None,
    ) -> None:
        """``ask`` asks for so many, or for fewer, and says for how many it did."""
        self._loop = loop
        self._ask = ask
        self._least = min(least, most)
        self._most = most
        self._want = self._least
        self._asked = 0
        self._asked_at = 0.0
        self._taken = 0
        self._declines = False
        self._denied = False  # there is no room for what is missing: waiting does not help
        self.level = Level.LOW
        self._short_since = math.inf
        self.tell_level = tell_level
        self.ready: list[Socket] = []
        self.waiting: dict[Waiting, None] = {}

    def take(self) -> Socket | None:
        """A prepared socket, or ``None`` while there is none; ask for more in time."""
        self._taken += 1
        if self._taken > self._want:
            self._want = min(self._want * 2, self._most)
        if self.ready:
            sock = self.ready.pop()
            self._loop.sockets -= 1
            if len(self.ready) * 2 <= self._want:
                if (len(self.ready) + self._asked) * 2 <= self._want:
                    self.refill()
                self._look()
            return sock
        self._want = min(self._want * 2, self._most)
        self.refill()
        self._look()
        return None

    def wait(self, waiting: Waiting) -> None:
        """Give ``waiting`` a socket, in turn, when there is one."""
        self.waiting[waiting] = None
        self.refill()

    def refill(self) -> None:
        """Ask for what is missing, unless that was asked for already."""
        loop = self._loop
        if self._asked and loop.now - self._asked_at > ASK_AGAIN:
            loop.sockets -= self._asked
            self._asked = 0
        missing = self._want + len(self.waiting) - len(self.ready) - self._asked
        self._denied = False
        if missing > 0:
            self._short_since = min(self._short_since, loop.now)
            if not self._asked:
                self._asked_at = loop.now
            asked = self._ask(missing)
            self._denied = asked < missing
            loop.sockets += asked  # they need room from now on
            self._asked += asked

    def add(self, socks: list[Socket]) -> None:
        """Take what the supervisor prepared; those who wait for one are served first, in their order."""
        asked = min(self._asked, len(socks))
        self._asked -= asked
        self._loop.sockets += len(socks) - asked
        self.ready.extend(socks)
        while self.waiting and self.ready:
            waiting = next(iter(self.waiting))
            del self.waiting[waiting]
            self._loop.sockets -= 1
            waiting.given(self.ready.pop())
        if socks:
            self._asked_at = self._loop.now
            self._short_since = self._loop.now if self._asked else math.inf
        self._look()

    def tick(self) -> None:
        """Once a second: have as many ahead as were taken, or fewer, and ask again for what never came."""
        if self._taken * 4 < self._want:
            self._want = max(self._want // 2, self._least)
            while len(self.ready) > self._want:
                self._loop.close(self.ready.pop(0))
        else:
            self._want = max(self._want, min(self._taken, self._most))
        self._taken = 0
        if len(self.ready) * 2 <= self._want:
            self.refill()
        self._look()

    def _look(self) -> None:
        if len(self.ready) * 2 > self._want:
            level = Level.SERVES
        elif len(self.ready) * 8 > self._want or not self._late:
            level = Level.LOW
        else:
            level = Level.AWAY  # who makes sockets does not, or cannot
        if level is not self.level:
            self.level = level
            if not self._declines:
                self.tell_level(level)

    @property
    def _late(self) -> bool:
        return self._denied or self._loop.now - self._short_since >= LATE

    def decline(self, *, declines: bool) -> None:
        """Leave new clients to the app whatever there is, or no longer."""
        self._declines = declines
        self.tell_level(Level.AWAY if declines else self.level)

    def close(self) -> None:
        """Close all sockets."""
        for sock in self.ready:
            self._loop.close(sock)
        self.ready.clear()
        self._loop.sockets -= self._asked
        self._asked = 0
