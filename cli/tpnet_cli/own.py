"""What this computer's own session knows of itself, and neither API server nor agent does.

The commands that show intercepts add it: whether one's handlers listen, how the tunnel to each node is. It
must never start a session.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from tpnet.model import NotThere, Refused

if TYPE_CHECKING:
    from tpnet.model import InterceptStatus, Status
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
    return dataclasses.replace(status, intercepts=intercepts)


def _known(item: InterceptStatus, entry: dict[str, Any], agents: list[dict[str, Any]]) -> InterceptStatus:
    """Of the handler only this computer knows, and of the tunnel it knows sooner than what nodes report."""
    problems = [*item.problems, entry["problem"]] if entry["problem"] else [*item.problems]
    silent = [agent["node"] for agent in agents if not agent["up"]]
    up = len(silent) < len(agents) or not agents
    if up:
        problems += [f"the agent of node {node} does not answer; the app answers there" for node in silent]
    return dataclasses.replace(
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


def renamed(status: Status, where: Where, control: Any) -> Status:
    """The status with intercepts' names as they are to be shown."""
    intercepts = tuple(
        dataclasses.replace(
            item,
            intercept=dataclasses.replace(item.intercept, name=where.short(control, item.intercept.name)),
        )
        for item in status.intercepts
    )
    return dataclasses.replace(status, intercepts=intercepts)


def skew(theirs: str) -> str:
    """A sentence when the agents are of another version than this command; empty when they go together."""
    from tpnet import __version__
    from tpnet.control.kubernetes import install

    return install.skew(__version__, [theirs])
