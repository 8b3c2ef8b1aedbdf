"""Standard output and standard error, made fit for what is written to them.

``tpnet_cli.main`` calls ``prepare`` before anything is written. Whatever the terminal's character set and
whatever the text, writing must never raise ``UnicodeError``.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import TextIO

_SIGNS = {
    "✓": "+",
    "✗": "x",
    "…": "~",
    "·": "-",
    "▶": ">",
    "─": "-",
    "│": "|",
    **dict.fromkeys("┌┐└┘├┤┬┴┼", "+"),
    **dict.fromkeys(map(chr, range(0x2800, 0x2900)), "*"),  # the turning line
}
"""Our signs, and what stands for them: as wide as they are, so that columns stay where they are."""
_ERRORS = "tpnet-signs"


class PlainStream(io.TextIOWrapper):
    """Text for a terminal whose character set has not all of our signs. Shares its buffer with ``stream``."""

    def __init__(self, stream: io.TextIOWrapper, charset: str) -> None:
        # click takes an ASCII stream for a mistake and goes around it. ASCII is UTF-8 as well.
        encoding = "utf-8" if charset == "ascii" else charset
        super().__init__(stream.buffer, encoding, "replace", "", stream.line_buffering, stream.write_through)
        self._charset = charset
        self._shared = stream  # it would close the buffer at its end

    def write(self, text: str, /) -> int:
        """Write it, with what the character set has not replaced by something like it, or ``?``."""
        super().write(text.encode(self._charset, _ERRORS).decode(self._charset))
        return len(text)


def prepare() -> None:
    """Make ``sys.stdout`` and ``sys.stderr`` take any text. Streams that the shell has closed lead nowhere."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            # Also so that the next file that is opened does not become our output.
            fd = os.open(os.devnull, os.O_RDWR)
            if fd != number:
                os.dup2(fd, number)
                os.close(fd)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", encoding="utf-8"))
        elif number and isinstance(stream, io.TextIOWrapper) and not isinstance(stream, PlainStream):
            charset = _charset(stream)
            if _has_signs(charset):
                stream.reconfigure(errors="backslashreplace")  # bytes that were no text in an argument
            else:
                codecs.register_error(_ERRORS, _stand_in)
                setattr(sys, name, PlainStream(stream, charset))


def is_plain(stream: TextIO) -> bool:
    """Whether what is written to it may be replaced: data is escaped then, and loses nothing."""
    return isinstance(stream, PlainStream)


def _charset(stream: io.TextIOWrapper) -> str:
    """What the reader of a stream can show. ``LC_ALL=C`` asks for ASCII, though Python gives UTF-8 (PEP 540)."""
    if os.environ.get("LC_ALL") in {"C", "POSIX"} and not os.environ.get("PYTHONIOENCODING"):
        return "ascii"
    return codecs.lookup(stream.encoding).name


def _has_signs(charset: str) -> bool:
    try:
        "".join(_SIGNS).encode(charset)
    except UnicodeEncodeError:
        return False
    return True


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError), "it is used for writing only"
    return "".join(_SIGNS.get(sign, "?") for sign in error.object[error.start : error.end]), error.end
