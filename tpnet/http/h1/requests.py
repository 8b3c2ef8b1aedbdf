"""The client's half of a conversation: what becomes of the bytes that the client sends.

Called by ``tpnet.http.conversation`` only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpnet.http.conversation import SEND, SHUT
from tpnet.http.h1.body import BROKEN, DONE, ChunkedReader
from tpnet.http.h1.exchange import BEGUN, KEEP, Exchange
from tpnet.http.h1.exchange import DONE as ANSWERED
from tpnet.http.h1.grammar import CHUNKED, Bad
from tpnet.http.h1.head import CONNECT, RequestHead, read_request
from tpnet.http.h1.state import (
    AT_HEAD,
    CONFIRMATION,
    DROPPED,
    IN_BODY,
    IN_HEAD,
    PIPED,
    PIPELINE,
    ROOM,
    TURN,
    WAITING,
    State,
)
from tpnet.http.verdict import APP, Outcome, Verdict

if TYPE_CHECKING:
    from tpnet.http.conversation import Command
    from tpnet.http.h1.grammar import HeadScan
    from tpnet.http.verdict import Side


class Requests(State):
    """Reads requests, has them routed, sends them on."""

    __slots__ = ()

    def _consume(
        self, data: bytes, out: list[Command], head: RequestHead | Bad | HeadScan | None = None
    ) -> None:
        """Take the client's next bytes, which begin a message or go on with a body.

        ``head``: what they begin with, if that was read already.
        """
        if self._tail:
            data = self._tail + data
            self._tail = b""
        at = 0
        size = len(data)
        queue = self._queue
        while at < size:
            if self._body:
                at = self._carry(data, at, at, out)
            else:
                if queue and (what := self._must_wait()) is not None:
                    self._wait(data[at:], what)
                    return
                decided = self._next
                if decided is None:
                    if head is None or at:
                        head = read_request(data, at)
                    if not isinstance(head, RequestHead):
                        if isinstance(head, Bad):
                            self._bad(head, data[at:], out)
                        else:
                            self._scan = head
                            self._client = IN_HEAD
                        return
                    self._begun = True
                    reason = head.reason
                    verdict = Verdict(Outcome.APP, APP, reason) if reason else self._decide(head)
                    self._on_verdict(verdict)
                else:
                    head, verdict = decided
                if verdict.outcome is Outcome.FAIL:
                    self._give_up(head, f"the handler did not answer: {verdict.reason}", out)
                    return
                side = verdict.side
                if queue and side != self._side:
                    self._next = head, verdict
                    self._wait(data[at:], TURN)
                    return
                self._next = None
                self._side = side
                exchange = Exchange(head, verdict)
                queue.append(exchange)
                end = at + len(head.raw)
                body = head.body
                if side is not APP:
                    self._keep(exchange)
                if body:
                    self._request = exchange
                    self._body = body
                    if body == CHUNKED:
                        self._chunks = ChunkedReader()
                    at = self._carry(data, at, end, out)
                else:
                    self._send(exchange, data[at:end], out)
                    at = end
                    if head.close:
                        self._client = DROPPED
            if at < 0 or self._client >= WAITING:
                return
        self._client = AT_HEAD

    def _must_wait(self) -> int | None:
        """What the next request must wait for, whatever it is, if anything."""
        queue = self._queue
        if queue[-1].head.kind >= CONNECT:
            return TURN
        if len(queue) >= PIPELINE:
            return ROOM
        return CONFIRMATION if self._kept >= KEEP and self._side not in self._confirmed else None

    def _keep(self, exchange: Exchange) -> None:
        """Begin to keep a request that goes to a session, and to hold it back, if either is due."""
        head = exchange.head
        if self._kept + len(head.raw) + max(head.body, 0) <= KEEP or self._side not in self._confirmed:
            exchange.kept = b""
            self.holding = head.body == CHUNKED and not head.expects

    def _carry(self, data: bytes, at: int, body_at: int, out: list[Command]) -> int:
        """Send on ``data`` from ``at``; the body under way begins at ``body_at``, before it is its head.

        Returns where the next message begins, or -1 if there is none: the body goes on, waits or is broken.
        """
        request = self._request
        assert request is not None
        if (
            at == body_at
            and self._kept >= KEEP
            and request.kept is not None
            and self._side not in self._confirmed
        ):
            self._wait(data[at:], CONFIRMATION)
            return -1
        left = self._body
        if left > 0:
            stop = min(len(data), body_at + left)
            self._body = left - (stop - body_at)
            self._send(request, data[at:stop], out)
            ended = not self._body
        else:
            assert self._chunks is not None
            stop, status = self._chunks.feed(data, body_at)
            if status == BROKEN:
                if not self.holding and stop > at:
                    self._send(request, data[at:stop], out)
                self._break_off(request, "its chunked body is malformed", out)
                return -1
            if stop > at:
                self._send(request, data[at:stop], out)
            self._tail = data[stop:]
            ended = status == DONE
        if not ended:
            self._client = IN_BODY
            return -1
        self._tail = b""
        self._body_ended(out)
        return stop

    def _body_ended(self, out: list[Command]) -> None:
        request = self._request
        assert request is not None
        self._body = 0
        self._request = self._chunks = None
        self._client = DROPPED if request.head.close else AT_HEAD
        if self.holding:
            self._release(request, out)
        if request.answered == ANSWERED:
            self._settle(out)

    def _send(self, exchange: Exchange, piece: bytes, out: list[Command]) -> None:
        kept = exchange.kept
        if kept is not None:
            self._kept += len(piece)
            if not kept:
                exchange.kept = piece
            elif isinstance(kept, bytearray):
                kept += piece
            else:
                exchange.kept = bytearray(kept)
                exchange.kept += piece
            if self.holding and exchange is self._request:
                if self._kept >= KEEP:
                    self._release(exchange, out)
                return
            if self._kept > KEEP and self._side in self._confirmed:
                self._unkeep(exchange)
        out.append((SEND, self._side, piece))

    def _unkeep(self, exchange: Exchange) -> None:
        if exchange.kept is not None:
            self._kept -= len(exchange.kept)
            exchange.kept = None

    def _release(self, exchange: Exchange, out: list[Command]) -> None:
        self.holding = False
        assert exchange.kept is not None
        out.append((SEND, self._side, bytes(exchange.kept)))
        if self._kept > KEEP and self._side in self._confirmed:
            self._unkeep(exchange)

    def _wait(self, data: bytes, what: int) -> None:
        self._held = data
        self._waits_for = what
        self._client = WAITING
        self.reading_client = False

    def _resume(self, out: list[Command]) -> None:
        if self._client != WAITING:
            return
        # A confirmation has come whenever this is called, or an answer, or the app is the side now.
        if self._waits_for != CONFIRMATION:
            room = 0 if self._waits_for == TURN else PIPELINE // 2
            if len(self._queue) > room:
                return
        data, self._held = self._held, b""
        self._client = IN_BODY if self._body else AT_HEAD
        self.reading_client = True
        self._consume(data, out)
        if self._client_eof and self._client < PIPED and self._client != WAITING:
            self._client_ended(out)

    def _confirm(self, side: Side, out: list[Command]) -> None:
        """The session's end is there: it need not be kept for the case that it is not."""
        self._confirmed.add(side)
        if side == self._side:
            request = self._request
            if request is not None and not self.holding and self._kept + max(self._body, 0) > KEEP:
                self._unkeep(request)
            self._resume(out)

    def _bad(self, bad: Bad, rest: bytes, out: list[Command]) -> None:
        if bad.outcome is Outcome.PIN and not self._begun:
            self._pin_app(bad.reason, out, rest)
        else:
            self._refuse(Verdict(Outcome.REFUSE, reason=bad.reason), out)

    def _break_off(self, request: Exchange, reason: str, out: list[Command]) -> None:
        """The body under way is broken: break off upstream; answer 400 in its turn if nothing has begun."""
        sent = not self.holding
        verdict = request.verdict._replace(outcome=Outcome.BREAK, reason=reason)
        if request.answered >= BEGUN:
            self._on_verdict(verdict)
            self._close(out) if request.answered == ANSWERED else self._reset(out)
            return
        # It is the last in the queue: nothing is taken after an unfinished body.
        self._queue.pop()
        self._unkeep(request)
        self._broken_off = sent
        self._refuse(verdict, out)

    def _client_ended(self, out: list[Command]) -> None:
        """The client has ended, and none of its bytes wait."""
        if not self._begun:
            self._pin_app("the client ended before its first request was complete", out)
            return
        if self._client == IN_BODY:
            request = self._request
            assert request is not None
            if self.holding:
                self._break_off(request, "it ends within its body", out)
                return
            if self._side is APP and self._tail:
                out.append((SEND, APP, self._tail))
            self._drop()
        elif self._client == IN_HEAD:
            assert self._scan is not None
            if self._scan.buffer.strip(b"\r\n"):
                self._refuse(Verdict(Outcome.REFUSE, reason="it ends within its head"), out)
                return
            self._drop()
        if self._queue:
            out.append((SHUT, self._side))
            self._leaving = True
        else:
            self._close(out)
