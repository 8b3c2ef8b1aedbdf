"""What a conversation is made of: its exchanges, and our own refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tpnet.http.h1.head import HEAD

if TYPE_CHECKING:
    from tpnet.http.h1.head import RequestHead
    from tpnet.http.verdict import Verdict

KEEP: Final = 65_536
"""Bytes of requests that are kept until answered, so that the app can be given them if a session fails."""


IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""Methods that may be sent twice (RFC 9110, 9.2.2)."""

UNANSWERED, INTERIM, BEGUN, DONE = range(4)
"""How far an answer has gone to the client: not at all; 1xx only; its head; all of it."""


class Exchange:
    """One request under way.

    ``kept``: all bytes of it so far, for the case that its session fails, or ``None`` if they are not kept. A
    request that came in one piece is kept as that very object.
    """

    __slots__ = ("answered", "head", "kept", "verdict")

    def __init__(self, head: RequestHead, verdict: Verdict) -> None:
        self.head = head
        self.verdict = verdict
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
