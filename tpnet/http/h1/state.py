"""What is known of one conversation, how it is pinned, and how it ends.

``requests`` and ``responses`` work on one ``State`` together; ``conversation`` makes it. It must never decide
anything: what is done here is what both halves do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

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
from tpnet.http.h1.exchange import TURN, Exchanges
from tpnet.http.h1.framing import RequestFraming, ResponseFraming
from tpnet.http.h1.own import own_response
from tpnet.http.h1.phases import BETWEEN, ENDS, PINS, STOP, TRANSITIONS
from tpnet.http.verdict import APP, Outcome, Verdict

if TYPE_CHECKING:
    from tpnet.http.conversation import Command, Observer
    from tpnet.http.h1.exchange import Exchange
    from tpnet.http.h1.grammar import Bad
    from tpnet.http.h1.head import RequestHead
    from tpnet.http.h1.phases import Phase, Step
    from tpnet.http.verdict import Side


class Ending(NamedTuple):
    """How the connection ends once nothing is outstanding.

    ``response``: our own, to be sent first. ``reset_side``: the side has had the beginning of a request that will
    not be finished.
    """

    response: bytes = b""
    reset_side: bool = False


_CLOSE = Ending()


class State:
    """All that is known of one client connection."""

    __slots__ = (
        "begun",
        "client_eof",
        "decided",
        "ending",
        "exchanges",
        "finishing",
        "held",
        "observer",
        "phase",
        "pinned_side",
        "reading_client",
        "requests",
        "responses",
        "waits_for",
    )

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.phase: Phase = BETWEEN
        self.begun = False  # a first message has been seen
        self.client_eof = False
        self.reading_client = True
        self.held = b""  # bytes of the client that wait
        self.waits_for = TURN
        self.decided: tuple[RequestHead, Verdict] | Bad | None = None  # the first message that waits
        self.exchanges = Exchanges()
        self.requests = RequestFraming()
        self.responses = ResponseFraming()
        self.ending: Ending | None = None
        self.finishing: bool | None = None  # end after the next response; True: and mark it
        self.pinned_side: Side = APP

    def step(self, step: Step) -> None:
        """Go to the next phase. ``KeyError`` if the table has none."""
        self.phase = TRANSITIONS[self.phase][step]

    def leave(self) -> None:
        """Close once nothing is outstanding."""
        self.ending = self.ending or _CLOSE

    def forget_client(self) -> bytes:
        """Forget what the client is in the middle of; give back the bytes of it that were not passed on."""
        unread = self.requests.forget() + self.held
        self.held = b""
        self.decided = None
        self.reading_client = True
        self.exchanges.stop_upload()
        return unread

    def stop(self) -> None:
        """Take nothing more from the client."""
        self.forget_client()
        self.step(STOP)

    def refuse(self, verdict: Verdict, *, reset_side: bool = False) -> None:
        """Answer 400 once all requests before are answered; take no more."""
        self.observer.on_verdict(verdict)
        self.begun = True
        self.stop()
        self.ending = Ending(own_response(400, f"this request was refused: {verdict.reason}"), reset_side)

    def give_up(self, head: RequestHead, sentence: str) -> None:
        """Answer 502, once all requests before are answered, for a session that failed; take no more."""
        self.stop()
        self.ending = Ending(own_response(502, sentence, head))

    def end(self, out: list[Command]) -> None:
        """Nothing is outstanding: end as planned."""
        assert self.ending is not None
        response, reset_side = self.ending
        if reset_side:
            out.append((RESET, self.exchanges.side))
        if response:
            out.append((SEND_CLIENT, response))
        self.close(out)

    def close(self, out: list[Command]) -> None:
        """The end, in an orderly way."""
        self.forget_client()
        self.step(ENDS)
        out.append((CLOSE_CLIENT,))

    def reset(self, out: list[Command]) -> None:
        """The end, by a reset."""
        self.forget_client()
        self.step(ENDS)
        out.append((RESET_CLIENT,))

    def pin_app(self, reason: str, out: list[Command], rest: bytes = b"", told: bytes = b"") -> None:
        """What is said here is between the client and the app alone."""
        self.observer.on_verdict(Verdict(Outcome.PIN, reason=reason))
        self.pin(APP, out, rest, told)

    def pin(
        self, side: Side, out: list[Command], rest: bytes = b"", told: bytes = b"", *, shut: bool = False
    ) -> None:
        """An opaque pipe from now on. What waits and ``rest`` go to the side, ``told`` to the client.

        ``shut``: half-close towards the client.
        """
        unread = self.forget_client() + rest
        told = self.responses.forget() + told
        self.exchanges.queue.clear()
        self.exchanges.kept = 0
        self.step(PINS)
        self.pinned_side = side
        if unread:
            out.append((SEND, side, unread))
        if self.client_eof:
            out.append((SHUT, side))
        if told:
            out.append((SEND_CLIENT, told))
        if shut:
            out.append((SHUT_CLIENT,))
        out.append((PIN, side))

    def failed(self, exchange: Exchange, reason: str) -> None:
        """Tell that a request gets no response of its session."""
        if exchange.verdict.side is not APP:
            self.observer.on_failed(exchange.verdict, reason)
