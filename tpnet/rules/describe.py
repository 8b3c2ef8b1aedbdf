"""Rules as short texts for people. Called by tables, dry runs and refusals; nothing parses these texts.

The value of a header may be a secret, such as a token. So it is said only where it is asked for in full, which is for
its owner to see; elsewhere stands its mark, by which values can be told apart.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from tpnet.model import PathKind, printable
from tpnet.rules.sealed import mark_of

if TYPE_CHECKING:
    from tpnet.model import HeaderRule, PathRule

AUTO_HEADER = "x-tpnet-intercept-id"
"""The header of ``--http-header=auto``."""

AUTO_ID = re.compile(r"[0-9a-f]{32}")
"""What its value looks like: 128 random bits."""


class HasRules(Protocol):
    """An intercept, or parsed flags."""

    @property
    def headers(self) -> tuple[HeaderRule, ...]:
        """All of them must hold; none means every request."""

    @property
    def path(self) -> PathRule | None:
        """None means every path."""


def describe(rules: HasRules, *, full: bool = False) -> str:
    """One cell of a table: ``Coder: #5c1f2a3b · /api…``, ``everything``. ``full``: ``Coder: Bob · /api…``."""
    return " · ".join(describe_parts(rules, full=full)) or "everything"


def describe_parts(rules: HasRules, *, full: bool = False) -> list[str]:
    """The same, a text for each rule."""
    parts = [describe_header(rule, full=full) for rule in rules.headers]
    return parts if rules.path is None else [*parts, describe_path(rules.path)]


def describe_header(rule: HeaderRule, *, full: bool = False) -> str:
    """``Coder: #5c1f2a3b`` or ``Coder =~ #0a1b2c3d``; ``full``: ``Coder: Bob`` or ``Coder =~ B.*``."""
    return f"{printable(rule.name)}{' =~' if rule.regex else ':'} {shown_value(rule, full=full)}"


def shown_value(rule: HeaderRule, *, full: bool) -> str:
    """A header rule's value, or its mark. A value that is not known has nothing but that."""
    known = rule.value or not rule.digest
    return printable(rule.value) if full and known else f"#{printable(mark_of(rule))}"


def describe_path(rule: PathRule) -> str:
    """``/api`` (equal), ``/api…`` (prefix) or ``path =~ /v[12]/.*``."""
    text = printable(rule.value)
    if rule.kind is PathKind.EQUAL:
        return text
    return f"{text}…" if rule.kind is PathKind.PREFIX else f"path =~ {text}"
