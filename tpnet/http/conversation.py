"""One client connection's conversation in HTTP/1: every request to the side the rules pick, answers in order.

The worker (``tpnet.proxy``) makes one ``Conversation`` per client connection, tells it what arrives, and does
what it answers. No I/O, no clock, no threads here. Bytes go on exactly as they came: every ``SEND`` carries a
slice of what was received (the very object, when a read holds one message), never anything made anew. The
only bytes of our own are the short 400 and 502 answers.

Sides
    ``APP`` (``None``) is the app; any other key comes from the ``Route`` that ``route`` returns. A side is a
    connection upstream; one conversation has at most one to each.

Inputs (each returns the commands to carry out, in order; possibly none)
    ``client_data(data)``, ``client_eof()``
        What the client sent. ``data`` is ``bytes`` and not empty.
    ``upstream_data(side, data)``, ``upstream_eof(side)``
        What that side sent.
    ``upstream_confirmed(side)``
        A session's end has said that the handler is connected (``upstream_data`` implies it). Until then
        everything sent there is kept, so that all of it can go to the app; a body larger than ``KEEP`` waits
        (``reading_client``). Not needed for the app.
    ``upstream_failed(side, delivered=...)``
        That side refused, was reset, timed out or is known to be dead: the driver has let go of it.
        ``delivered=False``: surely nothing reached the other end. A client that resets ends the conversation:
        no input, the driver resets every side.
    ``undecided_timeout()``
        Ten seconds without a complete first line.
    ``release_held()``
        About 0.1 s after ``holding`` became true (see there).
    ``client_spliced(n)``, ``upstream_spliced(side, n)``
        ``n`` bytes have been moved unseen, at most as many as were allowed.

State
    ``reading_client``
        False: do not read from the client. At most one more read may be given. A client that has only half
        closed is told by ``client_eof`` once reading goes on.
    ``pinned``, ``pinned_side``
        An opaque pipe between the client and that side; the driver relays alone. (Inputs still work, as a
        plain pipe.)
    ``over``
        ``CLOSE_CLIENT`` or ``RESET_CLIENT`` has been given; all further inputs return nothing.
    ``undecided``
        No complete first line yet, nothing pinned.
    ``idle``
        Between messages, nothing outstanding, nothing held: a good moment to close.
    ``holding``
        A chunked request to a session is held back until its end, ``KEEP`` bytes or ``release_held()``, so
        that a short one with broken framing never reaches the session at all. A request with ``Expect`` is
        not held.
    ``client_splice``
        ``(side, n)``: the next ``n`` bytes from the client may be moved to the side unseen; or ``None``.
    ``upstream_splice(side)``
        How many bytes from the side may be moved to the client unseen; 0 for none. Of an answer that ends
        with the connection, a huge number: move until end of file, then ``upstream_eof``.

Commands
    ``(SEND, side, data)``      to that side; a side that is not open is dialled first, the app too.
    ``(SEND_CLIENT, data)``     to the client.
    ``(SHUT, side)``            half-close towards the side after all that was sent; ignore it if not open.
    ``(SHUT_CLIENT,)``          half-close towards the client after all that was sent.
    ``(CLOSE_CLIENT,)``         the end, in an orderly way: let all have what was sent, then close all;
                                read and drop what the client still sends, lest a reset destroy the answer.
    ``(RESET_CLIENT,)``         the end: reset the client and every side.
    ``(RESET, side)``           break that side off, forget it; ignored if not open. A later SEND dials anew.
    ``(PIN, side)``             an opaque pipe client <-> side from now on; let go of all other sides. What is
                                to reach either end before comes in commands before; so does a half-close.

Order. Requests to one side are pipelined through. A request to another side than the one that owes answers
waits until they are complete. Nothing follows an upgrade or a CONNECT until it is answered: 101 (or 2xx to
CONNECT) pins, a refused CONNECT closes (RFC 9931). ``Connection: close``, HTTP/1.0 without keep-alive: what
follows is dropped.

Trust. The app's answers are trusted: if they cannot be followed, the connection is pinned to it. A session's
are not: misframed or surplus bytes never reach the client, whose connection ends.

Failure of a session's end: unanswered requests go to the app if the route allows it and nothing was
delivered, or the method is idempotent and all of it was kept. Otherwise 502, or ``RESET_CLIENT`` if an answer
had begun.

Verdicts are told to ``on_event(letter, route, reason)`` as they fall: ``F`` (``route`` is the ``Route`` or
``None`` for the app), ``A``, ``P``, ``R``, ``B``, and two of a matched request's later fate: ``fallback``
(given to the app after all) and ``failed`` (answered with 502, or its answer broken off).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tpnet.http.answer import read_answer
from tpnet.http.answers import Answers
from tpnet.http.exchange import (
    APP,
    BEGUN,
    CLOSE_CLIENT,
    DONE,
    KEEP,
    PIN,
    RESET,
    RESET_CLIENT,
    SEND,
    SEND_CLIENT,
    SHUT,
    SHUT_CLIENT,
    Command,
    Exchange,
    Route,
    Side,
)
from tpnet.http.grammar import CHUNKED, UNTIL_EOF, Bad, HeadScan
from tpnet.http.head import PLAIN, RequestHead, read_request
from tpnet.http.state import AT_HEAD, DROPPED, IN_BODY, IN_HEAD, OVER, PIPED, WAITING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tpnet.http.answer import Answer

__all__ = [
    "APP",
    "CLOSE_CLIENT",
    "KEEP",
    "PIN",
    "RESET",
    "RESET_CLIENT",
    "SEND",
    "SEND_CLIENT",
    "SHUT",
    "SHUT_CLIENT",
    "Command",
    "Conversation",
    "Route",
    "Side",
]

_NOTHING: Final[tuple[Command, ...]] = ()
_UNBOUNDED: Final = 1 << 62


class Conversation(Answers):
    """See the module's docstring, which is the contract."""

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

    def client_data(self, data: bytes) -> Sequence[Command]:
        """The client sent ``data``."""
        if self._client != AT_HEAD or self._queue:
            return self._client_data(data)
        # The hot path: one request without a body, for the app, while nothing is under way.
        head = read_request(data)
        if type(head) is not RequestHead or head.body or len(head.raw) != len(data) or head.reason:
            return self._client_data(data, head)
        self._begun = True
        route = self._route(head)
        if self.on_event is not None:
            self.on_event("F", route, "")
        if route is not None:
            self._next = head, route
            return self._client_data(data)
        self._side = APP
        self._queue.append(Exchange(head, None))
        if head.close:
            self._client = DROPPED
        return ((SEND, APP, data),)

    def _client_data(
        self, data: bytes, head: RequestHead | Bad | HeadScan | None = None
    ) -> Sequence[Command]:
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

    def client_eof(self) -> Sequence[Command]:
        """The client will send no more; it may still read."""
        if self._client == PIPED:
            return ((SHUT, self.pinned_side),)
        out: list[Command] = []
        if not self._client_eof:
            self._client_eof = True
            if self._client < PIPED and self._client != WAITING:
                self._client_ended(out)
        return out

    def client_spliced(self, count: int) -> Sequence[Command]:
        """``count`` bytes of the body went to its side unseen."""
        out: list[Command] = []
        self._body -= count
        if not self._body:
            self._body_ended(out)
        return out

    def release_held(self) -> Sequence[Command]:
        """Send on what is held back for fear of broken framing."""
        out: list[Command] = []
        if self.holding:
            assert self._request is not None
            self._release(self._request, out)
        return out

    def undecided_timeout(self) -> Sequence[Command]:
        """Nobody has said anything that tells the protocol: it is the app's."""
        out: list[Command] = []
        if self.undecided:
            self._pin_app("no complete first line in time", out)
        return out

    # Inputs from upstream.

    def upstream_data(self, side: Side, data: bytes) -> Sequence[Command]:
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
    ) -> Sequence[Command]:
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

    def upstream_confirmed(self, side: Side) -> Sequence[Command]:
        """The handler behind ``side`` is connected."""
        out: list[Command] = []
        if self._client < PIPED:
            self._confirm(side, out)
        return out

    def upstream_spliced(self, side: Side, count: int) -> Sequence[Command]:
        """``count`` bytes of the answer went to the client unseen."""
        out: list[Command] = []
        if self._answer is not None and self._answer > 0:
            self._answer -= count
            if not self._answer:
                self._answered(side, b"", out)
        return out

    def upstream_eof(self, side: Side) -> Sequence[Command]:
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
            self._event("P", None, "the app ended first")
            self._pin(APP, out, shut=True)
        return out

    def upstream_failed(self, side: Side, *, delivered: bool) -> Sequence[Command]:
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
            self._failed(self._queue[0], "the answer broke off")
            self._reset(out)
        else:
            self._fail_over(
                "it was reached and then lost" if delivered else "it cannot be reached",
                out,
                delivered=delivered,
            )
        return out
