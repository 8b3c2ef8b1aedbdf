"""A conversation in HTTP/1. ``tpnet.http.conversation`` says what that is.

``tpnet.proxy`` makes one ``Conversation`` per client connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tpnet.http.conversation import CLOSE_CLIENT, RESET, SEND, SEND_CLIENT, SHUT, SHUT_CLIENT
from tpnet.http.h1.answer import read_answer
from tpnet.http.h1.answers import Answers
from tpnet.http.h1.exchange import BEGUN, DONE, Exchange
from tpnet.http.h1.grammar import CHUNKED, UNTIL_EOF, Bad, HeadScan
from tpnet.http.h1.head import PLAIN, RequestHead, read_request
from tpnet.http.h1.state import AT_HEAD, DROPPED, IN_BODY, IN_HEAD, OVER, PIPED, WAITING
from tpnet.http.verdict import APP, Outcome, Verdict

if TYPE_CHECKING:
    from tpnet.http.conversation import Command, Commands
    from tpnet.http.h1.answer import Answer
    from tpnet.http.verdict import Side

_NOTHING: Final[tuple[Command, ...]] = ()
_UNBOUNDED: Final = 1 << 62


class Conversation(Answers):
    """A ``tpnet.http.conversation.Conversation``."""

    __slots__ = ()

    # State for the driver.

    @property
    def over(self) -> bool:
        """Whether the end has been commanded."""
        return self._client == OVER

    @property
    def undecided(self) -> bool:
        """Whether it cannot yet be told that this is HTTP."""
        if self._begun or self._client > IN_HEAD:
            return False
        return self._scan is None or not self._scan.first_line

    @property
    def idle(self) -> bool:
        """Whether nothing is under way in either direction."""
        if self._queue:
            return False
        return self._client == AT_HEAD or (self._scan is not None and not self._scan.buffer.strip(b"\r\n"))

    @property
    def client_splice(self) -> tuple[Side, int] | None:
        """How many body bytes may go from the client to which side unseen."""
        request = self._request
        if self._client != IN_BODY or self._body <= 0 or request is None or request.kept is not None:
            return None
        return self._side, self._body

    def upstream_splice(self, side: Side) -> int:
        """How many body bytes may go from ``side`` to the client unseen."""
        left = self._answer
        if left is None or left == CHUNKED or side != self._side or self._client >= PIPED:
            return 0
        return _UNBOUNDED if left == UNTIL_EOF else left

    # Inputs from the client.

    def client_data(self, data: bytes) -> Commands:
        """The client sent ``data``."""
        if self._client != AT_HEAD or self._queue:
            return self._client_data(data)
        # The hot path: one request without a body, for the app, while nothing is under way.
        head = read_request(data)
        if type(head) is not RequestHead or head.body or len(head.raw) != len(data) or head.reason:
            return self._client_data(data, head)
        self._begun = True
        verdict = self._decide(head)
        self._on_verdict(verdict)
        if verdict.side is not APP or verdict.outcome is Outcome.FAIL:
            self._next = head, verdict
            return self._client_data(data)
        self._side = APP
        self._queue.append(Exchange(head, verdict))
        if head.close:
            self._client = DROPPED
        return ((SEND, APP, data),)

    def _client_data(self, data: bytes, head: RequestHead | Bad | HeadScan | None = None) -> Commands:
        """The client sent ``data``, which begins with ``head`` if that was read already."""
        state = self._client
        if state == AT_HEAD or state == IN_BODY:  # noqa: SIM109, PLR1714  # the warm path
            out: list[Command] = []
            self._consume(data, out, head)
            return out
        if state == IN_HEAD:
            scan = self._scan
            assert scan is not None
            if scan.feed(data) is None:
                return _NOTHING
            self._scan = None
            out = []
            self._consume(bytes(scan.buffer), out)
            return out
        if state == WAITING:
            self._held += data
        elif state == PIPED:
            return ((SEND, self.pinned_side, data),)
        return _NOTHING

    def client_eof(self) -> Commands:
        """The client will send no more; it may still read."""
        if self._client == PIPED:
            return ((SHUT, self.pinned_side),)
        out: list[Command] = []
        if not self._client_eof:
            self._client_eof = True
            if self._client < PIPED and self._client != WAITING:
                self._client_ended(out)
        return out

    def client_spliced(self, count: int) -> Commands:
        """``count`` bytes of the body went to its side unseen."""
        out: list[Command] = []
        self._body -= count
        if not self._body:
            self._body_ended(out)
        return out

    def release_held(self) -> Commands:
        """Send on what is held back for fear of broken framing."""
        out: list[Command] = []
        if self.holding:
            assert self._request is not None
            self._release(self._request, out)
        return out

    def undecided_timeout(self) -> Commands:
        """Nobody has said anything that tells the protocol: it is the app's."""
        out: list[Command] = []
        if self.undecided:
            self._pin_app("no complete first line in time", out)
        return out

    # Inputs from upstream.

    def upstream_data(self, side: Side, data: bytes) -> Commands:
        """``side`` sent ``data``."""
        queue = self._queue
        if (
            len(queue) != 1
            or side != self._side
            or (self._client != AT_HEAD and self._client != DROPPED)  # noqa: PLR1714
            or self._answer is not None
            or self._answer_scan is not None
            or self._leaving
            or self._refusal
            or (side is not APP and side not in self._confirmed)
        ):
            return self._upstream_data(side, data)
        # The hot path: the whole of the one answer that is owed.
        head = queue[0].head
        answer = read_answer(data, 0, head.kind)
        if not isinstance(answer, (Bad, HeadScan)):
            end, status, left, close = answer
            if end + left == len(data) and left >= 0 and status >= 200 and head.kind == PLAIN:
                queue.pop().answered = DONE
                self._kept = 0
                if not (close or head.close):
                    return ((SEND_CLIENT, data),)
                self._drop()
                self._client = OVER
                return (SEND_CLIENT, data), (CLOSE_CLIENT,)
        return self._upstream_data(side, data, answer)

    def _upstream_data(
        self, side: Side, data: bytes, answer: Answer | Bad | HeadScan | None = None
    ) -> Commands:
        """``side`` sent ``data``, which begins with ``answer`` if that was read already."""
        if self._client >= PIPED:
            return ((SEND_CLIENT, data),) if self._client == PIPED and side == self.pinned_side else _NOTHING
        out: list[Command] = []
        if not self._queue or side != self._side:
            self._unasked(side, data, out)
            return out
        if side is not None and side not in self._confirmed:
            self._confirm(side, out)
        self._read_answers(side, data, out, answer)
        return out

    def upstream_confirmed(self, side: Side) -> Commands:
        """The handler behind ``side`` is connected."""
        out: list[Command] = []
        if self._client < PIPED:
            self._confirm(side, out)
        return out

    def upstream_spliced(self, side: Side, count: int) -> Commands:
        """``count`` bytes of the answer went to the client unseen."""
        out: list[Command] = []
        if self._answer is not None and self._answer > 0:
            self._answer -= count
            if not self._answer:
                self._answered(side, b"", out)
        return out

    def upstream_eof(self, side: Side) -> Commands:
        """``side`` will send no more; it may still read."""
        if self._client >= PIPED:
            return ((SHUT_CLIENT,),) if self._client == PIPED and side == self.pinned_side else _NOTHING
        out: list[Command] = []
        if self._queue and side == self._side:
            self._answer_ended(side, out)
        elif side is not APP:
            self._confirmed.discard(side)
            out.append((RESET, side))
            if self._body and side == self._side:  # it has answered, and does not take the rest
                self._close(out)
        elif self._outstanding():
            self._leaving = True
            # Either it has answered and may still read the rest of a body, or a session's answer comes first.
            out.append((SHUT_CLIENT,) if self._side is APP else (RESET, APP))
        elif self._begun:
            self._close(out)
        else:
            self._on_verdict(Verdict(Outcome.PIN, reason="the app ended first"))
            self._pin(APP, out, shut=True)
        return out

    def upstream_failed(self, side: Side, reason: str, *, delivered: bool) -> Commands:
        """``side`` is not there, or no more."""
        out: list[Command] = []
        if self._client >= PIPED:
            if self._client == PIPED and side == self.pinned_side:
                self._reset(out)
            return out
        self._confirmed.discard(side)
        if not self._outstanding() or side != self._side:
            if side is APP:
                if self._outstanding():
                    self._leaving = True
                else:
                    self._reset(out)
        elif not self._queue:
            self._close(out)  # answered in full; what it did not want was the rest of a body
        elif side is APP or self._queue[0].answered == BEGUN:
            self._failed(self._queue[0], reason)
            self._reset(out)
        else:
            self._fail_over(reason, out, delivered=delivered)
        return out
