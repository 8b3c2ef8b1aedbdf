"""The grammar of HTTP/1 heads: byte patterns, the search for a head's end, and what its framing fields say.

Called by ``head`` (requests) and ``response`` (responses). Everything here is about bytes as they stand on the
wire; it must never change, fold or re-write one. Sections are those of RFC 9112 unless RFC 9110 is named.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tpnet.http.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_HEAD: Final = 64_000
"""Bytes of a head and of blank lines before it. A longer one is not inspected: verdict P."""

CHUNKED: Final = -1
"""The body's end is told by its chunks (section 7.1)."""
UNTIL_EOF: Final = -2
"""The body ends with the connection (section 6.3, rule 8); responses only."""

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
VALUE: Final = rb"[\t -~\x80-\xff]"
FIELD: Final = rb"(" + TOKEN + rb"++):(" + VALUE + rb"*+)"
"""A field line, without the CRLF that ends it. Possessive, so that no input makes it backtrack."""
HEAD_END: Final = b"\r\n\r\n"
CRLF: Final = b"\r\n"

_MAX_LENGTH: Final = (1 << 63) - 1
_PROBED: Final = 512
"""How much of an unfinished first line is looked at: another protocol shows itself in its first bytes."""

_MOST_KNOWN: Final = 1024
_LONGEST_KNOWN: Final = 1024

_blank_lines: Final = re.compile(rb"(?:\r\n)*+").match
# A head's end as the most lenient recipient sees it: what ends a head for anybody must not be waited past.
_head_end: Final = re.compile(rb"\n\r?\n").search
_codings: Final = re.compile(TOKEN + rb"++(?:[ \t]*,[ \t]*" + TOKEN + rb"++)*").fullmatch


class Bad(NamedTuple):
    """Bytes that are not a message to be routed.

    ``outcome`` is ``PIN`` (not our HTTP: the app may make something of it) or ``REFUSE`` (where the message ends
    is open to dispute). ``reason`` completes the sentence "This request was refused: ...".
    """

    outcome: Outcome
    reason: str


TOO_LONG: Final = Bad(Outcome.PIN, f"its head is longer than {MAX_HEAD} bytes")


class Memo(dict[bytes, Any]):
    """What pieces of heads say, each read once: ``known[piece]`` is ``read(piece)``.

    A peer says nearly the same each time, and most lines of a head that was never seen have been seen before. Bounded
    in number and length of pieces.
    """

    __slots__ = ("_read",)

    def __init__(self, read: Callable[[bytes], Any]) -> None:
        self._read = read

    def __missing__(self, piece: bytes) -> Any:
        said = self._read(piece)
        if len(piece) <= _LONGEST_KNOWN:
            if len(self) >= _MOST_KNOWN:
                self.clear()
            self[piece] = said
        return said


class PartialHead:
    """A head that has not arrived in full. Feed it; a search goes on where the last one stopped.

    ``line`` matches a whole first line, ``prefix`` any beginning of one; ``blanks`` says whether empty lines
    may come before it (section 2.2). ``first_line`` is true once the first line is there and is one.
    """

    __slots__ = ("_blanks", "_from", "_line", "_not_a_line", "_prefix", "_start", "buffer", "first_line")

    def __init__(
        self,
        line: Callable[[bytes], re.Match[bytes] | None],
        prefix: Callable[[bytearray, int, int], re.Match[bytes] | None],
        not_a_line: Bad,
        *,
        blanks: bool,
    ) -> None:
        self.buffer = bytearray()
        self.first_line = False
        self._line = line
        self._prefix = prefix
        self._not_a_line = not_a_line
        self._blanks = blanks
        self._start = 0
        self._from = 0

    def feed(self, data: bytes) -> int | Bad | None:
        """Take more bytes: the offset of the head's end, or what is wrong with it, or ``None`` for "more"."""
        buffer = self.buffer
        buffer += data
        if not self.first_line:
            if self._blanks and (blanks := _blank_lines(buffer, self._start)):
                self._start = blanks.end()
            start = self._start
            newline = buffer.find(b"\n", max(start, self._from))
            if newline < 0:
                seen, self._from = self._from, len(buffer)
                if seen - start < _PROBED and not self._prefix(buffer, start, start + _PROBED):
                    return self._not_a_line
                return TOO_LONG if len(buffer) > MAX_HEAD else None
            if not self._line(bytes(buffer[start : newline + 1])):
                return self._not_a_line
            self.first_line = True
            self._from = newline
        end = _head_end(buffer, self._from)
        if end is None:
            self._from = max(self._from, len(buffer) - 2)
            return TOO_LONG if len(buffer) > MAX_HEAD else None
        return TOO_LONG if end.end() > MAX_HEAD else end.end()

    @property
    def blank(self) -> bool:
        """Whether no byte of a message has come, only line ends before it."""
        return not self.buffer.strip(b"\r\n")


def options(value: bytes) -> list[bytes]:
    """The members of a comma-separated list such as ``Connection``'s (RFC 9110, 5.6.1)."""
    return [member.strip(b" \t") for member in value.split(b",")]


def body_length(version: int, lengths: list[bytes], codings: list[bytes]) -> int | str:
    """The body that framing fields announce: bytes, ``CHUNKED``, or what is wrong with them (section 6.3).

    ``lengths`` and ``codings`` are the lower-case values of all Content-Length and Transfer-Encoding lines. A
    message that has either twice is refused even if both say the same: merging them would change bytes, and
    recipients differ in which one they read.
    """
    if codings:
        if lengths:
            return "it has both Content-Length and Transfer-Encoding"
        if version < 11:
            return "it has a Transfer-Encoding in HTTP/1.0"
        if len(codings) > 1:
            return "it has more than one Transfer-Encoding line"
        value = codings[0]
        if value == b"chunked":
            return CHUNKED
        if not _codings(value):
            return "its Transfer-Encoding is malformed"
        members = options(value)
        if members.count(b"chunked") != 1 or members[-1] != b"chunked" or b"identity" in members:
            return "its Transfer-Encoding does not end in chunked, once"
        return CHUNKED
    if not lengths:
        return 0
    if len(lengths) > 1:
        return "it has more than one Content-Length line"
    # Not int() first: it takes signs, underscores and white space, and its own limit raises.
    value = lengths[0]
    if not value.isdigit():
        return "its Content-Length is not a number"
    digits = value.lstrip(b"0") or b"0"
    if len(digits) > 19 or int(digits) > _MAX_LENGTH:
        return "its Content-Length is too large"
    return int(digits)


def persists(version: int, connection: Iterable[bytes]) -> bool:
    """Whether a message leaves its connection open (section 9.3). ``connection``: its values, lower case."""
    keep = version >= 11
    for value in connection:
        if value == b"keep-alive":
            keep = True
            continue
        members = options(value)
        if b"close" in members:
            return False
        if b"keep-alive" in members:
            keep = True
    return keep
