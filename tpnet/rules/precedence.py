"""Which of several intercepts of one port comes first, and when two are the same.

There are two orders: by age between users, by specificity among one user's own. Used by rule sets, by dry runs and by
the search for conflicts, so that all three agree. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tpnet.model import PathKind
from tpnet.rules.personal import is_personal

if TYPE_CHECKING:
    from tpnet.model import HeaderRule, Intercept, PathRule


class RuleKey(NamedTuple):
    """One header rule. ``owner`` is empty, but where ``value`` is a digest: then it is whose, after a zero byte."""

    regex: bool
    name: bytes
    value: bytes
    owner: bytes = b""


HeaderKey = tuple[RuleKey, ...]
"""Header rules, each once, sorted: exact ones first."""

Specificity = tuple[bool, int, int, int]
"""The less, the earlier it is asked."""

_PATH_ORDER: dict[PathKind | None, int] = {PathKind.EQUAL: 0, PathKind.PREFIX: 1, PathKind.REGEX: 2, None: 3}


def header_key(headers: tuple[HeaderRule, ...], user: str = "") -> HeaderKey:
    """The same for two sets of header rules exactly if these ask the same of a request in the same words.

    ``user``: whose they are, which is a part of what a digest asks for.
    """
    return tuple(sorted({_rule_key(rule, user) for rule in headers}))


def _rule_key(rule: HeaderRule, user: str) -> RuleKey:
    name = rule.name.lower().encode()
    if rule.digest:
        return RuleKey(False, name, rule.digest.encode(), b"\0" + user.encode())
    return RuleKey(rule.regex, name, rule.value.encode())


def specificity(intercept: Intercept) -> Specificity:
    """Personal first; then more header rules; then path equal, longer prefix (in bytes), regex, none."""
    path: PathRule | None = intercept.path
    length = len(path.value.encode()) if path is not None and path.kind is PathKind.PREFIX else 0
    return (
        not is_personal(intercept.headers),
        -len(header_key(intercept.headers)),
        _PATH_ORDER[path.kind if path else None],
        -length,
    )


def precedence(intercept: Intercept) -> tuple[Specificity, int, str, str]:
    """The sort key of one user's own intercepts: the more specific first, then the older."""
    return (specificity(intercept), *_older(intercept))


def age(intercept: Intercept) -> tuple[bool, int, str, str]:
    """The sort key of different users' intercepts: personal first, then the older."""
    return (not is_personal(intercept.headers), *_older(intercept))


def _older(intercept: Intercept) -> tuple[int, str, str]:
    """Serials are one agent's own count; name and user settle what two counts would leave open.

    So every worker comes to the same order.
    """
    return intercept.serial, intercept.name, intercept.user
