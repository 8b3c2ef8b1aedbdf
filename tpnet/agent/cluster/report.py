"""What is said of an intercept in its status: this node's part, and the conditions that follow from all parts. Pure.

``tpnet.agent.cluster.controller`` writes what these give. Every agent must come to the same conditions from the same
parts, so that it does not matter which of them writes; and no text may change by the passing of time alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tpnet.agent.cluster.decide import CONFLICT, NO_SESSION, SESSION_GONE, LeaseState
from tpnet.agent.cluster.facts import time_text
from tpnet.model import Condition, ConditionStatus, EndpointReport, InterceptReport, MissedReport, NodeReport
from tpnet.rules import describe
from tpnet.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tpnet.agent.cluster.decide import Case, Spot
    from tpnet.control.local.store import TargetKey

READY, ACCEPTED = "Ready", "Accepted"
MOST_ENDPOINTS = 1000
"""Endpoints told of one node."""
_MOST_TEXT = 1000
_NAMED = 3
_SILENT = "nothing listens"


def part_of(
    node: str,
    case: Case,
    trouble: Callable[[TargetKey], str],
    *,
    session_up: bool,
    hits: int,
    last_hit: float,
    missed: Mapping[str, int],
) -> NodeReport | None:
    """This node's part; ``None`` when the intercept has nothing here.

    ``trouble`` says why a target is not redirected at this moment, as a sentence; empty when it is. ``last_hit`` in
    Unix seconds. ``missed``: matched requests that did not reach the session, by reason.
    """
    if not case.spots:
        return None
    endpoints = [_endpoint(case, spot, trouble) for spot in case.spots]
    counted = [end for spot, end in zip(case.spots, endpoints, strict=True) if spot.ready]
    ready = sum(end.ready for end in counted)
    message = case.problem.message if case.problem is not None else ""
    if not message and ready < len(counted):
        message = next(f"{end.pod}: {end.reason}" for end in counted if not end.ready)
    return NodeReport(
        node=node,
        ready=ready,
        total=len(counted),
        endpoints=tuple(endpoints[:MOST_ENDPOINTS]),
        session_up=session_up,
        hits=hits,
        last_hit=time_text(last_hit),
        missed=tuple(MissedReport(reason, count) for reason, count in sorted(missed.items()) if count),
        message=_fitting(message),
        reason=case.problem.reason if case.problem is not None else "",
    )


def _endpoint(case: Case, spot: Spot, trouble: Callable[[TargetKey], str]) -> EndpointReport:
    why = spot.why
    if not why and case.session is LeaseState.UNKNOWN:
        why = f"Its node has not heard of the session {case.wish.spec.session} yet."
    why = why or trouble(spot.key)
    return EndpointReport(pod=spot.pod, port=spot.port, ready=not why, ip=spot.ip, reason=_fitting(why))


def _fitting(text: str) -> str:
    """A text as the API server takes it, and gives it back."""
    return clean(text)[:_MOST_TEXT]


def conclusion(
    case: Case, parts: Iterable[NodeReport], agents: frozenset[str], now: float
) -> InterceptReport:
    """The status but for the nodes' parts: conditions and the texts for tables.

    ``parts`` are all nodes'; those of nodes without an agent count for nothing. ``now`` in Unix seconds is when a
    condition that differs from the one seen has changed.
    """
    told = {part.node: part for part in parts if part.node in agents}
    redirected, total, missing = _counted(case, told)
    accepted = _accepted(case, told)
    ready = _ready(case, accepted, redirected, total, missing)
    seen = case.wish.report
    return InterceptReport(
        observed_generation=case.wish.generation,
        requests=_fitting(describe(case.wish.spec)),
        redirected=f"{redirected}/{total}",
        conditions=tuple(
            _since(one, seen.conditions, case.wish.generation, now) for one in (accepted, ready)
        ),
    )


def differs(concluded: InterceptReport, seen: InterceptReport) -> bool:
    """Whether what was concluded says anything but what is there."""
    there = {one.type: one for one in seen.conditions}
    return any(there.get(one.type) != one for one in concluded.conditions) or (
        concluded.observed_generation,
        concluded.requests,
        concluded.redirected,
    ) != (seen.observed_generation, seen.requests, seen.redirected)


def _counted(case: Case, told: dict[str, NodeReport]) -> tuple[int, int, list[str]]:
    """Redirected endpoints, ready endpoints, and a sentence for each ready one that is not redirected."""
    if case.expected is None:
        redirected = sum(part.ready for part in told.values())
        total = max(case.total, sum(part.total for part in told.values()))
        missing = [f"{part.node}: {part.message}" for part in told.values() if part.ready < part.total]
        return redirected, total, sorted(missing)
    redirected = 0
    missing = []
    for node, pods in case.expected.items():
        part = told.get(node)
        seen = {end.pod: end for end in part.endpoints} if part is not None else {}
        for pod in sorted(pods):
            end = seen.get(pod)
            if end is not None and end.ready:
                redirected += 1
            else:
                missing.append(f"{pod} on {node}: {_why_missing(end, part)}")
    return redirected, sum(map(len, case.expected.values())), sorted(missing)


def _why_missing(end: EndpointReport | None, part: NodeReport | None) -> str:
    if end is not None:
        return end.reason
    return "no agent on this node has said anything." if part is None else "its node has not come to it yet."


def _accepted(case: Case, told: dict[str, NodeReport]) -> Condition:
    if case.problem is not None and case.problem.reason not in {SESSION_GONE, NO_SESSION}:
        reason = CONFLICT if case.problem.reason.startswith(CONFLICT) else case.problem.reason
        return _condition(ACCEPTED, ConditionStatus.FALSE, reason, case.problem.message)
    for node in sorted(told):
        if told[node].reason == CONFLICT:
            return _condition(ACCEPTED, ConditionStatus.FALSE, CONFLICT, told[node].message)
    return _condition(
        ACCEPTED,
        ConditionStatus.TRUE,
        "Accepted",
        "No other intercept takes these requests, and nothing forbids it.",
    )


def _ready(case: Case, accepted: Condition, redirected: int, total: int, missing: list[str]) -> Condition:
    if accepted.status is ConditionStatus.FALSE:
        return _condition(READY, ConditionStatus.FALSE, accepted.reason, accepted.message)
    if case.problem is not None:
        return _condition(READY, ConditionStatus.FALSE, case.problem.reason, case.problem.message)
    if not case.known:
        return _condition(READY, ConditionStatus.FALSE, "Pending", case.why)
    if not total:
        return _condition(READY, ConditionStatus.FALSE, "NoEndpoints", case.why)
    if redirected >= total:
        every = "The one ready endpoint is" if total == 1 else f"All {total} ready endpoints are"
        return _condition(READY, ConditionStatus.TRUE, "Redirected", f"{every} redirected and probed.")
    silent = not redirected and missing and all(_SILENT in one for one in missing)
    some = " ".join(missing[:_NAMED]) + (" …" if len(missing) > _NAMED else "")
    text = f"{redirected} of {total} ready endpoints are redirected. {some}".strip()
    return _condition(READY, ConditionStatus.FALSE, "NotListening" if silent else "Partly", text)


def _condition(kind: str, status: ConditionStatus, reason: str, message: str) -> Condition:
    return Condition(type=kind, status=status, reason=reason, message=clean(message), last_transition_time="")


def _since(condition: Condition, seen: Iterable[Condition], generation: int, now: float) -> Condition:
    """With the time of its last change: that of the one seen, if that has the same status."""
    before = next((one for one in seen if one.type == condition.type), None)
    when = before.last_transition_time if before and before.status is condition.status else time_text(now)
    return replace(condition, last_transition_time=when, observed_generation=generation)
