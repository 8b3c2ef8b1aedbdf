"""What this computer's own session knows of itself, and neither API server nor agent does.

The commands that show intercepts add it: whether one's handlers listen, how the tunnel to each node is. It
must never start a session.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tpnet.model import NotThere, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tpnet.model import ExplainStep, HeaderRule, Intercept, InterceptStatus, Status
    from tpnet_cli.where import Where


def session_facts(where: Where, user: str) -> dict[str, Any] | None:
    """What ``SessionClient.info`` says; ``None`` when there is no session of this user and cluster here."""
    try:
        return where.session(user).info()
    except (NotThere, Refused):
        return None


def with_own(status: Status, facts: dict[str, Any] | None) -> Status:
    """The status with what is known here of one's own intercepts."""
    if facts is None:
        return status
    entries = {entry["name"]: entry for entry in facts["intercepts"]}
    intercepts = tuple(
        _known(item, entries[item.intercept.name], facts["agents"])
        if item.intercept.name in entries
        else item
        for item in status.intercepts
    )
    return replace(status, intercepts=intercepts)


def _known(item: InterceptStatus, entry: dict[str, Any], agents: list[dict[str, Any]]) -> InterceptStatus:
    """Of the handler only this computer knows, and of the tunnel it knows sooner than what nodes report."""
    problems = [*item.problems, entry["problem"]] if entry["problem"] else [*item.problems]
    silent = [agent["node"] for agent in agents if not agent["up"]]
    up = len(silent) < len(agents) or not agents
    if up:
        problems += [f"the agent of node {node} does not answer; the app answers there" for node in silent]
    return replace(
        item,
        handler_up=bool(entry["handler_up"]),
        handler_problem=str(entry["handler_problem"]),
        session_up=up,
        problems=tuple(problems),
    )


def open_here(facts: dict[str, Any] | None) -> dict[str, str]:
    """How many connections are open here of each intercept, and were in all."""
    return {
        entry["name"]: f"{entry['open']:,} of {entry['total']:,}"
        for entry in (facts or {}).get("intercepts", ())
    }


def revealed(status: Status, user: str) -> Status:
    """The status with the id of ``auto`` in the user's own intercepts, where it is the one that this computer keeps."""
    from tpnet_cli.identity import known_id

    own = known_id()
    return _with_rules(status, lambda rule, whose: _revealed(rule, whose, user, own))


def revealed_one(item: InterceptStatus, user: str) -> InterceptStatus:
    """The same of one intercept."""
    from tpnet_cli.identity import known_id

    own = known_id()
    return _rules_changed(item, lambda rule, whose: _revealed(rule, whose, user, own))


def _revealed(rule: HeaderRule, whose: str, user: str, own: str) -> HeaderRule:
    from tpnet.rules import opens

    return replace(rule, value=own) if whose == user and opens(own, rule, user) else rule


def for_programs(status: Status, user: str) -> Status:
    """The status with the marks of values in the place of others' values: it may be written to a log, or shown on."""
    from tpnet.rules.sealed import mark_of

    return _with_rules(
        status,
        lambda rule, whose: (
            rule if whose == user or rule.digest else replace(rule, value=f"#{mark_of(rule)}")
        ),
    )


def with_own_values(
    steps: Sequence[ExplainStep], intercepts: Sequence[Intercept], user: str, *, whole: bool
) -> tuple[ExplainStep, ...]:
    """The steps of a dry run with the values that rules of the user's own ask for.

    ``whole``: with those too that no object says. Else their marks are enough.
    """
    from tpnet.rules import header_check

    full = {
        (one.name, header_check(rule)): header_check(rule, full=True)
        for one in intercepts
        if one.user == user
        for rule in one.headers
        if whole or not rule.digest
    }
    return tuple(
        replace(step, checks=tuple((full.get((step.intercept, said), said), ok) for said, ok in step.checks))
        for step in steps
    )


def _with_rules(status: Status, changed: Callable[[HeaderRule, str], HeaderRule]) -> Status:
    return replace(status, intercepts=tuple(_rules_changed(item, changed) for item in status.intercepts))


def _rules_changed(
    item: InterceptStatus, changed: Callable[[HeaderRule, str], HeaderRule]
) -> InterceptStatus:
    intercept = item.intercept
    headers = tuple(changed(rule, intercept.user) for rule in intercept.headers)
    return replace(item, intercept=replace(intercept, headers=headers))


def renamed(status: Status, where: Where, control: Any) -> Status:
    """The status with intercepts' names as they are to be shown."""
    intercepts = tuple(
        replace(
            item,
            intercept=replace(item.intercept, name=where.short(control, item.intercept.name)),
        )
        for item in status.intercepts
    )
    return replace(status, intercepts=intercepts)


def skew(theirs: str) -> str:
    """A sentence when the agents are of another version than this command; empty when they go together."""
    from tpnet import __version__
    from tpnet.control.kubernetes import install

    return install.skew(__version__, [theirs])
