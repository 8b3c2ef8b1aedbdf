"""What all connections of a worker share: the loop, sessions, prepared sockets, counts and deadlines.

Made once by ``tpnet.proxy.worker``. Holds state and hands it out; it must never touch a connection's bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import methodcaller
from typing import TYPE_CHECKING, Protocol

from tpnet.proxy.channel import Full, Message, NeedSockets, Purpose
from tpnet.proxy.counters import Book
from tpnet.proxy.loop import Deadlines, Loop, Socket
from tpnet.proxy.stream import PIPES, Pipes

if TYPE_CHECKING:
    from collections.abc import Callable

    from tpnet.kernel.signs import Signs
    from tpnet.proxy.upstream import SessionUpstream

UNDECIDED = 10.0
"""Seconds that a connection may go without a complete first line before it is pinned (design, section 6)."""
CONNECT = 1.0
"""Seconds for a connection through the tunnel, and again for its status byte."""
LINGER = 2.0
"""Seconds that a client may go on sending after its connection was closed in an orderly way."""
HOLD = 0.1
"""Seconds that a conversation may hold a chunked request back (``Conversation.holding``)."""
WAIT = 5.0
"""Seconds that an accepted client waits for a prepared socket."""
RETRY = 0.1
"""Seconds until accepting is tried again after descriptors ran out."""
ASK_AGAIN = 2.0
"""Seconds after which a request for sockets that was not answered in full is made again."""
MOST = 512
"""Prepared sockets asked for ahead, of one kind, at most; and no more than a 16th of the descriptors."""
_RESERVE = 320
"""Descriptors kept free for messages (up to 253 at once), pipes and files."""
_EARLY = 256
"""Sockets before the last one at which the supervisor is told: clients that come until it acts need room too."""


class Waiting(Protocol):
    """Something that wants a prepared socket."""

    def given(self, sock: Socket) -> None:
        """Here it is."""


@dataclass(slots=True)
class SessionState:
    """A session as the supervisor last told it. ``upstreams`` are the live connections to it."""

    address: str
    up: bool
    ports: frozenset[int]
    upstreams: set[SessionUpstream]


class Stock:
    """Prepared sockets of one kind, asked for ahead: at least a handful, more when they go quickly."""

    __slots__ = (
        "_ask",
        "_asked",
        "_asked_at",
        "_least",
        "_loop",
        "_most",
        "_taken",
        "_want",
        "ready",
        "waiting",
    )

    def __init__(self, loop: Loop, least: int, most: int, ask: Callable[[int], int]) -> None:
        """``ask`` asks for so many, or for fewer, and says for how many it did."""
        self._loop = loop
        self._ask = ask
        self._least = min(least, most)
        self._most = most
        self._want = self._least
        self._asked = 0
        self._asked_at = 0.0
        self._taken = 0
        self.ready: list[Socket] = []
        self.waiting: dict[Waiting, None] = {}

    def take(self) -> Socket | None:
        """A prepared socket, or ``None`` while there is none; ask for more in time."""
        self._taken += 1
        if self.ready:
            sock = self.ready.pop()
            self._loop.sockets -= 1
            if (len(self.ready) + self._asked) * 2 <= self._want:
                self.refill()
            return sock
        self._want = min(self._want * 2, self._most)
        self.refill()
        return None

    def refill(self) -> None:
        """Ask for what is missing, unless that was asked for already."""
        loop = self._loop
        if self._asked and loop.now - self._asked_at > ASK_AGAIN:
            loop.sockets -= self._asked
            self._asked = 0
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

    def tick(self) -> None:
        """Once a second: ask for fewer ahead when few were taken, and again for what never came."""
        if self._taken * 4 < self._want:
            self._want = max(self._want // 2, self._least)
        self._taken = 0
        if len(self.ready) * 2 <= self._want:
            self.refill()

    def close(self) -> None:
        """Close all sockets."""
        for sock in self.ready:
            self._loop.close(sock)
        self.ready.clear()
        self._loop.sockets -= self._asked
        self._asked = 0


class Context:
    """The shared state. ``tell`` sends to the supervisor; ``removed`` lists targets that have drained."""

    __slots__ = (
        "_most_ahead", "_reserve", "awaiting", "book", "connecting", "full", "full_at", "holding", "lingering", "loop",
        "most_sockets", "node", "paused",
        "pipes", "removed", "session_stock", "sessions", "signs", "tell", "undecided", "waiting",
    )  # fmt: skip

    def __init__(self, tell: Callable[[Message], None], file_limit: int) -> None:
        self.loop = loop = Loop()
        self.pipes = Pipes(min(PIPES, file_limit // 64))
        self.book = Book()
        self.tell = tell
        self.sessions: dict[str, SessionState] = {}
        self.signs: Signs | None = None
        self._most_ahead = min(MOST, file_limit // 16)
        self.session_stock = self.stock(Purpose.SESSION, 0, 8)
        self._reserve = min(_RESERVE, file_limit // 3)
        self.most_sockets = file_limit - self._reserve
        self.full_at = self.most_sockets - min(_EARLY, self.most_sockets // 8)
        self.full = False
        self.node: frozenset[str] = frozenset()  # its own addresses
        # Connections without a first line; sides that connect, or wait for a status byte; clients that close.
        self.removed: list[int] = []
        self.undecided = Deadlines(loop, UNDECIDED, methodcaller("undecided_timeout"), near=False)
        self.connecting = Deadlines(loop, CONNECT, methodcaller("timed_out"))
        self.awaiting = Deadlines(loop, CONNECT, methodcaller("timed_out"))
        self.lingering = Deadlines(loop, LINGER, methodcaller("finish"), near=False)
        self.waiting = Deadlines(loop, WAIT, methodcaller("not_given"), near=False)
        self.holding = Deadlines(loop, HOLD, methodcaller("release_held"))
        self.paused = Deadlines(loop, RETRY, methodcaller("resume"))

    def set_full(self) -> None:
        """Leave new clients to the apps: at once through memory, and for ``status`` by way of the supervisor."""
        if not self.full:
            self._set_full(full=True)

    def look_for_room(self) -> None:
        """Take new clients again once an eighth of the room is free. Once a second."""
        if self.full and self.loop.sockets < self.full_at * 7 // 8:
            self._set_full(full=False)

    def _set_full(self, *, full: bool) -> None:
        self.full = full
        if self.signs is not None:
            self.signs.withdraw(withdrawn=full)
        self.tell(Full(full=full))

    def stock(self, purpose: Purpose, target: int, least: int) -> Stock:
        """A stock whose sockets are asked for as ``purpose`` and ``target`` say."""

        def ask(count: int) -> int:
            # What is prepared ahead may use up half of the reserve, so that a client that was accepted gets its socket.
            count = min(count, self.most_sockets + self._reserve // 2 - self.loop.sockets)
            if count <= 0:
                return 0
            self.tell(NeedSockets(purpose, count, target))
            return count

        return Stock(self.loop, least, self._most_ahead, ask)
