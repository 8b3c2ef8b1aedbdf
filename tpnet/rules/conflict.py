"""Two intercepts that ask for the very same requests: the second is refused.

Called by whoever keeps the intercepts, before a new one is taken in. Overlap that is not sameness is no
conflict: precedence settles it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpnet.model import Conflict
from tpnet.rules.describe import AUTO_HEADER, describe
from tpnet.rules.precedence import header_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tpnet.model import Intercept
    from tpnet.rules.describe import HasRules


def find_conflict(new: Intercept, existing: Iterable[Intercept]) -> Intercept | None:
    """The first of ``existing`` with the same header rules and the same path rule as ``new``, or None.

    Neither the order of header rules nor the case of their names counts. ``existing`` are the other
    intercepts that share a target and port with ``new``; leave out the one that ``new`` is to replace.
    """
    wanted = header_key(new.headers)
    for other in existing:
        if other.path == new.path and header_key(other.headers) == wanted:
            return other
    return None


def conflict_error(other: Intercept, now: float) -> Conflict:
    """The refusal that names the intercept which is already there. ``now`` in Unix seconds."""
    if any(rule.name.lower() == AUTO_HEADER for rule in other.headers):
        hint = f"End it with tpnet leave {other.name}, or give each a path of its own."
    elif other.headers:
        hint = "Use another value, or --http-header=auto for one of your own."
    else:
        hint = "Use --http-header=auto to take only your own requests."
    return Conflict(
        f"{other.user}'s intercept {other.name} (on for {_age(now - other.created)}) already takes {_what(other)}.",
        hint,
    )


def older_takes(user: str, name: str, rules: HasRules) -> str:
    """The sentence about an intercept that is in the way of a newer one; the same wherever it is said."""
    return f"{user}'s intercept {name}, which is older, already takes {_what(rules)}."


def _what(rules: HasRules) -> str:
    takes = describe(rules)
    return "everything" if takes == "everything" else f"requests with {takes}"


def _age(seconds: float) -> str:
    """A duration in its largest whole unit: ``12 min``. Clocks that disagree give ``0 s``."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"
