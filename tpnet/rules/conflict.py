"""An intercept that could never get a request, since an older one takes them all: it is refused.

Called by whoever keeps the intercepts, before a new one is taken in. Other overlap is no conflict: precedence settles
it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpnet.model import Conflict
from tpnet.rules.describe import AUTO_HEADER, describe
from tpnet.rules.implies import implies, same_rules
from tpnet.rules.personal import is_personal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tpnet.model import Intercept
    from tpnet.rules.describe import HasRules
    from tpnet.rules.implies import Claim


def takes_all(older: Claim, new: Claim) -> bool:
    """Whether ``older`` leaves ``new`` no request at all, on a port that both are on.

    Anybody's with the same header rules and the same path rule does: neither the order of header rules nor the case of
    their names counts. Another user's, unless it is shared, does it also by taking more than that; but a personal one
    comes before any that is not.
    """
    if same_rules(older, new):
        return True
    if older.user == new.user or older.shared or is_personal(older.headers) is not is_personal(new.headers):
        return False
    return implies(new, older)


def find_conflict(new: Intercept, existing: Iterable[Intercept]) -> Intercept | None:
    """The first of ``existing``, all of them older, that leaves ``new`` no request; or None.

    ``existing`` are the other intercepts that share a target and port with ``new``; leave out the one that ``new`` is to
    replace.
    """
    return next((older for older in existing if takes_all(older, new)), None)


def conflict_error(other: Intercept, now: float) -> Conflict:
    """The refusal that names the intercept which is already there. ``now`` in Unix seconds."""
    if any(rule.name.lower() == AUTO_HEADER for rule in other.headers):
        hint = f"End it with tpnet leave {other.name}, or give each a path of its own."
    elif other.headers:
        hint = "Use another value, or --http-header=auto for one of your own."
    else:
        hint = "Use --http-header=auto to take only your own requests."
    return Conflict(
        f"{other.user}'s intercept {other.name} (on for {_age(now - other.created)}) already takes "
        f"{_what(other, full=True)}.",
        hint,
    )


def older_takes(user: str, name: str, rules: HasRules, *, full: bool = False) -> str:
    """The sentence about an intercept that is in the way of a newer one; the same wherever it is said.

    ``full``: to whoever asks for the newer one, and so for the same values. In an object everybody reads it.
    """
    return f"{user}'s intercept {name}, which is older, already takes {_what(rules, full=full)}."


def _what(rules: HasRules, *, full: bool) -> str:
    is_auto = any(rule.name.lower() == AUTO_HEADER for rule in rules.headers)
    takes = describe(rules, full=full and not is_auto)
    return "everything" if takes == "everything" else f"requests with {takes}"


def _age(seconds: float) -> str:
    """A duration in its largest whole unit: ``12 min``. Clocks that disagree give ``0 s``."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"
