"""A dry run: every intercept's answer to one request, and why. Called by ``RuleSet.explain``.

Asks rule by rule, as the reference describes them, and not through the index: that it comes to what the
index says is one of the tests. Never used to route.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpnet.model import ExplainStep, PathKind, printable
from tpnet.rules.describe import shown_value
from tpnet.rules.implies import is_narrower
from tpnet.rules.personal import is_personal
from tpnet.rules.precedence import precedence, specificity
from tpnet.rules.regex import RegexSet
from tpnet.rules.sealed import digest_of
from tpnet.rules.view import NO_PATH, rule_values

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tpnet.model import HeaderRule, Intercept, PathRule
    from tpnet.rules.view import HeadView

_SHOWN = 60  # characters of a request's value that a note repeats
_LISTED = 3  # values of one header that a note repeats

_PATH_WORDS = {PathKind.EQUAL: "is", PathKind.PREFIX: "starts with", PathKind.REGEX: "matches"}


def explain(intercepts: Sequence[Intercept], head: HeadView) -> list[ExplainStep]:
    """A step for each of ``intercepts``, which come by age, the taker's first. At most one is ``chosen``.

    The steps say what the request has, and of values that rules ask for the mark: whoever asks may not be the owner.
    """
    answers = {one.name: _ask(one, head) for one in intercepts}
    taker, why = _taker([one for one in intercepts if not answers[one.name][1]])
    steps: list[ExplainStep] = []
    for one in sorted(intercepts, key=lambda one: one is not taker):
        checks, notes = answers[one.name]
        chosen = one is taker
        note = "; ".join(notes) or ("this one" if chosen else f"not asked: 1 {why[one.name]}")
        steps.append(ExplainStep(one.name, one.user, tuple(checks), not notes, chosen, note))
    return steps


def _taker(matching: Sequence[Intercept]) -> tuple[Intercept | None, dict[str, str]]:
    """Who takes a request that these, by age, all match; and of each other one why it does not."""
    if not matching:
        return None, {}
    why: dict[str, str] = {}
    anchor = matching[0]
    while anchor.shared and (narrow := [one for one in matching if is_narrower(one, anchor)]):
        why[anchor.name] = f"takes less, and {anchor.name} is shared"
        anchor = narrow[0]
    taker = min((one for one in matching if one.user == anchor.user), key=precedence)
    for one in matching:
        if one.user == taker.user:
            alike = specificity(one) == specificity(taker)
            why[one.name] = "is older" if alike else "is more specific"
        elif is_personal(taker.headers) and not is_personal(one.headers):
            why[one.name] = "is personal"
        elif one.name not in why:
            why[one.name] = (
                "is older" if taker is anchor else f"is {taker.user}'s, whose {anchor.name} is older"
            )
    return taker, why


def _ask(intercept: Intercept, head: HeadView) -> tuple[list[tuple[str, bool]], list[str]]:
    """Each rule with whether it holds, and a note for each that does not."""
    if not intercept.headers and intercept.path is None:
        return [("takes everything", True)], []
    checks: list[tuple[str, bool]] = []
    notes: list[str] = []
    for rule in intercept.headers:
        name = rule.name.lower().encode()
        lines = head.values(name)
        values = rule_values(name, lines)
        holds = _header_holds(rule, values, intercept.user)
        checks.append((header_check(rule), holds))
        if not holds:
            notes.append(_header_note(printable(rule.name), lines, conflicting=bool(lines) and not values))
    if intercept.path is not None:
        holds = _path_holds(intercept.path, head.path)
        checks.append((f"path {_PATH_WORDS[intercept.path.kind]} {printable(intercept.path.value)}", holds))
        if not holds:
            notes.append(f"the path is {_text(head.path)}")
    return checks, notes


def header_check(rule: HeaderRule, *, full: bool = False) -> str:
    """What a step says of a header rule: ``header Coder = #5c1f2a3b``; ``full``: ``header Coder = Bob``."""
    return f"header {printable(rule.name)} {'matches' if rule.regex else '='} {shown_value(rule, full=full)}"


def _header_holds(rule: HeaderRule, values: Iterable[bytes], user: str) -> bool:
    value = rule.value.encode()
    if rule.digest:
        owner, name = user.encode(), rule.name.lower().encode()
        return any(digest_of(owner, name, each) == rule.digest for each in values)
    if not rule.regex:
        return value in values
    regex = RegexSet([value])
    return any(regex.match(each) for each in values)


def _path_holds(rule: PathRule, path: bytes) -> bool:
    value = rule.value.encode()
    if rule.kind is PathKind.EQUAL:
        return path == value
    if path == NO_PATH:
        return False
    if rule.kind is PathKind.PREFIX:
        return path.startswith(value)
    return bool(RegexSet([value]).match(path))


def _header_note(name: str, lines: Sequence[bytes], *, conflicting: bool) -> str:
    if not lines:
        return f"there is no header {name}"
    if conflicting:
        return f"there are several {name} headers that differ, so no rule on it holds"
    shown = [_text(line) for line in lines[:_LISTED]]
    if len(lines) > _LISTED:
        shown.append(f"{len(lines) - _LISTED} more")
    return f"{name} is {', '.join(shown)}"


def _text(raw: bytes) -> str:
    return printable(raw.decode("utf-8", "backslashreplace"), _SHOWN) or "empty"
