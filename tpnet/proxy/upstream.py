"""What a connection has on its other sides: one ``Upstream`` to the app, one to each session that took a request.

``tpnet.proxy.app_upstream`` and ``session_upstream`` are the two kinds. An upstream belongs to one connection, its
``Owner``, and must never be shared with another, nor know what protocol passes through it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable

    from tpnet.proxy.context import Context
    from tpnet.proxy.stream import Stream


class Upstream(Protocol):
    """One connection to the app or to a session.

    ``stream`` is there from the beginning: what is sent before it is connected waits in it.
    """

    @property
    def side(self) -> Hashable | None:
        """What names it in commands."""

    @property
    def stream(self) -> Stream:
        """Its bytes."""

    @property
    def kept(self) -> bool:
        """Whether it stays open while requests go elsewhere."""

    @property
    def unseen(self) -> bool:
        """Whether it is certain that what was sent after the last byte that came from it has reached nobody."""

    def sent(self) -> None:
        """Something was sent on its stream."""

    def on_events(self, events: int, /) -> None:
        """Its socket is ready for something."""

    def dial(self) -> None:
        """Begin. The owner may be told of the failure before this returns."""

    def close(self, *, reset: bool = False) -> None:
        """Let go of it: in an orderly way, or with RST. Its owner hears nothing of it any more."""


class Mover(Protocol):
    """Moves a connection's bytes: through a conversation, or as a pipe."""

    @property
    def reading(self) -> bool:
        """Whether the client may be read from."""

    @property
    def idle(self) -> bool:
        """Whether it is between messages, in both directions."""

    def finish(self, *, mark: bool) -> None:
        """End the connection at the next message's end; with ``mark``, the response says so before."""

    def on_client(self, events: int, /) -> None:
        """The client's socket is ready for something."""

    def on_upstream(self, upstream: Upstream, events: int, /) -> None:
        """The socket of an established upstream is ready for something."""

    def confirmed(self, upstream: Upstream, /) -> None:
        """The handler behind it is reached."""

    def retire(self, upstream: Upstream, /) -> None:
        """No further request will go there: it is to be let go of when it owes nothing."""

    def lost(self, upstream: Upstream, reason: str, /, *, delivered: bool, again: bool) -> None:
        """It is not there, or no more, and let go of.

        ``delivered``: it may have had some of what was sent. ``again``: another connection may well be had.
        """


class Owner(Protocol):
    """The connection that an upstream belongs to."""

    context: Context
    mover: Mover
    calm: bool
    """Whether nothing waits anywhere; who disturbs that clears it, and calls ``settle`` in the end."""

    def failed(self, upstream: Upstream, reason: str, /, *, delivered: bool, again: bool = False) -> None:
        """It cannot be had, or was lost; see ``Mover.lost``."""

    def settle(self) -> None:
        """Work out what to watch."""

    def fail(self) -> None:
        """Something of ours went wrong: end it, and count that."""

    def end(self, *, prompt: bool = False) -> None:
        """End it in an orderly way; ``prompt``: the client at once."""

    def abort(self) -> None:
        """End the whole connection, with RST."""
