"""Desired to actual: what has to be done so that the node's targets are as people asked. Pure.

``tpnet.agent.targets`` carries out what ``plan`` says, again and again, so that whatever was missed or failed
once is made up for. It must never depend on how the present state came about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tpnet.control.local.store import TargetKey
    from tpnet.model import Intercept

Wanted = tuple["Intercept", ...]
"""The intercepts whose rules stand, or are to stand, on a target. None: redirected, all to the app."""


@dataclass(frozen=True, slots=True)
class Lower:
    """Give a target back to its app."""

    key: TargetKey


@dataclass(frozen=True, slots=True)
class Raise:
    """Redirect a target. Its rules come in a step of their own."""

    key: TargetKey


@dataclass(frozen=True, slots=True)
class SetRules:
    """Tell the worker a target's whole rule set."""

    key: TargetKey
    rules: Wanted


Step = Lower | Raise | SetRules


def plan(desired: Mapping[TargetKey, Wanted], actual: Mapping[TargetKey, Wanted]) -> list[Step]:
    """The steps from ``actual`` to ``desired``, in the order to carry them out; none when they are equal.

    Targets are given back before others are taken, and rules are emptied before they are filled: at no time
    does a request match an intercept that is no longer wanted because of one that is new.
    """
    lower = [Lower(key) for key in actual if key not in desired]
    fresh = [Raise(key) for key in desired if key not in actual]
    rules = [SetRules(key, want) for key, want in desired.items() if want != actual.get(key, ())]
    rules.sort(key=lambda step: len(step.rules))
    return [*lower, *fresh, *rules]
