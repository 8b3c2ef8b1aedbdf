"""Regexes that cannot run for ever: RE2, over raw bytes, the whole text must match.

Called by ``parse`` to refuse what cannot work, by the index and by dry runs to match. Nothing else uses
``re2``.

Many regexes are asked in one pass: RE2 makes one automaton of a set, so that asking costs time in
proportion to the text, not to the number of regexes. Only where that automaton outgrows its memory and is
built anew again and again does a byte cost time in proportion to the size of all programs together, which
is what asking one by one would cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import re2

from tpnet.model import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_REGEX_BYTES = 1024
"""The longest regex text, in bytes of UTF-8."""

REGEX_MEMORY = 64 * 1024
"""Bytes for the program and the automaton of one regex; n regexes in a set share n times as much."""


def regex_fault(pattern: str, *, quoting: bool = True) -> tuple[str, str] | None:
    """Why this regex cannot be a rule, as (the end of a sentence, hint), or None if it can.

    ``quoting``: with the part of it that is at fault.
    """
    text = pattern.encode()
    if len(text) > MAX_REGEX_BYTES:
        return f"the regex is longer than {MAX_REGEX_BYTES} bytes.", ""
    try:
        re2.compile(text, _options(1))
        compiled = _compile([text])
    except re2.error as error:
        cause = error.args[
            0
        ]  # RE2 says why in bytes; its Python wrapper's text means that the set got too large
        why = _cause(cause) if isinstance(cause, bytes) else ""
        if not quoting:
            why = why.partition(":")[0]
        if not why or why.startswith("pattern too large"):
            return "the regex is too large.", "Use fewer or smaller repetitions."
        return (
            f"the regex does not compile: {why}.",
            "The syntax is RE2's: it knows neither look-around nor back-references.",
        )
    if compiled.Match(b""):
        return "the regex matches the empty string.", "Ask for at least one character: .+ instead of .*"
    return None


def never_begins_with(pattern: str, first: bytes) -> bool:
    """Whether this regex surely matches no text that begins with ``first``; it has passed ``regex_fault``.

    RE2 gives a least and a greatest text between which all matches lie, for most regexes; False where it
    does not.
    """
    try:
        least, greatest = re2.compile(pattern.encode(), _options(1)).possiblematchrange(len(first) + 1)
    except re2.error:
        return False
    # An empty bound is what RE2 says of conditions such as \B that it does not look into here.
    return bool(greatest) and bool(greatest < first or least[: len(first)] > first)


class RegexSet:
    """Regexes that are asked all at once."""

    __slots__ = ("_parts",)

    def __init__(self, patterns: Sequence[bytes]) -> None:
        """``patterns`` have passed ``regex_fault``; raises ``InvalidInput`` if one cannot be compiled."""
        self._parts = tuple(_parts(patterns, 0))

    def match(self, text: bytes) -> list[int]:
        """The indexes of the patterns that match the whole of ``text``, in no order."""
        found: list[int] = []
        for first, compiled in self._parts:
            hits = compiled.Match(text)
            if hits:
                found += [first + hit for hit in hits]
        return found


def _cause(cause: bytes) -> str:
    """RE2's words. It repeats a part of the pattern, whose bytes it took for Latin-1 and wrote down as UTF-8."""
    return cause.decode("utf-8", "replace").encode("latin-1", "replace").decode("utf-8", "backslashreplace")


def _options(count: int) -> Any:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1  # one byte is one character: values need not be UTF-8
    options.max_mem = REGEX_MEMORY * count
    options.never_capture = True
    options.log_errors = False  # RE2 would write to stderr
    return options


def _compile(patterns: Sequence[bytes]) -> Any:
    """One RE2 set. Raises ``re2.error`` when it does not fit its memory.

    RE2 compiles a set only if its automaton can hold at least twenty states of the largest kind, so that
    matching later never runs out of memory, which its Python wrapper would report as "no match".
    """
    compiled = re2.Set.FullMatchSet(_options(len(patterns)))
    for pattern in patterns:
        compiled.Add(pattern)
    compiled.Compile()
    return compiled


def _parts(patterns: Sequence[bytes], first: int) -> list[tuple[int, Any]]:
    """As few sets as hold all patterns, each with the index of its first one. Usually one."""
    try:
        return [(first, _compile(patterns))]
    except re2.error as error:
        if len(patterns) == 1:
            raise InvalidInput("A regex cannot be compiled.") from error  # which, is its owner's to know
    half = len(patterns) // 2
    return _parts(patterns[:half], first) + _parts(patterns[half:], first + half)
