"""A conversation in HTTP/1. ``tpnet.http.conversation`` says what that is.

``tpnet.proxy`` makes one ``Conversation`` per client connection. Two ways through it are short: a request without a
body to the app, and a whole response. They must never come to anything but what the long ways come to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tpnet.http.conversation import CLOSE_CLIENT, SEND, SEND_CLIENT, SHUT, SHUT_CLIENT
from tpnet.http.h1.exchange import ANSWERED, Exchange
from tpnet.http.h1.grammar import CHUNKED, UNTIL_EOF, Bad, PartialHead
from tpnet.http.h1.head import PLAIN, RequestHead, read_request
from tpnet.http.h1.phases import BETWEEN, IGNORING, IN_BODY, IN_HEAD, OVER, PINNED, REST_OF_HEAD, WAITING
from tpnet.http.h1.requests import Requests
from tpnet.http.h1.response import read_response
from tpnet.http.h1.responses import Responses
from tpnet.http.h1.state import State
from tpnet.http.verdict import APP, TO_APP

if TYPE_CHECKING:
    from collections.abc import Callable

    from tpnet.http.conversation import Command, Commands, Observer
    from tpnet.http.h1.response import ResponseHead
    from tpnet.http.verdict import Side, Verdict

_NOTHING: Final[tuple[Command, ...]] = ()
_UNBOUNDED: Final = 1 << 62


class Conversation:
    """A ``tpnet.http.conversation.Conversation``."""

    __slots__ = (
        "_decide",
        "_exchanges",
        "_framing",
        "_on_verdict",
        "_queue",
        "_requests",
        "_responses",
        "_state",
    )

    def __init__(self, decide: Callable[[RequestHead], Verdict], observer: Observer) -> None:
        self._decide = decide
        self._on_verdict = observer.on_verdict
        self._state = State(observer)
        # Parts of it that the hot paths look at.
        self._exchanges = self._state.exchanges
        self._queue = self._exchanges.queue
        self._framing = self._state.responses
        self._requests = Requests(self._state, decide)
        self._responses = Responses(self._state, self._requests)

    # State for the driver.

    @property
    def reading_client(self) -> bool:
        """Whether the client may be read from."""
        return self._state.reading_client

    @property
    def pinned(self) -> bool:
        """Whether it is an opaque pipe."""
        return self._state.phase is PINNED

    @property
    def pinned_side(self) -> Side:
        """The pipe's other end."""
        return self._state.pinned_side

    @property
    def over(self) -> bool:
        """Whether the end has been commanded."""
        return self._state.phase is OVER

    @property
    def undecided(self) -> bool:
        """Whether it cannot yet be told that this is HTTP."""
        state = self._state
        if state.begun:
            return False
        partial = state.requests.partial
        return partial is not None and not partial.first_line

    @property
    def kept(self) -> int:
        """How many bytes of the client's are the beginning of a head."""
        partial = self._state.requests.partial
        return 0 if partial is None else len(partial.buffer)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way in either direction."""
        state = self._state
        if state.exchanges.queue:
            return False
        partial = state.requests.partial
        return state.phase is BETWEEN or (partial is not None and partial.blank)

    @property
    def holding(self) -> bool:
        """Whether a request is held back for a moment."""
        return self._state.exchanges.holding

    @property
    def client_splice(self) -> tuple[Side, int] | None:
        """How many body bytes may go from the client to which side unseen."""
        state = self._state
        left, request = state.requests.body, state.exchanges.uploading
        if state.phase is not IN_BODY or left <= 0 or request is None or request.kept is not None:
            return None
        return state.exchanges.side, left

    def upstream_splice(self, side: Side) -> int:
        """How many body bytes may go from ``side`` to the client unseen."""
        state = self._state
        left = state.responses.left
        if left is None or left == CHUNKED or side != state.exchanges.side or state.phase.ended:
            return 0
        return _UNBOUNDED if left == UNTIL_EOF else left

    # Inputs from the client.

    def client_data(self, data: bytes) -> Commands:
        """The client sent ``data``."""
        state = self._state
        if state.phase is not BETWEEN or self._queue:
            return self._client_data(data)
        # The hot path: one request without a body, for the app, while nothing is under way.
        head = read_request(data)
        if type(head) is not RequestHead or head.body or len(head.raw) != len(data) or head.reason:
            return self._client_data(data, head)
        state.begun = True
        verdict = self._decide(head)
        self._on_verdict(verdict)
        if verdict is not TO_APP:
            state.decided = head, verdict
            return self._client_data(data)
        self._exchanges.side = APP
        self._queue.append(Exchange(head, verdict))
        if head.close:
            state.phase = IGNORING
        return ((SEND, APP, data),)

    def _client_data(self, data: bytes, head: RequestHead | Bad | PartialHead | None = None) -> Commands:
        """The client sent ``data``, which begins with ``head`` if that was read already."""
        state = self._state
        phase = state.phase
        if phase is BETWEEN or phase is IN_BODY:
            out: list[Command] = []
            self._requests.read(data, out, head)
            return out
        if phase is IN_HEAD:
            whole = state.requests.rest_of_head(data)
            if whole is None:
                return _NOTHING
            state.step(REST_OF_HEAD)
            out = []
            self._requests.read(whole, out)
            return out
        if phase is WAITING:
            state.held += data
        elif phase is PINNED:
            return ((SEND, state.pinned_side, data),)
        return _NOTHING

    def client_eof(self) -> Commands:
        """The client will send no more; it may still read."""
        state = self._state
        if state.phase is PINNED:
            return ((SHUT, state.pinned_side),)
        out: list[Command] = []
        if not state.client_eof:
            state.client_eof = True
            self._requests.client_ended(out)
        return out

    def client_spliced(self, count: int) -> Commands:
        """``count`` bytes of the body went to its side unseen."""
        out: list[Command] = []
        framing = self._state.requests
        framing.spliced(count)
        if not framing.body:
            self._requests.body_ended(out)
        return out

    def release_held(self) -> Commands:
        """Send on what is held back for fear of broken framing."""
        out: list[Command] = []
        if self._state.exchanges.holding:
            self._state.exchanges.release(out)
        return out

    def undecided_timeout(self) -> Commands:
        """Nobody has said anything that tells the protocol: it is the app's."""
        out: list[Command] = []
        if self.undecided:
            self._state.pin_app("no complete first line in time", out)
        return out

    def no_room(self) -> Commands:
        """The beginning of a head is more than there is room for: it is the app's."""
        out: list[Command] = []
        if self._state.requests.partial is not None:
            self._requests.no_room(out)
        return out

    def finish(self, *, mark: bool) -> None:
        """End after the next response that has not begun; with ``mark``, that response says so."""
        self._state.finishing = mark

    # Inputs from upstream.

    def upstream_data(self, side: Side, data: bytes) -> Commands:
        """``side`` sent ``data``."""
        state = self._state
        queue = self._queue
        exchanges = self._exchanges
        framing = self._framing
        phase = state.phase
        if (
            len(queue) != 1
            or side != exchanges.side
            or (phase is not BETWEEN and phase is not IGNORING)
            or framing.left is not None
            or framing.partial is not None
            or state.ending is not None
            or state.finishing is not None
            or (side is not APP and side not in exchanges.confirmed)
        ):
            return self._upstream_data(side, data)
        # The hot path: the whole of the one response that is owed.
        head = queue[0].head
        response = read_response(data, 0, head.kind)
        if not isinstance(response, (Bad, PartialHead)):
            end, status, left, close = response
            if end + left == len(data) and left >= 0 and status >= 200 and head.kind == PLAIN:
                queue.pop().progress = ANSWERED
                exchanges.kept = 0
                if not (close or head.close):
                    return ((SEND_CLIENT, data),)
                state.forget_client()
                state.phase = OVER
                return (SEND_CLIENT, data), (CLOSE_CLIENT,)
        return self._upstream_data(side, data, response)

    def _upstream_data(
        self, side: Side, data: bytes, head: ResponseHead | Bad | PartialHead | None = None
    ) -> Commands:
        """``side`` sent ``data``, which begins with ``head`` if that was read already."""
        state = self._state
        if state.phase.ended:
            piped = state.phase is PINNED and side == state.pinned_side
            return ((SEND_CLIENT, data),) if piped else _NOTHING
        exchanges = state.exchanges
        out: list[Command] = []
        if not exchanges.queue or side != exchanges.side:
            self._responses.unasked(side, data, out)
            return out
        if side is not APP and side not in exchanges.confirmed:
            self._confirm(side, out)
        self._responses.read(side, data, out, head)
        return out

    def upstream_confirmed(self, side: Side) -> Commands:
        """The handler behind ``side`` is connected."""
        out: list[Command] = []
        if not self._state.phase.ended:
            self._confirm(side, out)
        return out

    def _confirm(self, side: Side, out: list[Command]) -> None:
        state = self._state
        state.exchanges.confirm(side, state.requests.body)
        if side == state.exchanges.side:
            self._requests.resume(out)

    def upstream_spliced(self, side: Side, count: int) -> Commands:
        """``count`` bytes of the response went to the client unseen."""
        out: list[Command] = []
        framing = self._state.responses
        if framing.left is not None and framing.left > 0:
            framing.left -= count
            if not framing.left:
                self._responses.complete(side, b"", out)
        return out

    def upstream_eof(self, side: Side, *, unseen: bool = False) -> Commands:
        """``side`` will send no more; it may still read."""
        state = self._state
        if state.phase.ended:
            piped = state.phase is PINNED and side == state.pinned_side
            return ((SHUT_CLIENT,),) if piped else _NOTHING
        out: list[Command] = []
        if state.exchanges.queue and side == state.exchanges.side:
            self._responses.ended(side, out, unseen=unseen)
        else:
            self._responses.unasked_end(side, out)
        return out

    def upstream_failed(self, side: Side, reason: str, *, delivered: bool, again: bool = False) -> Commands:
        """``side`` is not there, or no more."""
        state = self._state
        out: list[Command] = []
        if not state.phase.ended:
            self._responses.failed(side, reason, out, delivered=delivered, again=again)
        elif state.phase is PINNED and side == state.pinned_side:
            state.reset(out)
        return out
