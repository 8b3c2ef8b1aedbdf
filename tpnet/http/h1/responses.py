"""The sides' half of a conversation: what becomes of what the app and sessions send, and of their failures.

Called by ``conversation``. The app is believed: what of it cannot be followed makes the connection an opaque pipe. A
session is not: what of it is misframed must never reach the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpnet.http.conversation import RESET, SEND_CLIENT, SHUT, SHUT_CLIENT
from tpnet.http.h1.exchange import ANSWERED, BEGUN, INTERIM, MAX_INTERIM, UNANSWERED, may_retry
from tpnet.http.h1.framing import CONTINUE_HEAD, FINAL_HEAD, INTERIM_HEAD, MORE_TO_COME, SWITCH_HEAD, Part
from tpnet.http.h1.grammar import UNTIL_EOF, Bad, PartialHead
from tpnet.http.h1.head import CONNECT, UPGRADE
from tpnet.http.h1.phases import BETWEEN, IN_BODY, WAITING
from tpnet.http.h1.response import marked
from tpnet.http.h1.upgrade import switches_to_carrier
from tpnet.http.verdict import APP, Outcome, Verdict

if TYPE_CHECKING:
    from tpnet.http.conversation import Command
    from tpnet.http.h1.exchange import Exchange
    from tpnet.http.h1.requests import Requests
    from tpnet.http.h1.response import ResponseHead
    from tpnet.http.h1.state import State
    from tpnet.http.verdict import Side

_EARLY = Bad(Outcome.PIN, "it came before the request")
_UNASKED_SWITCH = Bad(Outcome.PIN, "it switches protocols unasked")
_SWITCHED = Verdict(Outcome.PIN, reason="the app switched to a protocol that carries requests")
_INTERIM_HEADS = (CONTINUE_HEAD, INTERIM_HEAD)
_TOO_MANY_INTERIM = Bad(Outcome.PIN, f"it has more than {MAX_INTERIM} interim responses")


class Responses:
    """Follows responses to their ends, and brings them to the client."""

    __slots__ = ("_requests", "_state")

    def __init__(self, state: State, requests: Requests) -> None:
        self._state = state
        self._requests = requests

    def read(
        self,
        side: Side,
        data: bytes,
        out: list[Command],
        head: ResponseHead | Bad | PartialHead | None = None,
    ) -> None:
        """Take more bytes of the side that owes responses. ``head``: what they begin with, if that was read already."""
        state = self._state
        framing, exchanges = state.responses, state.exchanges
        queue = exchanges.queue
        data = framing.take(data)
        at = sent = 0
        size = len(data)
        while at < size:
            exchange = queue[0]
            part: Part | Bad
            if framing.left is None:
                start = at
                at, part = framing.head(data, at, exchange.head.kind, head)
                head = None
                if part is MORE_TO_COME:
                    break
                bad = part if isinstance(part, Bad) else self._note(side, exchange, part, data[start:at])
                if bad is not None:
                    self._misframed(side, data[sent:start], data[start:], bad.reason, out)
                    return
                if part in _INTERIM_HEADS:
                    exchange.progress = INTERIM
                    continue
                if part is not FINAL_HEAD:
                    state.pin(side, out, told=data[sent:])
                    return
                framing.closes = framing.closes or exchange.head.kind == CONNECT
                if self._begin(exchange):
                    out.append((SEND_CLIENT, data[sent:start] + marked(data[start:at])))
                    sent = at
            at, part = framing.body(data, at)
            if isinstance(part, Bad):
                self._misframed(side, data[sent:at], data[at:], part.reason, out)
                return
            if part is MORE_TO_COME:
                break
            if side is APP and (framing.closes or exchange.head.close):
                at = size  # whatever else the app says before it closes
            if sent < at:
                out.append((SEND_CLIENT, data[sent:at]))
            sent = at
            self.complete(side, data[at:], out)
            if state.phase.ended or side != exchanges.side or not queue:
                return
        if sent < at:
            out.append((SEND_CLIENT, data[sent:at]))

    def _note(self, side: Side, exchange: Exchange, part: Part, head: bytes) -> Bad | None:
        """Take note of a well-formed head: what is wrong with it in its place, if anything."""
        exchanges = self._state.exchanges
        if exchanges.holding and exchange is exchanges.uploading:
            return _EARLY
        if part is SWITCH_HEAD:
            carries = switches_to_carrier(head)
            if exchange.head.kind != UPGRADE or (side is not APP and carries):
                return _UNASKED_SWITCH
            if carries:
                self._state.observer.on_verdict(_SWITCHED)
        elif part in _INTERIM_HEADS:
            framing = self._state.responses
            if exchange.progress == UNANSWERED:
                framing.interim = 0
                framing.continued = False
            framing.interim += 1
            framing.continued = framing.continued or part is CONTINUE_HEAD
            if side is not APP and framing.interim > MAX_INTERIM:
                return _TOO_MANY_INTERIM
        return None

    def _begin(self, exchange: Exchange) -> bool:
        """A final response has begun. Returns whether it must be marked as the last."""
        state = self._state
        continued = exchange.progress == INTERIM and state.responses.continued
        exchange.progress = BEGUN
        waits = exchange is state.exchanges.uploading and exchange.head.expects and not continued
        if waits and not state.requests.touched and not state.held:
            # The client may send the body or not (RFC 9110, 10.1.1): what its next bytes are cannot be told.
            state.stop()
            state.responses.closes = True
            return False
        if state.finishing is None or not self._is_last(exchange):
            return False
        exchange.head.close = True
        if state.phase is not IN_BODY:
            state.stop()
        return state.finishing and not state.responses.closes

    def _is_last(self, exchange: Exchange) -> bool:
        """Whether nothing has come of a request that could be served after this one."""
        state = self._state
        if len(state.exchanges.queue) > 1 or exchange.head.close:
            return False
        partial = state.requests.partial
        return state.phase is BETWEEN or state.phase is IN_BODY or (partial is not None and partial.blank)

    def complete(self, side: Side, rest: bytes, out: list[Command]) -> None:
        """The first response is complete and sent. ``rest`` is what the side has sent beyond it."""
        state = self._state
        exchanges, framing = state.exchanges, state.responses
        exchange = exchanges.queue.popleft()
        exchange.progress = ANSWERED
        exchanges.unkeep(exchange)
        framing.next()
        if framing.closes or exchange.head.close:
            if exchange is exchanges.uploading:
                state.leave()  # the side may still want the rest of the body
            else:
                state.close(out)
        elif exchange.head.kind == UPGRADE and state.held:
            state.close(out)  # what the client sent for the new protocol is no request
        elif rest and not exchanges.queue and not (state.ending and state.ending.response):
            self.unasked(side, rest, out)
        else:
            self._requests.settle(out)

    def ended(self, side: Side, out: list[Command], *, unseen: bool) -> None:
        """The side that owes responses has ended. ``unseen``: and saw nothing of what was sent since it spoke last."""
        state = self._state
        exchanges, framing = state.exchanges, state.responses
        exchange = exchanges.queue[0]
        left = framing.left
        if side is not APP:
            if left is None:
                delivered = not (unseen and exchange.first and framing.partial is None)
                out.append((RESET, side))
                if not self.ask_again(out, delivered=delivered):
                    self.fail_over("it ended without an answer", out, delivered=delivered)
                return
        elif unsent := framing.forget():
            out.append((SEND_CLIENT, unsent))
        if (side is APP or left == UNTIL_EOF) and exchange is exchanges.uploading and state.phase is IN_BODY:
            # It may still read: the client's body goes on to it.
            exchanges.queue.popleft()
            exchange.progress = ANSWERED
            framing.next()
            state.leave()
            out.append((SHUT_CLIENT,))
            return
        if left != UNTIL_EOF:
            state.failed(exchange, "the answer broke off")
        state.close(out)

    def _misframed(self, side: Side, good: bytes, rest: bytes, reason: str, out: list[Command]) -> None:
        """``rest``, which comes after ``good``, cannot be followed."""
        state = self._state
        if side is APP:
            state.pin_app(f"an answer of the app cannot be followed: {reason}", out, told=good + rest)
            return
        if good:
            out.append((SEND_CLIENT, good))
        exchange = state.exchanges.queue[0]
        if exchange.progress == BEGUN:
            state.failed(exchange, reason)
            state.reset(out)
            return
        state.exchanges.queue.clear()
        out.append((RESET, side))
        sentence = f"the handler's answer is malformed: {reason}"
        state.failed(exchange, sentence)
        state.give_up(exchange.head, sentence)
        self._requests.settle(out)

    def unasked(self, side: Side, data: bytes, out: list[Command]) -> None:
        """Bytes from a side that owes none."""
        state = self._state
        exchanges = state.exchanges
        if side is APP:
            if exchanges.outstanding and exchanges.side is not APP:
                # Most likely it gives up waiting for a request. The next one is dialled anew for.
                out.append((RESET, APP))
            else:
                reason = "the app spoke unasked" if state.begun else "the app spoke first"
                state.pin_app(reason, out, told=data)
            return
        exchanges.confirmed.discard(side)
        state.leave()
        out.append((RESET, side))
        if not exchanges.queue:
            state.close(out)

    def unasked_end(self, side: Side, out: list[Command]) -> None:
        """The end of a side that owes nothing."""
        state = self._state
        exchanges = state.exchanges
        if exchanges.outstanding and side == exchanges.side:
            state.leave()  # it has answered, and may still read the rest of the body
            out.append((SHUT_CLIENT,))
        elif side is not APP or exchanges.outstanding:
            exchanges.confirmed.discard(side)
            out.append((RESET, side))
        elif state.begun:
            state.close(out)
        else:
            state.observer.on_verdict(Verdict(Outcome.PIN, reason="the app ended first"))
            state.pin(APP, out, shut=True)

    def failed(
        self, side: Side, reason: str, out: list[Command], *, delivered: bool, again: bool = False
    ) -> None:
        """A side is not there, or no more."""
        state = self._state
        exchanges = state.exchanges
        exchanges.confirmed.discard(side)
        if not exchanges.outstanding or side != exchanges.side:
            if side is APP and not exchanges.outstanding:
                state.reset(out)
        elif not exchanges.queue:
            state.close(out)  # answered in full; what it did not want was the rest of a body
        elif side is APP or exchanges.queue[0].progress == BEGUN:
            state.failed(exchanges.queue[0], reason)
            state.reset(out)
        elif not (again and self.ask_again(out, delivered=delivered)):
            self.fail_over(reason, out, delivered=delivered)

    def ask_again(self, out: list[Command], *, delivered: bool) -> bool:
        """Over a fresh connection, what a kept one of the session did not answer; whether that may be."""
        state = self._state
        if state.responses.partial is not None or not state.exchanges.again(out, delivered=delivered):
            return False
        if state.client_eof and state.phase is not WAITING:
            out.append((SHUT, state.exchanges.side))
        return True

    def fail_over(self, why: str, out: list[Command], *, delivered: bool) -> None:
        """Give the session's unanswered requests to the app, up to the first that must not be."""
        state = self._state
        exchanges = state.exchanges
        if state.responses.forget():
            exchanges.queue[0].progress = INTERIM
        if state.ending is not None:
            state.ending = state.ending._replace(reset_side=False)
        for exchange in exchanges.fail():
            if not may_retry(exchange, delivered=delivered):
                state.failed(exchange, why)
                state.give_up(exchange.head, f"the handler did not answer: {why}")
                self._requests.settle(out)
                return
            state.observer.on_fallback(exchange.verdict, why)
            exchanges.retry(exchange, out)
        if state.client_eof and state.phase is not WAITING:
            out.append((SHUT, APP))
        self._requests.resume(out)
