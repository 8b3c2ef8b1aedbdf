"""The answers' half of a conversation: what becomes of what the app and sessions send, and of their failures.

Called by ``tpnet.http.conversation`` only. The app is believed: what of it cannot be followed makes the
connection an opaque pipe. A session is not: what of it is misframed never reaches the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpnet.http.conversation import RESET, SEND, SEND_CLIENT, SHUT, SHUT_CLIENT
from tpnet.http.h1.answer import read_answer
from tpnet.http.h1.body import BROKEN, ChunkedReader
from tpnet.http.h1.body import DONE as BODY_DONE
from tpnet.http.h1.exchange import BEGUN, DONE, IDEMPOTENT, INTERIM, UNANSWERED
from tpnet.http.h1.grammar import CHUNKED, UNTIL_EOF, Bad, HeadScan
from tpnet.http.h1.head import CONNECT, UPGRADE
from tpnet.http.h1.requests import Requests
from tpnet.http.h1.state import IN_BODY, PIPED, WAITING
from tpnet.http.verdict import APP, Outcome

if TYPE_CHECKING:
    from tpnet.http.conversation import Command
    from tpnet.http.h1.answer import Answer
    from tpnet.http.verdict import Side


class Answers(Requests):
    """Follows answers to their ends, and brings them to the client."""

    __slots__ = ()

    def _read_answers(
        self, side: Side, data: bytes, out: list[Command], answer: Answer | Bad | HeadScan | None = None
    ) -> None:
        """Take more bytes of the side that owes answers. ``answer``: what they begin with, if that was read already."""
        if self._answer_scan is not None:
            scan = self._answer_scan
            if scan.feed(data) is None:
                return
            data = bytes(scan.buffer)
            self._answer_scan = None
        elif self._answer_tail:
            data = self._answer_tail + data
            self._answer_tail = b""
        at = sent = 0
        size = len(data)
        queue = self._queue
        while at < size:
            left = self._answer
            if left is None:
                exchange = queue[0]
                if answer is None or at:
                    answer = read_answer(data, at, exchange.head.kind)
                if isinstance(answer, HeadScan):
                    self._answer_scan = answer
                    if sent < at:
                        out.append((SEND_CLIENT, data[sent:at]))
                    return
                if self.holding and exchange is self._request:
                    answer = Bad(Outcome.PIN, "it came before the request")
                if isinstance(answer, Bad):
                    self._misframed(side, data[sent:at], data[at:], answer.reason, out)
                    return
                end, status, left, self._answer_close = answer
                if status < 200:
                    if status != 101:
                        exchange.answered = INTERIM
                        at = end
                        continue
                    if exchange.head.kind == UPGRADE:
                        self._pin(side, out, answer=data[sent:])
                    else:
                        self._misframed(side, data[sent:at], data[at:], "it switches protocols unasked", out)
                    return
                exchange.answered = BEGUN
                if exchange.head.kind == CONNECT:
                    if status < 300:
                        self._pin(side, out, answer=data[sent:])
                        return
                    self._answer_close = True
                at = end
                if left == CHUNKED:
                    self._answer_chunks = ChunkedReader()
            if left > 0:
                if left > size - at:
                    self._answer = left - (size - at)
                    break
                at += left
            elif left == UNTIL_EOF:
                self._answer = left
                break
            elif left:
                assert self._answer_chunks is not None
                self._answer = left
                at, status = self._answer_chunks.feed(data, at)
                if status == BROKEN:
                    self._misframed(side, data[sent:at], data[at:], "its chunked body is malformed", out)
                    return
                if status != BODY_DONE:
                    self._answer_tail = data[at:]
                    size = at
                    break
            # The answer is complete.
            ends = self._answer_close or queue[0].head.close
            if ends and side is APP:
                at = size  # whatever else the app says before it closes
            out.append((SEND_CLIENT, data[sent:at]))
            sent = at
            self._answered(side, data[at:], out)
            if self._client >= PIPED or side != self._side or not queue:
                return
        if sent < size:
            out.append((SEND_CLIENT, data[sent:size]))

    def _answered(self, side: Side, rest: bytes, out: list[Command]) -> None:
        """The first answer is complete and sent. ``rest`` is what the side has sent beyond it."""
        exchange = self._queue.popleft()
        exchange.answered = DONE
        self._unkeep(exchange)
        self._answer = self._answer_chunks = None
        if self._answer_close or exchange.head.close:
            if exchange is self._request:
                self._leaving = True  # the side may still want the rest of the body
            else:
                self._close(out)
        elif rest and not self._queue and not self._refusal:
            self._unasked(side, rest, out)
        else:
            self._settle(out)

    def _answer_ended(self, side: Side, out: list[Command]) -> None:
        """The side that owes answers has ended."""
        exchange = self._queue[0]
        if side is not APP:
            if self._answer is None:
                out.append((RESET, side))
                self._fail_over("it ended without an answer", out, delivered=True)
                return
        else:
            pending = bytes(self._answer_scan.buffer) if self._answer_scan is not None else self._answer_tail
            if pending:
                out.append((SEND_CLIENT, pending))
            if exchange is self._request and self._client == IN_BODY:
                # It may still read: the client's body goes on to it.
                self._queue.popleft()
                exchange.answered = DONE
                self._answer = self._answer_chunks = self._answer_scan = None
                self._answer_tail = b""
                self._leaving = True
                out.append((SHUT_CLIENT,))
                return
        if self._answer != UNTIL_EOF:
            self._failed(exchange, "the answer broke off")
        self._close(out)

    def _misframed(self, side: Side, good: bytes, rest: bytes, reason: str, out: list[Command]) -> None:
        """``rest``, which comes after ``good``, cannot be followed."""
        if side is APP:
            self._pin_app(f"an answer of the app cannot be followed: {reason}", out, answer=good + rest)
            return
        if good:
            out.append((SEND_CLIENT, good))
        exchange = self._queue[0]
        if exchange.answered == BEGUN:
            self._failed(exchange, reason)
            self._reset(out)
            return
        self._queue.clear()
        out.append((RESET, side))
        sentence = f"the handler's answer is malformed: {reason}"
        self._failed(exchange, sentence)
        self._give_up(exchange.head, sentence, out)

    def _unasked(self, side: Side, data: bytes, out: list[Command]) -> None:
        """Bytes from a side that owes none."""
        if side is APP:
            if self._outstanding() and self._side is not APP:
                # Most likely it gives up waiting for a request. The session's answer comes first.
                self._leaving = True
                out.append((RESET, APP))
            else:
                reason = "the app spoke unasked" if self._begun else "the app spoke first"
                self._pin_app(reason, out, answer=data)
            return
        self._confirmed.discard(side)
        self._leaving = True
        out.append((RESET, side))
        if not self._queue:
            self._close(out)

    def _fail_over(self, why: str, out: list[Command], *, delivered: bool) -> None:
        """Give the session's unanswered requests to the app, up to the first that must not be."""
        self._confirmed.discard(self._side)
        requests = list(self._queue)
        if self._answer_scan is not None:
            requests[0].answered = INTERIM
        self._answer_scan = None
        self._queue.clear()
        self._kept = 0
        self._side = APP
        self._broken_off = self.holding = False
        for exchange in requests:
            verdict = exchange.verdict
            kept = exchange.kept
            repeatable = not delivered or exchange.head.method in IDEMPOTENT
            if (
                not (verdict.on_failure_app and repeatable and exchange.answered == UNANSWERED)
                or kept is None
            ):
                self._failed(exchange, why)
                self._give_up(exchange.head, f"the handler did not answer: {why}", out)
                return
            self._observer.on_fallback(verdict, why)
            exchange.kept = None
            self._queue.append(exchange)
            out.append((SEND, APP, bytes(kept)))
        if self._client_eof and self._client != WAITING:
            out.append((SHUT, APP))
        self._resume(out)
