"""Rules as short texts for people. Called by tables, dry runs and refusals; nothing parses these texts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from tpnet.model import PathKind, printable

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


def describe(rules: HasRules) -> str:
    """One cell of a table: ``Coder: Bob · /api…``, ``everything``. An id of ``auto`` is cut short."""
    parts = [describe_header(rule) for rule in rules.headers]
    if rules.path is not None:
        parts.append(describe_path(rules.path))
    return " · ".join(parts) or "everything"


def describe_header(rule: HeaderRule) -> str:
    """``Coder: Bob`` or ``Coder =~ B.*``."""
    if rule.regex:
        return f"{printable(rule.name)} =~ {printable(rule.value)}"
    if rule.name.lower() == AUTO_HEADER and AUTO_ID.fullmatch(rule.value):
        return f"{rule.name}: {rule.value[:4]}…"
    return f"{printable(rule.name)}: {printable(rule.value)}"


def describe_path(rule: PathRule) -> str:
    """``/api`` (equal), ``/api…`` (prefix) or ``path =~ /v[12]/.*``."""
    text = printable(rule.value)
    if rule.kind is PathKind.EQUAL:
        return text
    return f"{text}…" if rule.kind is PathKind.PREFIX else f"path =~ {text}"
