"""The client's half of a conversation: what becomes of the bytes that the client sends.

Called by ``conversation`` and ``responses``. It must never send on a byte of a message before that message's verdict
has fallen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tpnet.http.conversation import SEND, SHUT
from tpnet.http.h1.body import BROKEN, MORE
from tpnet.http.h1.exchange import ANSWERED, BEGUN, CONFIRMATION, PIPELINE, TURN
from tpnet.http.h1.grammar import Bad
from tpnet.http.h1.head import RequestHead, read_request
from tpnet.http.h1.phases import (
    BETWEEN,
    BODY_ENDS,
    GO_ON,
    GO_ON_WITH_BODY,
    HEAD_WITH_BODY,
    HOLD,
    IN_BODY,
    IN_HEAD,
    LAST_ENDS,
    PART_OF_HEAD,
    WAITING,
)
from tpnet.http.h1.upgrade import without_carriers
from tpnet.http.verdict import APP, Outcome, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from tpnet.http.conversation import Command
    from tpnet.http.h1.exchange import Exchange
    from tpnet.http.h1.grammar import PartialHead
    from tpnet.http.h1.state import State

_FAIL: Final = Outcome.FAIL  # to look it up in its class takes ten times as long (Python 3.11)

_NO_ROOM: Final = Bad(Outcome.PIN, "its head was not complete, and there was no room for more of it")
_CUT_SHORT: Final = Bad(Outcome.PIN, "the client ended within a head")


class Requests:
    """Reads requests, has them decided, sends them on."""

    __slots__ = ("_decide", "_state")

    def __init__(self, state: State, decide: Callable[[RequestHead], Verdict]) -> None:
        self._state = state
        self._decide = decide

    def read(
        self, data: bytes, out: list[Command], head: RequestHead | Bad | PartialHead | None = None
    ) -> None:
        """Take the client's next bytes, which begin a message or go on with a body.

        ``head``: what they begin with, if that was read already.
        """
        state = self._state
        framing = state.requests
        if framing.unit:
            data = framing.take(data)
        at, size = 0, len(data)
        while at < size:
            if framing.body:
                at = self._carry(data, at, at, out)
            else:
                at = self._begin(data, at, out, head)
                head = None
            if at < 0 or state.phase is not BETWEEN:
                return

    def _begin(
        self, data: bytes, at: int, out: list[Command], read: RequestHead | Bad | PartialHead | None
    ) -> int:
        """Take the message at an offset. Returns where the next begins, or -1 if nothing more is looked at."""
        state = self._state
        exchanges = state.exchanges
        if exchanges.queue and (what := exchanges.wait()) is not None:
            self._wait(data[at:], what)
            return -1
        decided = state.decided or self._next(data, at, read)
        if decided is None:
            return -1
        if isinstance(decided, Bad):
            self._bad(decided, data[at:], out)
            return -1
        head, verdict = decided
        if verdict.outcome is _FAIL:
            state.give_up(head, f"the handler did not answer: {verdict.reason}")
            self.settle(out)
            return -1
        if exchanges.queue and verdict.side != exchanges.side:
            state.decided = decided
            self._wait(data[at:], TURN)
            return -1
        state.decided = None
        end = at + len(head.raw)
        if head.carried and verdict.side is not APP:
            self._begin_plain(head, verdict, data[end:], out)
            return -1
        exchange = exchanges.add(head, verdict)
        body = head.body
        if 0 <= body <= len(data) - end:  # all of it is there
            end += body
            exchanges.send(exchange, data[at:end], out)
            if head.close:
                state.step(LAST_ENDS)
            return end
        exchanges.uploading = exchange
        state.requests.begin_body(body)
        state.step(HEAD_WITH_BODY)
        return self._carry(data, at, end, out)

    def _next(
        self, data: bytes, at: int, read: RequestHead | Bad | PartialHead | None
    ) -> tuple[RequestHead, Verdict] | Bad | None:
        """The message at an offset and its verdict; ``None`` if its head is not there in full."""
        state = self._state
        head = state.requests.head(data, at, read)
        if head is None:
            state.step(PART_OF_HEAD)
            return None
        if isinstance(head, Bad):
            return head
        state.begun = True
        verdict = Verdict(Outcome.APP, APP, head.reason) if head.reason else self._decide(head)
        state.observer.on_verdict(verdict)
        return head, verdict

    def _begin_plain(self, head: RequestHead, verdict: Verdict, rest: bytes, out: list[Command]) -> None:
        """Take a request to a session as if it asked for no protocol that carries requests."""
        raw = without_carriers(head.raw)
        plain = read_request(raw)
        assert isinstance(plain, RequestHead)
        self._state.decided = plain, verdict
        self.read(raw + rest, out)

    def _carry(self, data: bytes, at: int, body_at: int, out: list[Command]) -> int:
        """Send on ``data`` from ``at``; the body under way begins at ``body_at``, before it is its head.

        Returns where the next message begins, or -1 if there is none: the body goes on, waits or is broken.
        """
        exchanges = self._state.exchanges
        request = exchanges.uploading
        assert request is not None
        if at == body_at and exchanges.body_waits():
            self._wait(data[at:], CONFIRMATION)
            return -1
        stop, status = self._state.requests.follow(data, body_at)
        if stop > at and not (status == BROKEN and exchanges.holding):
            exchanges.send(request, data[at:stop], out)
        if status == BROKEN:
            reason = "its chunked body is malformed"
            if exchanges.side is APP and not self._state.observer.guarding:
                self._state.pin_app(reason, out, data[stop:])
            else:
                self._break_off(request, reason, out)
            return -1
        if status == MORE:
            return -1
        self.body_ended(out)
        return stop

    def body_ended(self, out: list[Command]) -> None:
        """The body under way is complete, and sent on but for what is held back."""
        state = self._state
        exchanges = state.exchanges
        request = exchanges.uploading
        assert request is not None
        if exchanges.holding:
            exchanges.release(out)
        exchanges.stop_upload()
        state.step(LAST_ENDS if request.head.close else BODY_ENDS)
        if request.progress == ANSWERED:
            self.settle(out)

    def settle(self, out: list[Command]) -> None:
        """If nothing is outstanding: end if that is due, else go on with what waits."""
        state = self._state
        if state.ending is not None and not state.exchanges.outstanding:
            state.end(out)
        else:
            self.resume(out)

    def _wait(self, data: bytes, what: int) -> None:
        state = self._state
        state.held = data
        state.waits_for = what
        state.reading_client = False
        state.step(HOLD)

    def resume(self, out: list[Command]) -> None:
        """Take up the bytes that waited, if what they waited for has come."""
        state = self._state
        if state.phase is not WAITING:
            return
        # A confirmation has come whenever this is called, or a response, or the app is the side now.
        if state.waits_for != CONFIRMATION:
            room = 0 if state.waits_for == TURN else PIPELINE // 2
            if len(state.exchanges.queue) > room:
                return
        data, state.held = state.held, b""
        state.step(GO_ON_WITH_BODY if state.requests.body else GO_ON)
        state.reading_client = True
        self.read(data, out)
        if state.client_eof:
            self.client_ended(out)

    def _bad(self, bad: Bad, rest: bytes, out: list[Command]) -> None:
        """What cannot be routed: refuse it, or make it the app's once no session owes a response."""
        state = self._state
        exchanges = state.exchanges
        if bad.outcome is Outcome.REFUSE and state.observer.guarding:
            state.refuse(Verdict(Outcome.REFUSE, reason=bad.reason))
            self.settle(out)
        elif exchanges.outstanding and exchanges.side is not APP:
            state.decided = bad
            self._wait(rest, TURN)
        else:
            state.pin_app(bad.reason, out, rest)

    def no_room(self, out: list[Command]) -> None:
        """The beginning of a head, which is there, is not kept any longer."""
        self._bad(_NO_ROOM, self._state.requests.forget(), out)

    def _break_off(self, request: Exchange, reason: str, out: list[Command]) -> None:
        """The body under way is broken: break off upstream; answer 400 in its turn if nothing has begun."""
        state = self._state
        exchanges = state.exchanges
        verdict = request.verdict._replace(outcome=Outcome.BREAK, reason=reason)
        if request.progress >= BEGUN:
            state.observer.on_verdict(verdict)
            state.close(out) if request.progress == ANSWERED else state.reset(out)
            return
        # It is the last in the queue: nothing is taken after an unfinished body.
        exchanges.queue.pop()
        exchanges.unkeep(request)
        state.refuse(verdict, reset_side=not exchanges.holding)
        self.settle(out)

    def client_ended(self, out: list[Command]) -> None:
        """The client has ended. Nothing is done while bytes of it wait."""
        state = self._state
        exchanges = state.exchanges
        phase = state.phase
        if phase is WAITING or phase.ended:
            return
        if not state.begun:
            state.pin_app("the client ended before its first request was complete", out)
            return
        if phase is IN_BODY:
            request = exchanges.uploading
            assert request is not None
            if exchanges.holding:
                self._break_off(request, "it ends within its body", out)
                return
            if exchanges.side is APP and state.requests.unit:
                out.append((SEND, APP, state.requests.unit))
            state.stop()
        elif phase is IN_HEAD:
            assert state.requests.partial is not None
            if not state.requests.partial.blank:
                self._bad(_CUT_SHORT, state.requests.forget(), out)
                return
            state.stop()
        if exchanges.queue:
            out.append((SHUT, exchanges.side))
            state.leave()
        else:
            state.close(out)
