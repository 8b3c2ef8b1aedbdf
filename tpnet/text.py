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
    *((0x00, 0x08), (0x0B, 0x1F), (0x7F, 0x9F), (0x061C, 0x061C), (0x200E, 0x200F)),
    *((0x2028, 0x2029), (0x202A, 0x202E), (0x2066, 0x2069)),
)
_CLASS: Final = "".join(f"\\u{first:04x}-\\u{last:04x}" for first, last in (*_HARMFUL, (0xD800, 0xDFFF)))
_harmful = re.compile(f"[{_CLASS}]")
_harmful_or_newline = re.compile(f"[\n{_CLASS}]")

_GO: Final = "".join(f"\\x{{{first:x}}}-\\x{{{last:x}}}" for first, last in _HARMFUL)
ONE_LINE: Final = rf"^[^\n{_GO}]*$"
"""What ``clean`` leaves as it is, as a regex of Go's: for schemas. (No text of JSON has halves of surrogates.)"""


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
