"""What a conversation is, whatever its protocol: the contract between ``tpnet.proxy`` and ``tpnet.http``.

A conversation takes one client connection's bytes, sends every request to the side the rules pick, and answers
in order. The worker (``tpnet.proxy``) makes one ``Conversation`` per client connection, tells it what arrives, and does
what it commands. No I/O, no clock, no threads here. Bytes go on exactly as they came: every ``SEND`` carries a
slice of what was received (the very object, when a read holds one message), never anything made anew. The
only bytes of our own are the short 400 and 502 responses, and the mark of ``finish``. An upgrade to a protocol that
carries requests is left out of what a session gets.

Sides
    ``APP`` (``None``) is the app; any other key comes from a ``Verdict``. A side is a connection upstream; one
    conversation has at most one to each.

Decisions
    ``decide(head)`` is asked once per request that rules may decide, and gives a ``Verdict``: ``FORWARD`` to
    its side, ``APP``, or ``FAIL``. The ``Observer`` is told each verdict as it falls (``on_verdict``), and of a
    request that was to go to a session its later fate: ``on_fallback`` (given to the app after all) or
    ``on_failed`` (answered with 502, or its response broken off).

Inputs (each returns the commands to carry out, in order; possibly none)
    ``client_data(data)``, ``client_eof()``
        What the client sent. ``data`` is ``bytes`` and not empty.
    ``upstream_data(side, data)``, ``upstream_eof(side, unseen=...)``
        What that side sent. ``unseen=True``: surely nothing that was sent to it after the last byte that it sent reached
        the other end.
    ``upstream_confirmed(side)``
        A session's end has said that the handler is connected (``upstream_data`` implies it). Until then
        everything sent there is kept, so that all of it can go to the app; a body larger than ``KEEP`` waits
        (``reading_client``). Not needed for the app.
    ``upstream_failed(side, reason, delivered=..., again=...)``
        That side refused, was reset, timed out or is known to be dead: the driver has let go of it. ``reason``
        goes to the observer, and completes the sentence of a 502: "the handler did not answer: ...".
        ``delivered=False``: surely nothing reached the other end. ``again=True``: a fresh connection to the same side
        may well do. A client that resets ends the conversation:
        no input, the driver resets every side.
    ``undecided_timeout()``
        ``undecided`` for ten seconds.
    ``no_room()``
        What is ``kept`` is more than the driver has room for. The app gets it, and decides; where a session owes
        responses, after those.
    ``release_held()``
        About 0.1 s after ``holding`` became true (see there).
    ``finish(mark=...)``
        The driver wants to end. Each connection's next response that has not begun is its last: with ``mark``,
        it gets ``Connection: close``. Commands nothing; between messages the next request is waited for.
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
        The client has sent bytes, and they tell no protocol yet. Look after each ``client_data``. (A client that
        has sent none may go on so for ever.)
    ``kept``
        Bytes of the client's that are kept since they are the beginning of a head.
    ``idle``
        Between messages, nothing outstanding, nothing held: a good moment to close. While a session owes
        responses the app's connection owes nothing: let go of it at any time, without a word.
    ``holding``
        A chunked request to a session is held back until its end, ``KEEP`` bytes or ``release_held()``, so
        that a short one with broken framing never reaches the session at all. A request with ``Expect`` is
        not held.
    ``client_splice``
        ``(side, n)``: the next ``n`` bytes from the client may be moved to the side unseen; or ``None``.
    ``upstream_splice(side)``
        How many bytes from the side may be moved to the client unseen; 0 for none. Of a response that ends
        with the connection, a huge number: move until end of file, then ``upstream_eof``.

Commands
    ``(SEND, side, data)``      to that side; a side that is not open is dialled first, the app too.
    ``(SEND_CLIENT, data)``     to the client.
    ``(SHUT, side)``            half-close towards the side after all that was sent; ignore it if not open.
    ``(SHUT_CLIENT,)``          half-close towards the client after all that was sent.
    ``(CLOSE_CLIENT,)``         the end, in an orderly way: let all have what was sent, then close all;
                                read and drop what the client still sends, lest a reset destroy the response.
    ``(RESET_CLIENT,)``         the end: reset the client and every side.
    ``(RESET, side)``           break that side off, forget it; ignored if not open. A later SEND dials anew.
    ``(PIN, side)``             an opaque pipe client <-> side from now on; let go of all other sides. What is
                                to reach either end before comes in commands before; so does a half-close. The
                                side is open, or has been sent something.

Order. Requests to one side are pipelined through. A request to another side than the one that owes answers
waits until they are complete, and so does what cannot be routed while a session owes some: then it is pinned to
the app. Nothing follows an upgrade or a CONNECT until it is answered: 101 (or 2xx to CONNECT) pins, a refused
CONNECT closes (RFC 9931), and so does a refused upgrade that something has followed. ``Connection: close``,
HTTP/1.0 without keep-alive: what follows is dropped.

Trust. The app's responses are trusted: if they cannot be followed, the connection is pinned to it. A session's
are not: misframed or surplus bytes never reach the client, whose connection ends.

Failure of a session's end: where an old connection ends or breaks before any byte of a response, its requests are sent
over a fresh one, once, if all of them were kept, and may be repeated or were surely not seen (``unseen``, and the
first of them began when nothing was outstanding, so after all that has come). If not, or if that fails as well:
unanswered requests go to the app if the verdict allows it and nothing was delivered, or the method is idempotent and
all of it was kept. Otherwise 502, or ``RESET_CLIENT`` if a response had begun.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, Protocol

from tpnet.http.verdict import APP, Side, Verdict

__all__ = [
    "APP",
    "CLOSE_CLIENT",
    "PIN",
    "RESET",
    "RESET_CLIENT",
    "SEND",
    "SEND_CLIENT",
    "SHUT",
    "SHUT_CLIENT",
    "Command",
    "Commands",
    "Conversation",
    "Observer",
    "Side",
]

SEND: Final = 0
SEND_CLIENT: Final = 1
SHUT: Final = 2
SHUT_CLIENT: Final = 3
CLOSE_CLIENT: Final = 4
RESET_CLIENT: Final = 5
RESET: Final = 6
PIN: Final = 7

# Plain tuples: some are made for every request, and a named one takes five times as long.
Command = (
    tuple[Literal[0], Side, bytes]
    | tuple[Literal[1], bytes]
    | tuple[Literal[2, 6, 7], Side]
    | tuple[Literal[3, 4, 5]]
)
"""One of the constants above, then its arguments; see the module's docstring."""
Commands = Sequence[Command]


class Observer(Protocol):
    """Is told what is decided, and what becomes of a matched request later."""

    @property
    def guarding(self) -> bool:
        """Whether any rule stands. If not, nothing can be smuggled to anybody, and nothing is refused."""

    def on_verdict(self, verdict: Verdict, /) -> None:
        """A verdict falls."""

    def on_fallback(self, verdict: Verdict, reason: str, /) -> None:
        """The app is given a request that was forwarded by ``verdict`` to a session, after all."""

    def on_failed(self, verdict: Verdict, reason: str, /) -> None:
        """Such a request is answered with 502, or its response broke off."""


class Conversation(Protocol):
    """See the module's docstring, which is the contract."""

    @property
    def reading_client(self) -> bool:
        """Whether the client may be read from."""

    @property
    def pinned(self) -> bool:
        """Whether it is an opaque pipe."""

    @property
    def pinned_side(self) -> Side:
        """The pipe's other end."""

    @property
    def over(self) -> bool:
        """Whether the end has been commanded."""

    @property
    def undecided(self) -> bool:
        """Whether the protocol cannot be told yet."""

    @property
    def kept(self) -> int:
        """How many bytes of the client's are the beginning of a head."""

    @property
    def idle(self) -> bool:
        """Whether nothing is under way in either direction."""

    @property
    def holding(self) -> bool:
        """Whether a request is held back for a moment."""

    @property
    def client_splice(self) -> tuple[Side, int] | None:
        """How many body bytes may go from the client to which side unseen."""

    def upstream_splice(self, side: Side) -> int:
        """How many body bytes may go from ``side`` to the client unseen."""

    def client_data(self, data: bytes) -> Commands:
        """The client sent ``data``."""

    def client_eof(self) -> Commands:
        """The client will send no more; it may still read."""

    def client_spliced(self, count: int) -> Commands:
        """``count`` bytes of a body went to its side unseen."""

    def finish(self, *, mark: bool) -> None:
        """End after the next response that has not begun; with ``mark``, that response says so."""

    def release_held(self) -> Commands:
        """``holding`` has lasted long enough."""

    def undecided_timeout(self) -> Commands:
        """``undecided`` has lasted long enough."""

    def no_room(self) -> Commands:
        """What is ``kept`` is too much."""

    def upstream_data(self, side: Side, data: bytes) -> Commands:
        """``side`` sent ``data``."""

    def upstream_confirmed(self, side: Side) -> Commands:
        """The handler behind ``side`` is connected."""

    def upstream_spliced(self, side: Side, count: int) -> Commands:
        """``count`` bytes of a body went to the client unseen."""

    def upstream_eof(self, side: Side, *, unseen: bool = False) -> Commands:
        """``side`` will send no more; it may still read."""

    def upstream_failed(self, side: Side, reason: str, *, delivered: bool, again: bool = False) -> Commands:
        """``side`` is not there, or no more."""
