"""Response heads: status, and where the response ends.

Called by ``framing`` and ``conversation`` for both sides. It is as strict with the app as with a session; what
differs is the consequence, and that is the conversation's. Sections are those of RFC 9112 unless RFC 9110 is
named.
"""

from __future__ import annotations

import re
from typing import Final

from tpnet.http.h1.grammar import (
    CRLF,
    FIELD,
    HEAD_END,
    MAX_HEAD,
    TOO_LONG,
    UNTIL_EOF,
    VALUE,
    Bad,
    Memo,
    PartialHead,
    body_length,
    persists,
)
from tpnet.http.h1.head import CONNECT, HEAD, PLAIN
from tpnet.http.verdict import Outcome

_BODILESS: Final = frozenset({204, 304})
_NOT_HTTP: Final = Bad(Outcome.PIN, "its first line is not a status line of HTTP/1")
_MALFORMED_HEAD: Final = Bad(Outcome.PIN, "its head is malformed")

# Status line (section 4). The space before an empty reason is often missing.
_LINE: Final = rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: " + VALUE + rb"*+)?\r\n"
_line: Final = re.compile(_LINE).fullmatch
_prefix: Final = re.compile(
    rb"(?:H(?:T(?:T(?:P(?:/(?:1(?:\.(?:[01](?: (?:[1-9](?:[0-9](?:[0-9](?: "
    + VALUE
    + rb"*+)?\r?)?)?)?)?)?)?)?)?)?)?)?)?"
).fullmatch
_noted: Final = re.compile(rb"\n(connection|content-length|transfer-encoding):[ \t]*([^\r]*)").findall
_field: Final = re.compile(FIELD).fullmatch

# What a field line is. In the sum over a head's lines, what is below ``_CLOSE`` lies from ``_LENGTH`` on and below twice
# that if one of them is a Content-Length of so much more; the sum is below ``_NOTED`` if the others mean nothing here or
# ``Connection: close``, and below ``_MALFORMED`` if all are well-formed. (A head has less than 2**16 lines.)
_PLAIN_LINE, _LENGTH, _CLOSE, _NOTED, _MALFORMED = 0, 1 << 48, 1 << 72, 1 << 96, 1 << 120
_LONG: Final = 15
"""Digits of a length from which on it is looked at closely."""


def _read_line(line: bytes) -> int:
    field = _field(line)
    if field is None:
        return _MALFORMED
    name, value = field[1].lower(), field[2].strip(b" \t").lower()
    if name == b"content-length" and value.isdigit() and len(value) < _LONG:
        return _LENGTH + int(value)
    if name == b"connection":
        return {b"keep-alive": _PLAIN_LINE, b"close": _CLOSE}.get(value, _NOTED)
    return _NOTED if name in {b"content-length", b"transfer-encoding"} else _PLAIN_LINE


_line_of: Final = Memo(_read_line).__getitem__


def _read_head(head: bytes) -> tuple[int, int, int, bool] | None:
    """Status, version, and if that is all one has to know: the length announced, else -1; whether it says "close".

    ``None`` for what is malformed.
    """
    status, *lines = head.split(CRLF)
    match = _line(status + CRLF)
    said = sum(map(_line_of, lines))
    if match is None or said >= _MALFORMED:
        return None
    close, lengths = divmod(said, _CLOSE)
    simple = match[1] == b"1" and said < _NOTED and lengths // _LENGTH == 1
    return int(match[2]), 11 if match[1] == b"1" else 10, lengths - _LENGTH if simple else -1, close > 0


_head_of: Final = Memo(_read_head).__getitem__

ResponseHead = tuple[int, int, int, bool]
"""Offset of its end; status; body in bytes, ``CHUNKED`` or ``UNTIL_EOF``; whether nothing follows it."""


_keep_alive: Final = re.compile(rb"(?i:connection):[ \t]*+(?i:keep-alive)[ \t]*+").fullmatch


def marked(head: bytes) -> bytes:
    """A response head that says that its connection closes (section 9.6).

    Some recipients look at one Connection line alone: it comes first, and those that say ``keep-alive`` go.
    """
    status, *fields = head.split(CRLF)
    fields = [line for line in fields if not _keep_alive(line)]
    return CRLF.join([status, b"Connection: close", *fields])


def partial_response() -> PartialHead:
    """A buffer for a response's head that has not arrived in full."""
    return PartialHead(_line, _prefix, _NOT_HTTP, blanks=False)


def read_response(data: bytes, at: int, kind: int) -> ResponseHead | Bad | PartialHead:
    """The response head that begins at offset ``at`` of ``data``.

    ``kind`` is the request's: ``head.PLAIN`` and so on.
    A ``PartialHead`` that holds all bytes from ``at`` on when the head is not there in full.
    """
    end = data.find(HEAD_END, at)
    head = _head_of(data[at:end]) if end >= 0 else None
    if head is None:
        scan = partial_response()
        end_or_bad = scan.feed(data[at:])
        if end_or_bad is None:
            return scan
        return end_or_bad if isinstance(end_or_bad, Bad) else _MALFORMED_HEAD
    end += 4
    if end - at > MAX_HEAD:
        return TOO_LONG
    status, version, body, close = head
    if body >= 0 and kind == PLAIN and status >= 200 and status not in _BODILESS:
        return end, status, body, close
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
    length = body_length(version, lengths, codings)
    if isinstance(length, str):
        return Bad(Outcome.PIN, length)
    if status < 200 or status == 204:
        # Neither may announce a body (section 6.3; RFC 9110, 8.6). Some clients would wait for it.
        return (
            Bad(Outcome.PIN, "its status allows no body, and it announces one")
            if length
            else (end, status, 0, close)
        )
    if kind == HEAD or status == 304:
        return end, status, 0, close
    if not lengths and not codings:
        return end, status, UNTIL_EOF, True
    return end, status, length, close
