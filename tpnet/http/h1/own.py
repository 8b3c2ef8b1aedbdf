"""The only bytes of our own that a client gets: the short responses 400 and 502.

Called by ``state``. It must never say anything of a request but what is wrong with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpnet.http.h1.head import HEAD

if TYPE_CHECKING:
    from tpnet.http.h1.head import RequestHead


def own_response(status: int, sentence: str, head: RequestHead | None = None) -> bytes:
    """A whole response of our own, 400 or 502, to the request with that head; it ends the connection."""
    phrase = {400: "Bad Request", 502: "Bad Gateway"}[status]
    body = f"tpnet: {sentence}.\n".encode()
    fields = (
        f"HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode()
    return fields if head is not None and head.kind == HEAD else fields + body
