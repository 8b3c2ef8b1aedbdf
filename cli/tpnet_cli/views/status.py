"""The view of ``tpnet status``: agent, sessions, and each group of targets with who takes what of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from tpnet_cli import texts
from tpnet_cli.tables import ALWAYS, Column, make_table
from tpnet_cli.views.listing import ends_problems, missed_lines, problem_line, problems_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tpnet.model import AgentStatus, InterceptStatus, SessionStatus, Status, TargetStatus

_LABEL = 9
_MTU = 1280
"""Bytes of the tunnel's largest packet; a path that drops it is told."""
_SESSIONS = (
    Column("", ALWAYS),
    Column("NAME", ALWAYS, least=12),
    Column("USER", 0),
    Column("STATE", ALWAYS),
    Column("CARRIER", 60),
    Column("RTT", 70, "right"),
    Column("LEASE", 50),
    Column("SINCE", 40),
    Column("ADDRESS", 10),
    Column("MTU", 20),
    Column("KEY", 0),
)
TAKERS = (
    Column("", ALWAYS),
    Column("WHO", ALWAYS, least=8),
    Column("NAME", 60, least=12),
    Column("TAKES", 80, least=16),
    Column("STATE", ALWAYS),
    Column("REQUESTS", ALWAYS, "right"),
    Column("TO", 20),
    Column("LAST", 30),
)


def status_view(
    status: Status, now: float, width: int, *, user: str = "", wide: bool = False
) -> RenderableType:
    """Everything at once. Empty parts say so in a line. ``user`` is who asks."""
    parts: list[RenderableType] = list(_agent_lines(status.agent, now))
    if status.sessions:
        rows = [_session_row(session, now, first=not index) for index, session in enumerate(status.sessions)]
        parts.append(make_table(_SESSIONS, rows, width, wide=wide, header=False))
        parts += [
            line
            for session in status.sessions
            for line in path_lines(session.name, session.mtu, up=session.up)
        ]
    else:
        parts.append(labelled("session", Text("none", style="dim")))
    if all(target.left for target in status.targets):
        parts += [Text(), Text("No target is redirected: every request goes to the app.")]
    for targets in _groups(status):
        parts += [Text(), *_target_lines(targets)]
        takers = _takers(targets, status)
        rows = [taker_row(item, now, user, wide=wide) for item in takers] + [_app_row(targets)]
        parts.append(make_table(TAKERS, rows, width, wide=wide, header=False))
        parts += _afterthoughts(targets)
        parts += [problem_line(item.intercept.name, text) for item in takers for text in ends_problems(item)]
        parts += [line for item in takers for line in missed_lines(item)]
    left = [target for target in status.targets if target.left]
    parts += [Text(), *(_left_line(target) for target in left)] if left else []
    homeless = [item for item in status.intercepts if not _targets_of(item, status)]
    parts += [problem_line(item.intercept.name, text) for item in homeless for text in _lost(item)]
    return Group(*parts)


def labelled(label: str, *parts: Text | str) -> Text:
    """A line of the head: what it is about, then what is true of it."""
    return Text.assemble((f"{label:<{_LABEL}} ", "bold"), *parts)


def _agent_lines(agent: AgentStatus, now: float) -> list[Text]:
    memory = f", {agent.memory_kib / 1024:.0f} MB" if agent.memory_kib else ""
    workers = ", ".join(str(pid) for pid in agent.worker_pids)
    working = f"worker {workers}" if workers else "no worker: requests go to the app"
    if silent := workers and agent.worker_silent:
        working += f" does not respond (since {agent.worker_silent:.0f} s): requests go to the app"
    restarts = f", restarted {texts.counted(agent.worker_restarts, 'time')}" if agent.worker_restarts else ""
    since = f" · since {texts.clock(agent.started, now)}" if agent.started else ""
    return [
        labelled("agent", f"{agent.node} · tpnet {agent.version} · kernel {agent.kernel}{since}"),
        labelled("", f"redirect {agent.redirect}: {agent.redirect_reason}"),
        labelled(
            "",
            f"wireguard {agent.wireguard} · supervisor {agent.pid}{memory} · ",
            Text(f"{working}{restarts}", style="" if workers and not silent else "red"),
        ),
    ]


def _session_row(session: SessionStatus, now: float, *, first: bool) -> list[str | Text]:
    state = Text("on", style="green") if session.up else Text("down", style="red")
    return [
        Text(f"{'session' if first else '':<{_LABEL - 1}}", style="bold"),
        session.name,
        session.user,
        state,
        f"udp {session.endpoint}" if session.endpoint else "udp: no packet yet",
        f"{session.rtt_ms:.1f} ms" if session.rtt_ms and session.up else "",
        f"lease {session.lease_left:.0f} s",
        f"since {texts.clock(session.since, now)}" if session.since else "",
        session.address,
        f"mtu {session.mtu}" if session.mtu else "",
        f"key {session.public_key}",
    ]


def path_lines(name: str, mtu: int, *, up: bool) -> list[Text]:
    """What is wrong with the path of a tunnel, if anything is."""
    if not up or mtu >= _MTU:
        return []
    if mtu:
        return [problem_line(name, f"the path drops packets of more than {mtu} bytes; smaller ones are sent")]
    return [problem_line(name, "only small packets pass the path: longer requests and responses get stuck")]


def _groups(status: Status) -> list[list[TargetStatus]]:
    """Targets that the same intercepts take from, together: replicas of one service are one block."""
    groups: dict[tuple[int, tuple[str, ...]], list[TargetStatus]] = {}
    for target in status.targets:
        if target.left:
            continue
        names = tuple(item.intercept.name for item in status.intercepts if _concerns(item, target))
        groups.setdefault((target.port, names), []).append(target)
    return list(groups.values())


def _concerns(item: InterceptStatus, target: TargetStatus) -> bool:
    return item.intercept.port == target.port and target.name in item.intercept.targets


def _targets_of(item: InterceptStatus, status: Status) -> list[TargetStatus]:
    return [target for target in status.targets if _concerns(item, target)]


def _lost(item: InterceptStatus) -> list[str]:
    return problems_of(item) or [f"its target {item.intercept.target} is gone"]


def _target_lines(targets: list[TargetStatus]) -> list[Text]:
    ready = [target for target in targets if target.ready]
    port = targets[0].port
    held = sum(target.open for target in targets)
    head = Text.assemble(
        (f"{group_name([target.name for target in targets])}:{port}", "bold"),
        "   ",
        (f"{len(ready)}/{len(targets)} redirected", "green" if len(ready) == len(targets) else "yellow"),
        f"   {texts.counted(held, 'open connection')}",
    )
    broken = [
        Text.assemble(f"  {target.name}: ", (target.reason or "not redirected yet", "yellow"))
        for target in targets
        if not target.ready
    ]
    return [head, *broken]


def _left_line(target: TargetStatus) -> Text:
    """A target that nobody intercepts any more, while connections that came before still pass through."""
    passes = "still passes" if target.open == 1 else "still pass"
    return Text.assemble(
        (f"{target.name}:{target.port}", "bold"),
        f"   left: {texts.counted(target.open, 'connection')} {passes} through, to the app",
    )


def group_name(names: list[str]) -> str:
    """One name for several targets: what they have in common, then what differs: ``netns/lab-shop-{1,2}``."""
    if len(names) == 1:
        return names[0]
    prefix = names[0]
    while prefix and not all(name.startswith(prefix) for name in names):
        prefix = prefix[:-1]
    rests = [name[len(prefix) :] for name in sorted(names)]
    shown = rests if len(rests) <= 4 else [*rests[:3], f"… {len(rests) - 3} more"]
    return f"{prefix}{{{','.join(shown)}}}"


def _takers(targets: list[TargetStatus], status: Status) -> list[InterceptStatus]:
    return [item for item in status.intercepts if _concerns(item, targets[0])]


def taker_row(item: InterceptStatus, now: float, user: str, *, wide: bool) -> list[str | Text]:
    """An intercept as one of those who take from a target: a row of ``TAKERS``."""
    intercept = item.intercept
    if not item.session_up:
        state = Text("down", style="red")
    elif not item.handler_up:
        state = Text("no handler", style="yellow")
    elif item.ready < item.total or not item.total:
        state = Text(f"{item.ready}/{item.total}", style="yellow")
    else:
        state = Text("on", style="green")
    return [
        "       ",
        intercept.user,
        intercept.name,
        texts.takes(intercept, user, wide=wide),
        state,
        texts.counted(item.hits, "request"),
        f"to {intercept.handler}",
        f"last {texts.ago(item.last_hit, now)}" if item.last_hit else "",
    ]


def _app_row(targets: list[TargetStatus]) -> list[str | Text]:
    served = sum(target.app_requests for target in targets)
    return ["       ", Text("app", style="dim"), "", "", "", texts.counted(served, "request"), "", ""]


def _afterthoughts(targets: list[TargetStatus]) -> list[Text]:
    verdicts: dict[str, int] = {}
    for target in targets:
        for letter, number in target.verdicts.items():
            verdicts[letter] = verdicts.get(letter, 0) + number
    words = texts.verdict_words(verdicts)
    return [Text(f"         {' · '.join(words)}", style="dim")] if words else []
