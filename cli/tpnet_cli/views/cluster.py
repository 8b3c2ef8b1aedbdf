"""The view of ``tpnet status`` in a cluster: the agents, one's own session, and every intercepted target."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from tpnet.rules import describe
from tpnet_cli import texts
from tpnet_cli.tables import ALWAYS, Column, make_table
from tpnet_cli.views.listing import problem_line, problems_of, ready_cell

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tpnet.model import InterceptStatus, Status

_LABEL = 9
_LINKS = (
    Column("", ALWAYS),
    Column("NODE", ALWAYS, least=6),
    Column("STATE", ALWAYS),
    Column("CARRIER", 70),
    Column("RTT", 60, "right"),
    Column("ADDRESS", 0),
)
_TAKERS = (
    Column("", ALWAYS),
    Column("WHO", ALWAYS, least=8),
    Column("NAME", 60, least=12),
    Column("TAKES", 80, least=16),
    Column("READY", ALWAYS),
    Column("REQUESTS", ALWAYS, "right"),
    Column("TO", 20),
    Column("LAST", 30),
)


def cluster_view(
    status: Status, session: dict[str, Any] | None, user: str, now: float, width: int, *, wide: bool = False
) -> RenderableType:
    """``session`` is what ``SessionClient.info`` gives of ``user``; ``None``: no daemon runs on this computer."""
    agent = status.agent
    parts: list[RenderableType] = [
        _labelled("agents", f"{agent.node} · tpnet {agent.version} · redirect {agent.redirect}")
    ]
    if session is None:
        parts.append(_labelled("session", Text(f"none of {user} on this computer", style="dim")))
    else:
        since = texts.clock(float(session["started"]), now)
        parts.append(_labelled("session", f"{session['session']} · since {since}"))
        rows = [_link_row(link, first=not index) for index, link in enumerate(session["agents"])]
        if rows:
            parts.append(make_table(_LINKS, rows, width, wide=wide, header=False))
    if not status.intercepts:
        parts += [Text(), Text("No intercepts: every request goes to the app.")]
    ordered = sorted(status.intercepts, key=_group)
    for (where, target), group in groupby(ordered, key=_group):
        items = list(group)
        parts += [Text(), Text(f"{where}/{target}", style="bold")]
        parts.append(make_table(_TAKERS, [_row(item, now) for item in items], width, wide=wide, header=False))
        parts += [problem_line(item.intercept.name, text) for item in items for text in problems_of(item)]
    return Group(*parts)


def _group(item: InterceptStatus) -> tuple[str, str]:
    intercept = item.intercept
    port = f":{intercept.port}" if intercept.port else ""
    return intercept.name.partition("/")[0], f"{intercept.target}{port}"


def _labelled(label: str, *parts: Text | str) -> Text:
    return Text.assemble((f"{label:<{_LABEL}} ", "bold"), *parts)


def _link_row(link: dict[str, Any], *, first: bool) -> list[str | Text]:
    state = Text("up", style="green") if link["up"] else Text("no answer", style="red")
    return [
        Text(f"{'tunnel' if first else '':<{_LABEL - 1}}", style="bold"),
        link["node"],
        state,
        f"udp {link['endpoint']}" if link["endpoint"] else "",
        f"{link['rtt_ms']:.1f} ms" if link["up"] else "",
        link["address"],
    ]


def _row(item: InterceptStatus, now: float) -> list[str | Text]:
    intercept = item.intercept
    return [
        "       ",
        intercept.user,
        intercept.name,
        describe(intercept),
        ready_cell(item),
        texts.counted(item.hits, "request"),
        f"to {intercept.handler}",
        f"last {texts.ago(item.last_hit, now)}" if item.last_hit else "",
    ]
