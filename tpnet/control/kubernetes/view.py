"""Intercept objects of the API as ``tpnet.model`` shows them to people, and back. Pure.

``client`` calls it. It must never show an intercept as on that no agent has said is.
"""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tpnet.control.kubernetes.convert import from_api, to_api
from tpnet.control.kubernetes.targets import label_of, parse_target, split_name
from tpnet.model import Intercept, InterceptReport, InterceptSpec, InterceptStatus, TargetStatus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tpnet.control.kubernetes.api import Object

_COUNTED = re.compile("([0-9]{1,9})/([0-9]{1,9})")
_NAMED = 3
"""Pods that are named of those with the same trouble."""


def objects_of(intercept: Intercept, labels: Mapping[str, str]) -> Object:
    """The Intercept object that asks for ``intercept``."""
    namespace, name = split_name(intercept.name)
    spec = InterceptSpec(
        user=intercept.user,
        session=intercept.session,
        target=parse_target(intercept.target),
        headers=intercept.headers,
        tunnel_port=intercept.tunnel_port or None,
        port=intercept.port or None,
        path=intercept.path,
        handler=intercept.handler,
        on_failure=intercept.on_failure,
        shared=intercept.shared,
        connect_timeout_seconds=intercept.connect_timeout,
    )
    return {"metadata": {"name": name, "namespace": namespace, "labels": dict(labels)}, "spec": to_api(spec)}


def model_intercept(obj: Object, serial: int = 0, port: int = 0) -> Intercept:
    """The intercept that an object asks for. ``port``: the number of a port that it names, or leaves out."""
    meta = obj["metadata"]
    spec = from_api(InterceptSpec, obj.get("spec"))
    return Intercept(
        name=f"{meta['namespace']}/{meta['name']}",
        user=spec.user,
        session=spec.session,
        target=label_of(spec.target),
        targets=(f"{meta['namespace']}/{label_of(spec.target)}",),
        port=port or (spec.port if isinstance(spec.port, int) else 0),
        headers=spec.headers,
        path=spec.path,
        handler=spec.handler,
        tunnel_port=spec.tunnel_port or 0,
        on_failure=spec.on_failure,
        shared=spec.shared,
        created=unix_time(meta["creationTimestamp"]),
        serial=serial,
        connect_timeout=spec.connect_timeout_seconds,
    )


def status_of(obj: Object) -> InterceptStatus:
    """An intercept and how it fares, as all agents together say."""
    report = from_api(InterceptReport, obj.get("status") or {})
    problems = _problems(report)
    last = [unix_time(part.last_hit) for part in report.nodes if part.last_hit]
    missed: Counter[str] = Counter()
    for part in report.nodes:
        missed.update({one.reason: one.count for one in part.missed})
    # What the agents concluded together, if they have: a node's part may be a step behind.
    counted = _COUNTED.fullmatch(report.redirected)
    return InterceptStatus(
        intercept=model_intercept(obj),
        ready=int(counted[1]) if counted else sum(part.ready for part in report.nodes),
        total=int(counted[2]) if counted else sum(part.total for part in report.nodes),
        handler_up=True,
        session_up=bool(report.nodes) and all(part.session_up for part in report.nodes),
        hits=sum(part.hits for part in report.nodes),
        last_hit=max(last, default=0.0),
        reasons=dict(missed),
        problems=tuple(problems),
    )


def _problems(report: InterceptReport) -> list[str]:
    """What is wrong, each thing once: why it is not taken at all, or else what every node says of its pods."""
    if not report.conditions and not report.nodes:
        return ["no agent has said anything yet"]
    wrong = {one.type: one.message for one in report.conditions if one.status == "False"}
    if "Accepted" in wrong:
        return [wrong["Accepted"]]
    problems = []
    for part in report.nodes:
        reasons: dict[str, list[str]] = {}
        for end in part.endpoints:
            if not end.ready and end.reason:
                reasons.setdefault(end.reason, []).append(end.pod)
        problems += [f"node {part.node}: {_pods(pods)}: {why}" for why, pods in reasons.items()]
        if part.message and not any(part.message.endswith(why) for why in reasons):
            problems.append(f"node {part.node}: {part.message}")
    return problems or [*wrong.values()]


def _pods(names: Sequence[str]) -> str:
    """``pod a``, ``pods a, b``, ``pods a, b, c and 4 more``."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"pod{'s' if len(names) > 1 else ''} {', '.join(names[:_NAMED])}{more}"


def target_statuses(objs: Sequence[Object]) -> tuple[TargetStatus, ...]:
    """Every intercepted endpoint, once."""
    found: dict[tuple[str, int], TargetStatus] = {}
    for obj in objs:
        report: Any = from_api(InterceptReport, obj.get("status") or {})
        for part in report.nodes:
            for one in part.endpoints:
                name = f"{obj['metadata']['namespace']}/{one.pod} on {part.node}"
                found[name, one.port] = TargetStatus(
                    name, one.port, one.ready, one.reason, addresses=(one.ip,) if one.ip else ()
                )
    return tuple(found[key] for key in sorted(found))


def unix_time(text: str) -> float:
    """RFC 3339 to Unix seconds; 0 for nothing, and for what is no time."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return 0.0
