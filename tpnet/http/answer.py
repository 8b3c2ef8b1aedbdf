"""Answer heads: status, and where the answer ends.

Called by ``tpnet.http.conversation`` for both sides. It is as strict with the app as with a session; what
differs is the consequence, and that is the conversation's. Sections are those of RFC 9112 unless RFC 9110 is
named.
"""

from __future__ import annotations

import re
from typing import Final

from tpnet.http.grammar import (
    FIELDS,
    MAX_HEAD,
    TOO_LONG,
    UNTIL_EOF,
    VALUE,
    Bad,
    HeadScan,
    body_length,
    persists,
)
from tpnet.http.head import CONNECT, HEAD

_NOT_HTTP: Final = Bad("P", "its first line is not a status line of HTTP/1")
_MALFORMED: Final = Bad("P", "its head is malformed")

# Status line (section 4). The space before an empty reason is often missing.
_LINE: Final = rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: " + VALUE + rb"*+)?\r\n"
_answer: Final = re.compile(_LINE + FIELDS).match
_line: Final = re.compile(_LINE).fullmatch
_prefix: Final = re.compile(
    rb"(?:H(?:T(?:T(?:P(?:/(?:1(?:\.(?:[01](?: (?:[1-9](?:[0-9](?:[0-9](?: "
    + VALUE
    + rb"*+)?\r?)?)?)?)?)?)?)?)?)?)?)?)?"
).fullmatch
_noted: Final = re.compile(rb"\n(connection|content-length|transfer-encoding):[ \t]*([^\r]*)").findall

Answer = tuple[int, int, int, bool]
"""Offset of its end; status; body in bytes, ``CHUNKED`` or ``UNTIL_EOF``; whether nothing follows it."""


def answer_scan() -> HeadScan:
    """A buffer for an answer's head that has not arrived in full."""
    return HeadScan(_line, _prefix, _NOT_HTTP, blanks=False)


def read_answer(data: bytes, at: int, kind: int) -> Answer | Bad | HeadScan:
    """The answer head that begins at offset ``at`` of ``data``.

    ``kind`` is the request's: ``head.PLAIN`` and so on.
    A ``HeadScan`` that holds all bytes from ``at`` on when the head is not there in full.
    """
    match = _answer(data, at)
    if match is None:
        scan = answer_scan()
        end_or_bad = scan.feed(data[at:])
        if end_or_bad is None:
            return scan
        return end_or_bad if isinstance(end_or_bad, Bad) else _MALFORMED
    end = match.end()
    if end - at > MAX_HEAD:
        return TOO_LONG
    status = int(match[2])
    version = 11 if match[1] == b"1" else 10
    connection: list[bytes] = []
    lengths: list[bytes] = []
    codings: list[bytes] = []
    for name, value in _noted(data[at:end].lower()):
        if name == b"connection":
            connection.append(value)
        elif name == b"content-length":
            lengths.append(value.rstrip(b" \t"))
        else:
            codings.append(value.rstrip(b" \t"))
    close = not persists(version, connection) if connection else version == 10
    if status == 101 or (kind == CONNECT and 200 <= status < 300):
        return end, status, 0, close  # a tunnel begins; framing fields mean nothing (RFC 9110, 9.3.6)
    body = body_length(version, lengths, codings)
    if isinstance(body, str):
        return Bad("P", body)
    if status < 200 or status == 204:
        # Neither may announce a body (section 6.3; RFC 9110, 8.6). Some clients would wait for it.
        return (
            Bad("P", "its status allows no body, and it announces one") if body else (end, status, 0, close)
        )
    if kind == HEAD or status == 304:
        return end, status, 0, close
    if not lengths and not codings:
        return end, status, UNTIL_EOF, True
    return end, status, body, close
