"""Text that others wrote, made fit for a terminal and for a log: shown, and never obeyed. Pure.

The command line's output and every log pass through ``clean``, API data through it too where it is read. It must never
change what rules compare with. Imports nothing of ours.
"""

from __future__ import annotations

import re
from typing import Final

# What a terminal obeys (C0 but for tab and newline, DEL, C1), what turns the order of characters around or ends a line
# (Unicode TR 9 and section 5.8), and halves of surrogates, which cannot be written.
_HARMFUL: Final = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
)
_harmful = re.compile(f"[{_HARMFUL}]")
_harmful_or_newline = re.compile(f"[\n{_HARMFUL}]")


def clean(text: str, *, lines: bool = False) -> str:
    r"""``text`` with what a terminal would obey written as JSON writes it: ``\u001b``.

    ``lines``: newlines are ours, and stay.
    """
    return (_harmful if lines else _harmful_or_newline).sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return "\\n" if match[0] == "\n" else f"\\u{ord(match[0]):04x}"


def printable(text: str, limit: int = 0) -> str:
    """``text`` such that every character of it can be seen. Cut after ``limit`` characters of the text; 0 cuts never."""
    if limit and len(text) > limit:
        text = f"{text[:limit]}…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
