"""What a conversation knows, how it is pinned, and how it ends: the part that both of its halves stand on.

Called by ``tpnet.http.h1.requests``, ``answers`` and ``conversation`` only, which extend this class in that
order.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from tpnet.http.conversation import (
    CLOSE_CLIENT,
    PIN,
    RESET,
    RESET_CLIENT,
    SEND,
    SEND_CLIENT,
    SHUT,
    SHUT_CLIENT,
)
from tpnet.http.h1.exchange import refusal
from tpnet.http.verdict import APP, Outcome, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from tpnet.http.conversation import Command, Observer
    from tpnet.http.h1.body import ChunkedReader
    from tpnet.http.h1.exchange import Exchange
    from tpnet.http.h1.grammar import HeadScan
    from tpnet.http.h1.head import RequestHead
    from tpnet.http.verdict import Side

# What the client's next bytes are. From WAITING on, none of them is looked at for now; from PIPED on, never
# again.
AT_HEAD, IN_HEAD, IN_BODY, WAITING, DROPPED, PIPED, OVER = range(7)

# What waiting bytes wait for: that nothing is outstanding; that less is; that a session's end is known to be
# there.
TURN, ROOM, CONFIRMATION = range(3)

PIPELINE: Final = 256
"""Requests that may await their answers at once; more wait, so that tiny requests cannot fill the memory."""


class State:
    """All that is known of one client connection."""

    __slots__ = (
        "_answer",
        "_answer_chunks",
        "_answer_close",
        "_answer_scan",
        "_answer_tail",
        "_begun",
        "_body",
        "_broken_off",
        "_chunks",
        "_client",
        "_client_eof",
        "_confirmed",
        "_decide",
        "_held",
        "_kept",
        "_leaving",
        "_next",
        "_observer",
        "_on_verdict",
        "_queue",
        "_refusal",
        "_request",
        "_scan",
        "_side",
        "_tail",
        "_waits_for",
        "holding",
        "pinned",
        "pinned_side",
        "reading_client",
    )

    def __init__(
        self,
        decide: Callable[[RequestHead], Verdict],
        observer: Observer,
    ) -> None:
        """``decide`` is called once per request that rules may decide."""
        self.reading_client = True
        self.pinned = False
        self.pinned_side: Side = APP
        self.holding = False
        self._decide = decide
        self._observer = observer
        self._on_verdict = observer.on_verdict
        # The client's half.
        self._client = AT_HEAD
        self._begun = False  # a first message has been seen: from now on a bad one is refused, not pinned
        self._scan: HeadScan | None = None  # the beginning of a head
        self._request: Exchange | None = None  # the request whose body is under way
        self._body = 0  # what is left of that body: bytes, or CHUNKED
        self._chunks: ChunkedReader | None = None
        self._tail = b""  # the beginning of a unit of its chunks
        self._held = b""  # bytes that wait
        self._waits_for = TURN
        self._next: tuple[RequestHead, Verdict] | None = None  # the first request that waits, decided
        self._client_eof = False
        # The answers' half. All requests in the queue went to one side.
        self._queue: deque[Exchange] = deque()
        self._side: Side = APP
        self._answer: int | None = None  # what is left of the first one's answer; None: its head is awaited
        self._answer_close = False
        self._answer_chunks: ChunkedReader | None = None
        self._answer_scan: HeadScan | None = None
        self._answer_tail = b""
        self._confirmed: set[Side] = set()
        self._kept = 0  # bytes kept over all requests in the queue
        # How it ends, when nothing is outstanding.
        self._leaving = False
        self._refusal = b""
        self._broken_off = False  # the side has had the beginning of a request that will not be finished

    def _resume(self, out: list[Command]) -> None:
        """Take up the bytes that waited, if what they waited for has come. The client's half does it."""

    def _outstanding(self) -> bool:
        return bool(self._queue) or self._body != 0

    def _settle(self, out: list[Command]) -> None:
        """If nothing is outstanding: end if that is due, else go on with what waits."""
        if self._queue or self._body:
            self._resume(out)
        elif self._refusal:
            if self._broken_off:
                out.append((RESET, self._side))
            out.append((SEND_CLIENT, self._refusal))
            self._close(out)
        elif self._leaving:
            self._close(out)
        else:
            self._resume(out)

    def _drop(self) -> None:
        """Take nothing more from the client."""
        self._client = DROPPED
        self.reading_client = True
        self.holding = False
        self._body = 0
        self._request = self._chunks = self._scan = self._next = None
        self._tail = self._held = b""

    def _refuse(self, verdict: Verdict, out: list[Command]) -> None:
        """Answer 400 once all requests before are answered; take no more."""
        self._on_verdict(verdict)
        self._begun = True
        self._drop()
        self._refusal = refusal(400, f"this request was refused: {verdict.reason}")
        self._settle(out)

    def _give_up(self, head: RequestHead, sentence: str, out: list[Command]) -> None:
        """Answer with 502, once all requests before are answered, for a session that failed; take no more."""
        self._drop()
        self._broken_off = False
        self._refusal = refusal(502, sentence, head)
        self._settle(out)

    def _pin_app(self, reason: str, out: list[Command], rest: bytes = b"", answer: bytes = b"") -> None:
        """What is said here is between the client and the app alone."""
        self._on_verdict(Verdict(Outcome.PIN, reason=reason))
        self._pin(APP, out, rest, answer)

    def _pin(
        self, side: Side, out: list[Command], rest: bytes = b"", answer: bytes = b"", *, shut: bool = False
    ) -> None:
        """An opaque pipe from now on. What waits and ``rest`` go to the side, ``answer`` to the client.

        ``shut``: half-close towards the client.
        """
        pending = self._tail + self._held
        if self._scan is not None:
            pending += self._scan.buffer
        pending = pending + rest if pending else rest
        self._drop()
        self._client = PIPED
        self._queue.clear()
        self._answer = self._answer_chunks = self._answer_scan = None
        self._answer_tail = b""
        self._kept = 0
        self.pinned = True
        self.pinned_side = side
        if pending:
            out.append((SEND, side, pending))
        if self._client_eof:
            out.append((SHUT, side))
        if answer:
            out.append((SEND_CLIENT, answer))
        if shut:
            out.append((SHUT_CLIENT,))
        out.append((PIN, side))

    def _close(self, out: list[Command]) -> None:
        self._drop()
        self._client = OVER
        out.append((CLOSE_CLIENT,))

    def _reset(self, out: list[Command]) -> None:
        self._drop()
        self._client = OVER
        out.append((RESET_CLIENT,))

    def _failed(self, exchange: Exchange, reason: str) -> None:
        if exchange.verdict.side is not APP:
            self._observer.on_failed(exchange.verdict, reason)
