"""Whether every request that one intercept takes is one that another takes as well, as far as texts can tell. Pure.

Used by precedence (what a shared intercept leaves to narrower ones) and by the search for conflicts. It must never say
yes unless it is so; regexes are compared as texts, so that it may say no of what is so.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from tpnet.model import PathKind
from tpnet.rules.precedence import header_key
from tpnet.rules.regex import RegexSet

if TYPE_CHECKING:
    from tpnet.model import Intercept, PathRule
    from tpnet.rules.describe import HasRules
    from tpnet.rules.precedence import HeaderKey


_KNOWN = 4096  # answers kept: the same rules are compared again whenever one of many changes


def is_narrower(one: Intercept, wide: Intercept) -> bool:
    """Whether ``one`` is another user's and takes a part of what ``wide`` takes, and not all of it."""
    return one.user != wide.user and implies(one, wide) and not implies(wide, one)


def implies(narrow: HasRules, wide: HasRules) -> bool:
    """Whether whatever ``narrow`` takes, ``wide`` takes too. The same rules imply each other."""
    return headers_imply(header_key(narrow.headers), header_key(wide.headers)) and path_implies(
        narrow.path, wide.path
    )


def headers_imply(narrow: HeaderKey, wide: HeaderKey) -> bool:
    """Whether all header rules of ``wide`` hold whenever those of ``narrow`` do."""
    return all(rule in narrow or any(_rule_implies(one, rule) for one in narrow) for rule in wide)


def _rule_implies(narrow: tuple[bool, bytes, bytes], wide: tuple[bool, bytes, bytes]) -> bool:
    """An exact value that the wide one's regex matches: each line of a repeated header counts by itself."""
    is_regex, name, value = narrow
    return not is_regex and wide[0] and wide[1] == name and _matches(wide[2], value)


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
