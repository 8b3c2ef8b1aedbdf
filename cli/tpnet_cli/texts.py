"""Short texts for people: counts, times, what an intercept takes. The same words in every view.

The views and commands use it. Pure: the present time is given.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tpnet.rules.describe import describe, describe_parts

if TYPE_CHECKING:
    from tpnet.model import Intercept
    from tpnet.rules.describe import HasRules

_LETTERS = {
    "A": "kept with the app",
    "P": "not HTTP, left alone",
    "R": "refused as ambiguous",
    "B": "broken off",
}


def count(number: int) -> str:
    """``1204`` as ``1,204``."""
    return f"{number:,}"


def counted(number: int, noun: str) -> str:
    """``1 request``, ``2 requests``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def duration(seconds: float) -> str:
    """``2 s``, ``12 m``, ``3 h``, ``2 d``: one unit, rounded down."""
    whole = max(0, int(seconds))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole >= size:
            return f"{whole // size} {unit}"
    return f"{whole} s"


def ago(then: float, now: float) -> str:
    """How long ago a Unix time was; ``now`` within the second, ``never`` for 0."""
    if not then:
        return "never"
    return f"{duration(now - then)} ago" if now - then >= 1 else "now"


def clock(then: float, now: float) -> str:
    """A Unix time as ``09:12``, with the date in front when it was another day. Empty for 0."""
    if not then:
        return ""
    local, today = time.localtime(then), time.localtime(now)
    same_day = local[:3] == today[:3]
    return time.strftime("%H:%M" if same_day else "%Y-%m-%d %H:%M", local)


def takes(intercept: Intercept, user: str, *, wide: bool) -> str:
    """What requests it takes, as one cell: values of headers only for their owner, and who wants it wide."""
    return describe(intercept, full=wide and intercept.user == user)


def takes_parts(rules: HasRules, *, full: bool = False) -> list[str]:
    """The same, one text per rule; ``everything`` when it has none."""
    return describe_parts(rules, full=full) or ["everything"]


def handler_text(handler: str) -> str:
    """``:8080`` for a handler on this computer, else ``host:port``."""
    host, _, port = handler.rpartition(":")
    return f":{port}" if host in {"127.0.0.1", "localhost", "[::1]"} else handler


def verdict_words(verdicts: dict[str, int]) -> list[str]:
    """What else became of requests, in words with counts: all verdicts but plain forwarding."""
    return [
        f"{count(verdicts[letter])} {words}" for letter, words in _LETTERS.items() if verdicts.get(letter)
    ]


def reasons_text(reasons: dict[str, int]) -> str:
    """Why matched requests did not reach their session, most frequent first: ``handler 12, tunnel 3``."""
    order = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {count(number)}" for reason, number in order if number)
