"""The view of ``tpnet status`` for a cluster: one's session and its tunnels, the agents, who takes what of which service.

Pure: the present time and the width are given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from tpnet_cli import texts
from tpnet_cli.tables import ALWAYS, Column, make_table
from tpnet_cli.views.listing import missed_lines, problem_line, problems_of
from tpnet_cli.views.status import TAKERS, labelled, path_lines, taker_row

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tpnet.model import InterceptStatus, Status, TargetStatus

_TUNNELS = (
    Column("", ALWAYS),
    Column("NODE", ALWAYS, least=12),
    Column("STATE", ALWAYS),
    Column("CARRIER", 60),
    Column("RTT", 70, "right"),
    Column("MTU", 0),
    Column("ADDRESS", 0),
)
_ENDPOINTS = (
    Column("", ALWAYS),
    Column("POD", ALWAYS, least=20),
    Column("ADDRESS", 50),
    Column("PORT", ALWAYS, "right"),
    Column("STATE", ALWAYS, least=20),
)


def cluster_view(
    status: Status,
    own: dict[str, Any] | None,
    now: float,
    width: int,
    *,
    user: str = "",
    place: str,
    skew: str = "",
    wide: bool = False,
) -> RenderableType:
    """Everything at once.

    ``user``: who asks. ``own``: what the session of this computer says, if there is one. ``place``: what is shown, such
    as a namespace. ``skew``: a sentence when versions do not go together. ``wide``: every pod as well.
    """
    agent = status.agent
    parts: list[RenderableType] = [
        labelled("agents", f"{agent.node} · tpnet {agent.version} · redirect {agent.redirect}")
    ]
    if skew:
        parts.append(labelled("", Text(skew, style="yellow")))
    parts += _session_lines(own, now, width, wide=wide)
    if not status.intercepts:
        parts += [Text(), Text(f"No intercepts in {place}: every request goes to the pods.")]
    for items in _groups(status):
        parts += [Text(), _head(items)]
        rows = [taker_row(item, now, user, wide=wide) for item in items]
        parts.append(make_table(TAKERS, rows, width, wide=wide, header=False))
        parts += [problem_line(item.intercept.name, text) for item in items for text in problems_of(item)]
        parts += [line for item in items for line in missed_lines(item)]
    if wide and status.targets:
        parts.append(Text())
        rows = [_endpoint_row(target, first=not index) for index, target in enumerate(status.targets)]
        parts.append(make_table(_ENDPOINTS, rows, width, wide=True, header=False))
    return Group(*parts)


def _session_lines(own: dict[str, Any] | None, now: float, width: int, *, wide: bool) -> list[RenderableType]:
    if own is None:
        return [labelled("session", Text("none on this computer", style="dim"))]
    parts: list[RenderableType] = [
        labelled(
            "session",
            f"{own['session']} · since {texts.clock(float(own['started']), now)} · {own['address']}",
        )
    ]
    rows = [_tunnel_row(agent, first=not index) for index, agent in enumerate(own["agents"])]
    if rows:
        parts.append(make_table(_TUNNELS, rows, width, wide=wide, header=False))
    for agent in own["agents"]:
        parts += path_lines(str(agent["node"]), int(agent["mtu"]), up=bool(agent["up"]))
    return parts


def _tunnel_row(agent: dict[str, Any], *, first: bool) -> list[str | Text]:
    up = bool(agent["up"])
    return [
        Text("tunnel  " if first else "        ", style="bold"),
        str(agent["node"]),
        Text("up", style="green") if up else Text("down", style="red"),
        f"udp {agent['endpoint']}" if agent["endpoint"] else "udp: no packet yet",
        f"{agent['rtt_ms']:.1f} ms" if up and agent["rtt_ms"] else "",
        f"mtu {agent['mtu']}",
        str(agent["address"]),
    ]


def _groups(status: Status) -> list[list[InterceptStatus]]:
    """The intercepts of each target and port, older ones first."""
    groups: dict[tuple[tuple[str, ...], int], list[InterceptStatus]] = {}
    for item in status.intercepts:
        groups.setdefault((item.intercept.targets, item.intercept.port), []).append(item)
    return list(groups.values())


def _head(items: list[InterceptStatus]) -> Text:
    intercept = items[0].intercept
    name = ",".join(intercept.targets or (intercept.target,)).replace("/svc/", "/")
    port = f":{intercept.port}" if intercept.port else ""
    ready = max(item.ready for item in items)  # one that was refused has none, which its own row says
    total = max(item.total for item in items)
    style = "green" if ready == total > 0 else "yellow"
    return Text.assemble((f"{name}{port}", "bold"), "   ", (f"{ready}/{total} pods redirected", style))


def _endpoint_row(target: TargetStatus, *, first: bool) -> list[str | Text]:
    state = (
        Text("redirected", style="green")
        if target.ready
        else Text(target.reason or "not yet", style="yellow")
    )
    return [
        Text("pods    " if first else "        ", style="bold"),
        target.name,
        ", ".join(target.addresses),
        str(target.port),
        state,
    ]
