"""Chunked bodies (RFC 9112, 7.1): where they end, and whether every byte of their framing is right.

Called by ``framing`` for requests and responses alike. Bodies with a Content-Length, or that
end with the connection, need no reader: ``framing`` counts them. Must never copy, join or change the
bytes of a body.
"""

from __future__ import annotations

import re
from typing import Final

from tpnet.http.h1.grammar import MAX_HEAD, TOKEN, VALUE

MORE, DONE, BROKEN = range(3)

MAX_SIZE_LINE: Final = 4096
"""Bytes of one chunk-size line, extensions included."""
MAX_EXTENSIONS: Final = 16_384
"""Bytes of a body's size lines beyond the sizes: extensions, and blanks around them. Nobody uses them, and they cost."""

_SIZE, _DATA, _DATA_END, _TRAILERS = range(4)
# Blanks after a size are not in the grammar but for an extension (7.1.1), yet senders pad sizes with them.
_EXTENSIONS: Final = rb"[ \t]*+(?:;" + VALUE + rb"*+)?"
_size_line: Final = re.compile(rb"([0-9A-Fa-f]{1,16}+)(" + _EXTENSIONS + rb")\r\n").match
_size_line_begun: Final = re.compile(
    rb"[0-9A-Fa-f]{0,16}|[0-9A-Fa-f]{1,16}+" + _EXTENSIONS + rb"\r?"
).fullmatch
# Whatever its name: nobody is to use a Content-Length that comes after the body (RFC 9110, 6.5.1), and we do not.
_trailer: Final = re.compile(TOKEN + rb"++:" + VALUE + rb"*+\r\n").match


class ChunkedReader:
    """Follows one chunked body.

    Whole units only are good to pass on: a size line, the CRLF after a chunk, a trailer line; a chunk's data
    as it comes. So the bytes that have gone on when a body turns out broken do not depend on how it was cut
    on the way.
    """

    __slots__ = ("_extensions", "_left", "_state", "_trailers")

    def __init__(self) -> None:
        self._state = _SIZE
        self._left = 0
        self._extensions = 0
        self._trailers = 0

    def feed(self, data: bytes, at: int) -> tuple[int, int]:
        """Read on from offset ``at``: the offset up to which all is well, then ``MORE DONE`` or ``BROKEN``.

        With ``MORE``, the bytes from that offset on are a unit's beginning: give them again before the next.
        """
        size = len(data)
        while at < size:
            state = self._state
            if state == _DATA:
                left = self._left
                if left > size - at:
                    self._left = left - (size - at)
                    return size, MORE
                at += left
                self._state = _DATA_END
            elif state == _DATA_END:
                if not data.startswith(b"\r\n", at):
                    return at, MORE if data[at:] == b"\r" else BROKEN
                at += 2
                self._state = _SIZE
            elif state == _SIZE:
                line = _size_line(data, at)
                if line is None:
                    begun = size - at <= MAX_SIZE_LINE and _size_line_begun(data, at)
                    return at, MORE if begun else BROKEN
                length = int(line[1], 16)
                self._extensions += line.end(2) - line.end(1)
                if length >> 63 or line.end() - at > MAX_SIZE_LINE or self._extensions > MAX_EXTENSIONS:
                    return at, BROKEN
                at = line.end()
                self._left = length
                self._state = _DATA if length else _TRAILERS
            else:
                if data.startswith(b"\r\n", at):
                    return at + 2, DONE
                line = _trailer(data, at)
                if line is None:
                    newline = data.find(b"\n", at)
                    return at, MORE if newline < 0 and self._trailers + size - at <= MAX_HEAD else BROKEN
                self._trailers += line.end() - at
                if self._trailers > MAX_HEAD:
                    return at, BROKEN
                at = line.end()
        return at, MORE
