"""What a conversation is made of: its commands, routes, exchanges, and our own refusals.

Called by ``tpnet.http.conversation``, which re-exports what drivers need.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tpnet.http.head import HEAD

if TYPE_CHECKING:
    from tpnet.http.head import RequestHead

APP: Final = None
"""The app's key where sides are named."""

SEND, SEND_CLIENT, SHUT, SHUT_CLIENT, CLOSE_CLIENT, RESET_CLIENT, RESET, PIN = range(8)

Side = Hashable | None
Command = tuple[Any, ...]
"""One of the constants above, then its arguments; see ``tpnet.http.conversation``."""

KEEP: Final = 65_536
"""Bytes of requests that are kept until answered, so that the app can be given them if a session fails."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes other than to the app.

    ``side`` names the session's end. ``on_failure_app``: give the request to the app when that end is not
    there and it is safe; otherwise it is answered with 502. ``key`` is the caller's own, for counters.
    """

    side: Hashable
    on_failure_app: bool = True
    key: Hashable = None


IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""Methods that may be sent twice (RFC 9110, 9.2.2)."""

UNANSWERED, INTERIM, BEGUN, DONE = range(4)
"""How far an answer has gone to the client: not at all; 1xx only; its head; all of it."""


class Exchange:
    """One request under way.

    ``kept``: all bytes of it so far, for the case that its session fails, or ``None`` if they are not kept. A
    request that came in one piece is kept as that very object.
    """

    __slots__ = ("answered", "head", "kept", "route")

    def __init__(self, head: RequestHead, route: Route | None) -> None:
        self.head = head
        self.route = route
        self.answered = UNANSWERED
        self.kept: bytes | bytearray | None = None


def refusal(status: int, sentence: str, head: RequestHead | None = None) -> bytes:
    """A whole answer of our own, 400 or 502, to the request with that head; it ends the connection."""
    phrase = {400: "Bad Request", 502: "Bad Gateway"}[status]
    body = f"tpnet: {sentence}.\n".encode()
    fields = (
        f"HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode()
    return fields if head is not None and head.kind == HEAD else fields + body
