"""Which of several intercepts of one port is asked first, and when two are the same.

Used by the index, by dry runs and by the search for conflicts, so that all three agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpnet.model import PathKind

if TYPE_CHECKING:
    from tpnet.model import HeaderRule, Intercept, PathRule

HeaderKey = tuple[tuple[bool, bytes, bytes], ...]
"""(regex, lower-case name, value) of header rules, each once, sorted: exact ones first."""

Specificity = tuple[int, int, int]
"""The less, the earlier it is asked."""

_PATH_ORDER: dict[PathKind | None, int] = {PathKind.EQUAL: 0, PathKind.PREFIX: 1, PathKind.REGEX: 2, None: 3}


def header_key(headers: tuple[HeaderRule, ...]) -> HeaderKey:
    """The same for two sets of header rules exactly if these ask the same of a request in the same words."""
    return tuple(sorted({(rule.regex, rule.name.lower().encode(), rule.value.encode()) for rule in headers}))


def specificity(intercept: Intercept) -> Specificity:
    """More header rules first; then path equal, longer prefix (in bytes), regex, none."""
    path: PathRule | None = intercept.path
    length = len(path.value.encode()) if path is not None and path.kind is PathKind.PREFIX else 0
    return (-len(header_key(intercept.headers)), _PATH_ORDER[path.kind if path else None], -length)


def precedence(intercept: Intercept) -> tuple[Specificity, int, str, str]:
    """The sort key of intercepts: the more specific first, then the older.

    Serials are one agent's own count; name and user settle what two counts would leave open, so that every
    worker comes to the same order.
    """
    return (specificity(intercept), intercept.serial, intercept.name, intercept.user)
