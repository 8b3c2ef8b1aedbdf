"""Requests that await their responses, and what is kept of them for the case that their session fails.

Called by ``state``, ``requests`` and ``responses``. It must never let more than ``KEEP`` bytes and one read be kept,
nor say that a request may be repeated that may not.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from tpnet.http.conversation import SEND
from tpnet.http.h1.grammar import CHUNKED
from tpnet.http.h1.head import CONNECT
from tpnet.http.verdict import APP

if TYPE_CHECKING:
    from tpnet.http.conversation import Command
    from tpnet.http.h1.head import RequestHead
    from tpnet.http.verdict import Side, Verdict

KEEP: Final = 65_536
"""Bytes of requests that are kept until answered, so that the app can be given them if a session fails."""

PIPELINE: Final = 256
"""Requests that may await their responses at once; more wait, so that tiny requests cannot fill the memory."""

IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""Methods that may be sent twice (RFC 9110, 9.2.2)."""

MAX_INTERIM: Final = 64
"""Interim responses (1xx) of a session to one request. One or two are usual; without end they hold a client for ever."""

UNANSWERED, INTERIM, BEGUN, ANSWERED = range(4)
"""How far a response has gone to the client: not at all; 1xx only; its head; all of it."""

TURN, ROOM, CONFIRMATION = range(3)
"""What a request waits for: that nothing is outstanding; that less is; that a session's end is known to be there."""


class Exchange:
    """One request under way.

    ``kept``: all bytes of it so far, for the case that its session fails, or ``None`` if they are not kept. A
    request that came in one piece is kept as that very object. ``reused``: it went over a session's connection
    that was there before it. ``first``: nothing was outstanding when it began, so all that its session had said by then
    was older.
    """

    __slots__ = ("first", "head", "kept", "progress", "reused", "verdict")

    def __init__(self, head: RequestHead, verdict: Verdict) -> None:
        self.head = head
        self.verdict = verdict
        self.progress = UNANSWERED
        self.reused = False
        self.first = False
        self.kept: bytes | bytearray | None = None


class Exchanges:
    """All requests that await their responses; all went to one side.

    ``uploading``: the request whose body is under way. It may have been answered, and have left the queue.
    ``holding``: that request is held back. ``kept``: bytes kept over all of them.
    """

    __slots__ = ("confirmed", "holding", "kept", "queue", "side", "uploading")

    def __init__(self) -> None:
        self.queue: deque[Exchange] = deque()
        self.side: Side = APP
        self.uploading: Exchange | None = None
        self.holding = False
        self.kept = 0
        self.confirmed: set[Side] = set()

    @property
    def outstanding(self) -> bool:
        """Whether anything is under way."""
        return bool(self.queue) or self.uploading is not None

    def wait(self) -> int | None:
        """What the request after others must wait for, whatever it is, if anything."""
        queue = self.queue
        if queue[-1].head.kind >= CONNECT:
            return TURN
        if len(queue) >= PIPELINE:
            return ROOM
        return CONFIRMATION if self.kept >= KEEP and self.side not in self.confirmed else None

    def body_waits(self) -> bool:
        """Whether more of the body under way must wait for the session's confirmation."""
        request = self.uploading
        assert request is not None
        return self.kept >= KEEP and request.kept is not None and self.side not in self.confirmed

    def add(self, head: RequestHead, verdict: Verdict) -> Exchange:
        """Another request, to the side of those before. Begin to keep it, and to hold it back, if either is due."""
        exchange = Exchange(head, verdict)
        exchange.first = not self.queue
        self.side = side = verdict.side
        self.queue.append(exchange)
        if side is not APP:
            exchange.reused = side in self.confirmed
            if self.kept + len(head.raw) + max(head.body, 0) <= KEEP or not exchange.reused:
                exchange.kept = b""
                self.holding = head.body == CHUNKED and not head.expects
        return exchange

    def send(self, exchange: Exchange, piece: bytes, out: list[Command]) -> None:
        """Send a piece of the newest request on, or hold it back."""
        kept = exchange.kept
        if kept is not None:
            self.kept += len(piece)
            if not kept:
                exchange.kept = piece
            elif isinstance(kept, bytearray):
                kept += piece
            else:
                exchange.kept = bytearray(kept)
                exchange.kept += piece
            if self.holding and exchange is self.uploading:
                if self.kept >= KEEP:
                    self.release(out)
                return
            if self.kept > KEEP and self.side in self.confirmed:
                self.unkeep(exchange)
        out.append((SEND, self.side, piece))

    def release(self, out: list[Command]) -> None:
        """Send on what is held back."""
        exchange = self.uploading
        assert exchange is not None
        assert exchange.kept is not None
        self.holding = False
        out.append((SEND, self.side, bytes(exchange.kept)))
        if self.kept > KEEP and self.side in self.confirmed:
            self.unkeep(exchange)

    def unkeep(self, exchange: Exchange) -> None:
        """Keep no more of a request."""
        if exchange.kept is not None:
            self.kept -= len(exchange.kept)
            exchange.kept = None

    def confirm(self, side: Side, left: int) -> None:
        """A session's end is there: what is large need not be kept. ``left``: bytes of the body under way to come."""
        self.confirmed.add(side)
        request = self.uploading
        if side == self.side and request and not self.holding and self.kept + max(left, 0) > KEEP:
            self.unkeep(request)

    def stop_upload(self) -> None:
        """No more of the body under way is taken."""
        self.uploading = None
        self.holding = False

    def again(self, out: list[Command], *, delivered: bool) -> bool:
        """Send all requests to the same session anew, if the connection that failed was an old one and that is safe.

        Its end may have closed it while the first of them was on its way. Whether that was done; not twice.
        """
        if not self.queue[0].reused or not all(
            exchange.progress == UNANSWERED and may_repeat(exchange, delivered=delivered)
            for exchange in self.queue
        ):
            return False
        self.confirmed.discard(self.side)
        self.queue[0].first = True
        for exchange in self.queue:
            assert exchange.kept is not None
            exchange.reused = False
            if not (self.holding and exchange is self.uploading):
                out.append((SEND, self.side, bytes(exchange.kept)))
        return True

    def fail(self) -> list[Exchange]:
        """All requests of a session that failed; none is outstanding any more."""
        self.confirmed.discard(self.side)
        failed = list(self.queue)
        self.queue.clear()
        self.kept = 0
        self.side = APP
        self.holding = False
        return failed

    def retry(self, exchange: Exchange, out: list[Command]) -> None:
        """Send one of those to the app, whole as far as it came."""
        assert exchange.kept is not None
        self.queue.append(exchange)
        out.append((SEND, APP, bytes(exchange.kept)))
        exchange.kept = None


def may_repeat(exchange: Exchange, *, delivered: bool) -> bool:
    """Whether a request may be sent once more (RFC 9110, 9.2.2), and can be."""
    return exchange.kept is not None and (not delivered or exchange.head.method in IDEMPOTENT)


def may_retry(exchange: Exchange, *, delivered: bool) -> bool:
    """Whether the app may be given a request of a session that failed."""
    return (
        exchange.verdict.on_failure_app
        and exchange.progress == UNANSWERED
        and may_repeat(exchange, delivered=delivered)
    )
