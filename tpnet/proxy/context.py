"""What all connections of a worker share: the loop, sessions, prepared sockets, counts and deadlines.

Made once by ``tpnet.proxy.worker``. Holds state and hands it out; it must never touch a connection's bytes.
"""

from __future__ import annotations

from operator import methodcaller
from typing import TYPE_CHECKING

from tpnet.kernel.signs import SUPERVISOR, SUPERVISOR_SECONDS
from tpnet.proxy.channel import Full, Message, NeedSockets, Purpose
from tpnet.proxy.counters import Book
from tpnet.proxy.loop import Deadlines, Loop
from tpnet.proxy.pool import SocketPool
from tpnet.proxy.shares import Shares
from tpnet.proxy.stream import PIPES, Pipes

if TYPE_CHECKING:
    from collections.abc import Callable

    from tpnet.kernel.signs import Level, Signs
    from tpnet.proxy.counters import TargetCount
    from tpnet.proxy.sessions import SessionState

UNDECIDED = 10.0
"""Seconds that a connection may go without a complete first line before it is pinned (design, section 6)."""
CONNECT = 1.0
"""Seconds between two looks at a session's connection that is not there yet, or waits for its status byte."""
UNCONFIRMED = 0.7
"""Seconds that a session may take to confirm that it has what was sent to it, while its heartbeat is missing."""
LINGER = 2.0
"""Seconds that a client may go on sending after its connection was closed in an orderly way."""
HOLD = 0.1
"""Seconds that a conversation may hold a chunked request back (``Conversation.holding``)."""
RETRY = 0.1
"""Seconds until accepting is tried again after descriptors ran out."""
MOST = 512
"""Prepared sockets asked for ahead, of one kind, at most; and no more than a 16th of the descriptors."""
_RESERVE = 320
"""Descriptors kept free for messages (up to 253 at once), pipes and files."""
_EARLY = 8192
"""Descriptors before the last one from which on new clients are left to the apps; an eighth of all at most. Those that
the kernel has queued for us by then need room too, two for each."""


class Context:
    """The shared state. ``tell`` sends to the supervisor; ``removed`` lists targets that have drained."""

    __slots__ = (
        "_most_ahead", "_reserve", "awaiting", "book", "connecting", "full", "full_at", "holding", "lingering", "loop",
        "most_sockets", "node", "paused",
        "pipes", "removed", "session_pool", "sessions", "shares", "signs", "tell", "unconfirmed", "undecided",
    )  # fmt: skip

    def __init__(self, tell: Callable[[Message], None], file_limit: int) -> None:
        self.loop = loop = Loop()
        self.pipes = Pipes(min(PIPES, file_limit // 64))
        self.book = Book()
        self.tell = tell
        self.sessions: dict[str, SessionState] = {}
        self.signs: Signs | None = None
        self._most_ahead = min(MOST, file_limit // 16)
        self.session_pool = self.pool(Purpose.SESSION, 0, 8)
        self._reserve = min(_RESERVE, file_limit // 3)
        self.most_sockets = file_limit - self._reserve
        self.full_at = self.most_sockets - min(_EARLY, self.most_sockets // 8)
        self.shares = Shares(loop, self.most_sockets)
        self.full = False
        self.node: frozenset[str] = frozenset()  # its own addresses
        # Connections without a first line; sides that connect, or wait for a status byte; clients that close.
        self.removed: list[int] = []
        self.undecided = Deadlines(loop, UNDECIDED, methodcaller("undecided_timeout"), near=False)
        self.connecting = Deadlines(loop, CONNECT, methodcaller("timed_out"))
        self.awaiting = Deadlines(loop, CONNECT, methodcaller("timed_out"))
        self.unconfirmed = Deadlines(loop, UNCONFIRMED, methodcaller("unconfirmed"))
        self.lingering = Deadlines(loop, LINGER, methodcaller("finish"), near=False)
        self.holding = Deadlines(loop, HOLD, methodcaller("release_held"))
        self.paused = Deadlines(loop, RETRY, methodcaller("resume"))

    @property
    def queue(self) -> int:
        """Clients that may wait in all to be accepted, so that there is room for each. The kernel lets more try again."""
        return (self.most_sockets - self.full_at) // 2

    def takes_more_than_others(self, count: TargetCount) -> int:
        """Whether a target has more clients than the targets have on average: more 1, as many 0, fewer -1."""
        counts = self.book.targets.values()
        more = count.open * len(counts) - sum(one.open for one in counts)
        return (more > 0) - (more < 0)

    def set_full(self) -> None:
        """Leave new clients to the apps: at once through memory, and for ``status`` by way of the supervisor."""
        if not self.full:
            self._set_full(full=True)

    def look_for_room(self) -> None:
        """Take new clients again once an eighth of the room is free. Once a second."""
        if self.full and self.has_room:
            self._set_full(full=False)

    @property
    def supplied(self) -> bool:
        """Whether the supervisor, which prepares sockets, gives signs of life."""
        return self.signs is None or self.loop.now - self.signs.last(SUPERVISOR) < SUPERVISOR_SECONDS

    @property
    def has_room(self) -> bool:
        """Whether an eighth of the descriptors is free."""
        return self.loop.sockets < self.full_at * 7 // 8

    def _set_full(self, *, full: bool) -> None:
        self.full = full
        if self.signs is not None:
            self.signs.withdraw(withdrawn=full)
        self.tell(Full(full=full))

    def pool(
        self,
        purpose: Purpose,
        target: int,
        least: int,
        tell_level: Callable[[Level], None] = lambda _level: None,
    ) -> SocketPool:
        """A pool whose sockets are asked for as ``purpose`` and ``target`` say."""

        def ask(count: int) -> int:
            # What is prepared ahead may use up half of the reserve, so that a client that was accepted gets its socket.
            count = min(count, self.most_sockets + self._reserve // 2 - self.loop.sockets)
            if count <= 0:
                return 0
            self.tell(NeedSockets(purpose, count, target))
            return count

        return SocketPool(self.loop, least, self._most_ahead, ask, tell_level)
