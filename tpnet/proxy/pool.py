"""Prepared sockets, which the supervisor makes: asked for ahead of need, handed out, waited for in order.

A worker may make no socket in another namespace. So what is left is told with every change, as a ``Level``: new clients
go to the app, without us, as soon as there is nothing to serve them with. Must never ask for more than ``ask`` lets it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tpnet.kernel.signs import Level

if TYPE_CHECKING:
    from collections.abc import Callable

    from tpnet.proxy.loop import Deadlines, Loop
    from tpnet.proxy.transport import Socket

ASK_AGAIN = 1.0
"""Seconds after which a request for sockets that was not answered in full is made again."""
CROWD = 128
"""Those who may wait for one; with more, there is nothing to serve another with."""


class Waiting(Protocol):
    """Something that wants a prepared socket."""

    def given(self, sock: Socket) -> None:
        """Here it is."""


class SocketPool:
    """Prepared sockets of one kind: at least a handful, more when they go quickly, fewer again when they do not.

    ``level``: ``SERVES`` while half of those that should be there are; ``LOW`` below that, since only the supervisor can
    make more; ``AWAY`` when there is none and none has come for a while.
    """

    __slots__ = (
        "_ask", "_asked", "_asked_at", "_declines", "_least", "_loop", "_most", "_starving", "_taken", "_tell", "_want",
        "level", "ready", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        loop: Loop,
        least: int,
        most: int,
        ask: Callable[[int], int],
        starving: Deadlines,
        tell: Callable[[Level], None] = lambda _level: None,
    ) -> None:
        """``ask`` asks for so many, or for fewer, and says for how many it did. ``tell`` is told each new level.

        ``starving`` has those pools that are empty, and calls ``starved`` for each that is so for long.
        """
        self._loop = loop
        self._ask = ask
        self._starving = starving
        self._tell = tell
        self._least = min(least, most)
        self._most = most
        self._want = self._least
        self._asked = 0
        self._asked_at = 0.0
        self._taken = 0
        self._declines = False
        self.level = Level.LOW
        self.ready: list[Socket] = []
        self.waiting: dict[Waiting, None] = {}

    def take(self) -> Socket | None:
        """A prepared socket, or ``None`` while there is none; ask for more in time."""
        self._taken += 1
        if self.ready:
            sock = self.ready.pop()
            self._loop.sockets -= 1
            if len(self.ready) * 2 <= self._want:
                if (len(self.ready) + self._asked) * 2 <= self._want:
                    self._ask_for_missing()
                self._note()
            return sock
        self._want = min(self._want * 2, self._most)
        self.refill()
        return None

    def wait(self, waiting: Waiting) -> None:
        """Give ``waiting`` a socket, in turn, when there is one."""
        self.waiting[waiting] = None
        self.refill()

    def refill(self) -> None:
        """Ask for what is missing, unless that was asked for already."""
        self._ask_for_missing()
        self._note()

    def _ask_for_missing(self) -> None:
        loop = self._loop
        if self._asked and loop.now - self._asked_at > ASK_AGAIN:
            self._forget_asked()
        missing = self._want + len(self.waiting) - len(self.ready) - self._asked
        if missing > 0:
            asked = self._ask(missing)
            loop.sockets += asked  # they need room from now on
            self._asked += asked
            self._asked_at = loop.now

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
        self._note()

    def tick(self) -> None:
        """Once a second: want fewer when few were taken, close what is too many, ask again for what never came."""
        if self._taken * 4 < self._want:
            self._want = max(self._want // 2, self._least)
            while len(self.ready) > self._want:
                self._loop.close(self.ready.pop(0))
        self._taken = 0
        if len(self.ready) * 2 <= self._want:
            self.refill()

    def starved(self) -> None:
        """It has been empty for a while: new clients are not to wait. Ask again, whatever was asked for."""
        if not self.ready:
            self._forget_asked()
            self._ask_for_missing()
            self._set(Level.AWAY)

    def decline(self, *, declines: bool) -> None:
        """Leave new clients to the app whatever there is, or no longer."""
        self._declines = declines
        self._tell(Level.AWAY if declines else self.level)

    def withdraw(self) -> None:
        """Tell no level any more."""
        self._tell = lambda _level: None

    def close(self) -> None:
        """Close all sockets."""
        for sock in self.ready:
            self._loop.close(sock)
        self.ready.clear()
        self._forget_asked()
        self._starving.discard(self)

    def _forget_asked(self) -> None:
        self._loop.sockets -= self._asked
        self._asked = 0

    def _note(self) -> None:
        if self.ready:
            self._starving.discard(self)
            self._set(Level.SERVES if len(self.ready) * 2 >= self._want else Level.LOW)
        elif len(self.waiting) >= CROWD:
            self._set(Level.AWAY)
        elif self.level > Level.AWAY:
            self._set(Level.LOW)
            if self not in self._starving:
                self._starving.add(self)

    def _set(self, level: Level) -> None:
        if level != self.level:
            self.level = level
            if not self._declines:
                self._tell(level)
