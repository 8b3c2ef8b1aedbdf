"""Whether every request that one intercept takes is one that another takes as well, as far as texts can tell. Pure.

Used by precedence (what a shared intercept leaves to narrower ones) and by the search for conflicts. It must never say
yes unless it is so; regexes are compared as texts, and digests of different users not at all, so that it may say no of
what is so.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from tpnet.model import PathKind
from tpnet.rules.describe import HasRules
from tpnet.rules.precedence import header_key
from tpnet.rules.regex import RegexSet
from tpnet.rules.sealed import digest_of

if TYPE_CHECKING:
    from tpnet.model import PathRule
    from tpnet.rules.precedence import HeaderKey, RuleKey


class Claim(HasRules, Protocol):
    """An intercept, or the spec of one."""

    @property
    def user(self) -> str:
        """Whose it is."""

    @property
    def shared(self) -> bool:
        """Whether narrower ones of other users win."""


_KNOWN = 4096  # answers kept: the same rules are compared again whenever one of many changes


def is_narrower(one: Claim, wide: Claim) -> bool:
    """Whether ``one`` is another user's and takes a part of what ``wide`` takes, and not all of it."""
    return one.user != wide.user and implies(one, wide) and not implies(wide, one)


def implies(narrow: Claim, wide: Claim) -> bool:
    """Whether whatever ``narrow`` takes, ``wide`` takes too. The same rules imply each other."""
    return headers_imply(_key(narrow), _key(wide)) and path_implies(narrow.path, wide.path)


def same_rules(one: Claim, other: Claim) -> bool:
    """Whether two have the same rules: neither the order of header rules nor the case of their names counts."""
    if one.path != other.path:
        return False
    keys, others = _key(one), _key(other)
    return keys == others or (_each_among(keys, others) and _each_among(others, keys))


def headers_imply(narrow: HeaderKey, wide: HeaderKey) -> bool:
    """Whether all header rules of ``wide`` hold whenever those of ``narrow`` do."""
    return all(rule in narrow or any(_rule_implies(one, rule) for one in narrow) for rule in wide)


def _key(claim: Claim) -> HeaderKey:
    return header_key(claim.headers, claim.user)


def _each_among(some: HeaderKey, others: HeaderKey) -> bool:
    return all(rule in others or any(_same_value(rule, other) for other in others) for rule in some)


def _rule_implies(narrow: RuleKey, wide: RuleKey) -> bool:
    """An exact value that the wide one's regex matches: each line of a repeated header counts by itself."""
    if narrow.name != wide.name or narrow.regex:
        return False
    if wide.regex:
        return not narrow.owner and _matches(wide.value, narrow.value)
    return _same_value(narrow, wide)


def _same_value(one: RuleKey, other: RuleKey) -> bool:
    """Whether one rule says the value whose digest the other has. Two digests are of two users, or of two values."""
    if one.regex or other.regex or one.name != other.name or bool(one.owner) == bool(other.owner):
        return False
    hidden, plain = (one, other) if one.owner else (other, one)
    return digest_of(hidden.owner[1:], hidden.name, plain.value).encode() == hidden.value


def path_implies(narrow: PathRule | None, wide: PathRule | None) -> bool:
    """Whether the path rule ``wide`` holds whenever ``narrow`` does."""
    if wide is None or narrow == wide:
        return True
    if narrow is None or narrow.kind is PathKind.REGEX:
        return False
    value, asked = narrow.value.encode(), wide.value.encode()
    if wide.kind is PathKind.EQUAL:
        return False
    if narrow.value == "*":
        return False  # the server as a whole: neither a prefix nor a regex holds of it
    if wide.kind is PathKind.PREFIX:
        return value.startswith(asked)
    return narrow.kind is PathKind.EQUAL and _matches(asked, value)


@lru_cache(_KNOWN)
def _matches(regex: bytes, text: bytes) -> bool:
    return bool(RegexSet([regex]).match(text))
