"""From the cluster's objects to what this node has to do: which ports of which pods, for whom, and why not. Pure.

``tpnet.agent.cluster.controller`` calls ``decide`` whenever something has changed. Two nodes that see the same objects
must come to the same winners; and nothing may depend on the order in which things became known.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from tpnet.control.kubernetes.names import is_system
from tpnet.model import Intercept, TargetKind, TpnetError
from tpnet.rules import check_rules, is_personal, older_takes, takes_all
from tpnet.rules.sealed import mark_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tpnet.agent.cluster.facts import Endpoint, Key, Lease, Pod, Service, Wish, Workload
    from tpnet.control.local.store import TargetKey
    from tpnet.rules import Probe

CONFLICT, REFUSED, SESSION_GONE, NO_SESSION = "Conflict", "Refused", "SessionGone", "NoSession"
CONFLICT_ELSEWHERE = "ConflictElsewhere"
"""A node's part says so of an intercept that has lost on another node: there it takes another's requests."""


class LeaseState(StrEnum):
    """How a session stands. ``UNKNOWN``: not asked yet. ``OVER``: not renewed. ``GONE``: there is no such object."""

    UNKNOWN = "unknown"
    LIVE = "live"
    OVER = "over"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Standing:
    """A session as far as it is known."""

    state: LeaseState = LeaseState.UNKNOWN
    lease: Lease | None = None


UNKNOWN = Standing()


@dataclass(frozen=True, slots=True)
class View:
    """What is known. In ``services`` and ``workloads`` ``None`` says that there is none, no entry that it is not known.

    ``wishes`` are all of every namespace that any of them is in. ``limits``: the label of namespaces. ``agents``: the
    nodes that have an agent; words of others count for nothing.
    """

    node: str
    wishes: Iterable[Wish] = ()
    pods: Mapping[Key, Pod] = field(default_factory=dict)
    services: Mapping[Key, Service | None] = field(default_factory=dict)
    workloads: Mapping[tuple[TargetKind, str, str], Workload | None] = field(default_factory=dict)
    endpoints: Mapping[Key, tuple[Endpoint, ...]] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)
    sessions: Mapping[str, Standing] = field(default_factory=dict)
    agents: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an intercept is not carried out at all: a word for programs, a sentence for people."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Spot:
    """One pod's port of a target on this node. ``ready``: traffic goes there. ``why`` it cannot be redirected."""

    pod: str
    ip: str
    port: int
    ready: bool
    target: str
    why: str = ""

    @property
    def key(self) -> TargetKey:
        """As ``tpnet.agent.targets`` knows it."""
        return self.target, self.port


@dataclass(frozen=True, slots=True)
class Case:
    """One intercept as this node sees it.

    ``expected`` has the ready pods by node, where the API tells (a Service); ``total`` how many are ready, where only
    that is told (a workload). ``why`` there is nothing to redirect. ``known``: everything needed has been asked for.
    """

    wish: Wish
    spots: tuple[Spot, ...] = ()
    expected: Mapping[str, frozenset[str]] | None = None
    total: int = 0
    why: str = ""
    known: bool = True
    problem: Problem | None = None
    session: LeaseState = LeaseState.UNKNOWN
    lease: Lease | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """``wanted``: every target to be redirected, with the intercepts whose rules are to stand, oldest first.

    ``probes``: what the kubelet asks of each of these. ``addresses``: what the API server says of their pods.
    """

    wanted: dict[TargetKey, tuple[Intercept, ...]]
    cases: dict[Key, Case]
    probes: dict[TargetKey, tuple[Probe, ...]] = field(default_factory=dict)
    addresses: dict[str, tuple[str, ...]] = field(default_factory=dict)


def decide(view: View) -> Outcome:
    """What is to be done on this node."""
    cases: dict[Key, Case] = {}
    wanted: dict[TargetKey, tuple[Intercept, ...]] = {}
    older = Takers()
    for wish in sorted((one for one in view.wishes if not one.leaving), key=lambda one: one.age_order):
        standing = view.sessions.get(wish.spec.session, UNKNOWN)
        case = replace(_located(view, wish), session=standing.state, lease=standing.lease)
        if wish.namespace not in view.limits:
            case = replace(case, known=False, why=case.why or "Its namespace has not been looked at yet.")
        problem = _refusal(view, wish, standing) or _conflict(view, case, older)
        if problem is not None:
            cases[wish.key] = _with(case, problem)
            continue
        cases[wish.key] = case
        older.add(case)
        for spot in case.spots:
            if spot.why or not case.known:
                continue
            rules = wanted.setdefault(spot.key, ())
            if standing.state is LeaseState.LIVE:
                wanted[spot.key] = (*rules, intercept_at(wish, spot))
    asked = {pod.target: pod.probes for pod in view.pods.values() if pod.probes}
    probes = {key: tuple(probe for port, probe in asked.get(key[0], ()) if port == key[1]) for key in wanted}
    names = {name for name, _ in wanted}
    addresses = {pod.target: pod.ips for pod in view.pods.values() if pod.target in names}
    return Outcome(wanted, cases, {key: found for key, found in probes.items() if found}, addresses)


def intercept_at(wish: Wish, spot: Spot) -> Intercept:
    """The intercept as workers know it, at one pod's port.

    The second of its creation is its serial: rules settle what that leaves open by the name, the same everywhere.
    """
    spec = wish.spec
    return Intercept(
        name=wish.full_name,
        user=spec.user,
        session=spec.session,
        target=f"{spec.target.kind.lower()}/{spec.target.name}",
        targets=(spot.target,),
        port=spot.port,
        headers=spec.headers,
        path=spec.path,
        handler=spec.handler,
        tunnel_port=spec.tunnel_port or 0,
        on_failure=spec.on_failure,
        shared=spec.shared,
        created=wish.created,
        serial=int(wish.created),
        connect_timeout=spec.connect_timeout_seconds,
    )


def _with(case: Case, problem: Problem) -> Case:
    spots = tuple(replace(spot, why=spot.why or problem.message) for spot in case.spots)
    return replace(case, spots=spots, problem=problem)


# May it be?


def _refusal(view: View, wish: Wish, standing: Standing) -> Problem | None:
    """What forbids an intercept, whatever others there are. The API server has asked most of it before."""
    spec, namespace = wish.spec, wish.namespace
    limit = view.limits.get(namespace, "all")
    label = f"the namespace has the label tpnet.dev/intercept={limit}"
    if is_system(namespace):
        return Problem(REFUSED, f"Nothing can be intercepted in {namespace}: it is a system namespace.")
    if limit == "none" or limit not in {"personal", "all"}:
        return Problem(REFUSED, f"Nothing may be intercepted in {namespace}: {label}.")
    if limit == "personal" and not is_personal(spec.headers):
        return Problem(REFUSED, f"Only personal intercepts are allowed in {namespace}: {label}.")
    try:
        check_rules(spec.headers, spec.path)
    except TpnetError as error:
        return Problem(REFUSED, error.message)
    if not (spec.session and spec.tunnel_port):
        return Problem(
            NO_SESSION,
            f"No session of {spec.user}'s has taken it. On {spec.user}'s computer: tpnet connect -n {namespace}",
        )
    lease = standing.lease
    if lease is not None and _is_copied(lease, view.sessions):
        return Problem(REFUSED, f"The key of the session {spec.session} is that of another one.")
    if lease is not None and lease.user != spec.user:
        return Problem(
            REFUSED,
            f"The session {spec.session} is not {spec.user}'s. An intercept goes to a session of one's own.",
        )
    if standing.state is LeaseState.GONE:
        return Problem(SESSION_GONE, f"There is no session {spec.session}: it has ended.")
    if standing.state is LeaseState.OVER:
        return Problem(
            SESSION_GONE,
            f"The session {spec.session} is no longer renewed: its computer is off, or cannot reach us.",
        )
    return None


def _is_copied(lease: Lease, sessions: Mapping[str, Standing]) -> bool:
    """Whether an older session has the same key: what is sent to one would reach the other's computer."""
    others = (one.lease for one in sessions.values())
    return any(
        other is not None
        and other.public_key == lease.public_key
        and (other.created, other.name) < (lease.created, lease.name)
        for other in others
    )


class Takers:
    """Intercepts that stand, oldest first; quick to say which of them may take all that a younger one asks for."""

    def __init__(self) -> None:
        self._cases: dict[tuple[str, object], list[Case]] = {}

    def add(self, case: Case) -> None:
        """The next one."""
        # One that takes more than another has none of its exact rules beyond that one's. Regexes are compared in full.
        self._cases.setdefault((case.wish.namespace, next(iter(_marks(case)), None)), []).append(case)

    def of(self, case: Case) -> Iterable[Case]:
        """Those that may; those that surely do not are left out."""
        for first in (None, *_marks(case)):
            yield from self._cases.get((case.wish.namespace, first), ())


def _marks(case: Case) -> list[tuple[str, str]]:
    """Of each exact rule its header and the mark of its value, which is the same whether the rule says it or not."""
    exact = (rule for rule in case.wish.spec.headers if not rule.regex)
    return sorted({(rule.name.lower(), mark_of(rule)) for rule in exact})


def _conflict(view: View, case: Case, older_ones: Takers) -> Problem | None:
    """An older one that takes all of its requests, on the same port of the same thing, or of a pod of this node."""
    wish = case.wish
    keys = {spot.key for spot in case.spots}
    for older in older_ones.of(case):
        spec = older.wish.spec
        same = spec.target == wish.spec.target and spec.port == wish.spec.port
        if (same or any(spot.key in keys for spot in older.spots)) and takes_all(spec, wish.spec):
            return Problem(CONFLICT, older_takes(spec.user, older.wish.full_name, spec))
    for part in wish.report.nodes:
        if part.node != view.node and part.node in view.agents and part.reason == CONFLICT:
            return Problem(CONFLICT_ELSEWHERE, part.message)
    return None


# Where is it?


def _located(view: View, wish: Wish) -> Case:
    """An intercept's places on this node."""
    if wish.spec.target.kind is TargetKind.SERVICE:
        return _behind_service(view, wish)
    return _of_pods(view, wish)


def _behind_service(view: View, wish: Wish) -> Case:
    key = wish.namespace, wish.spec.target.name
    what = f"Service {key[1]}"
    if key not in view.services or key not in view.endpoints:
        return Case(wish, known=False, why=f"Nothing is known of {what} yet.")
    service = view.services[key]
    if service is None:
        return Case(wish, why=f"There is no {what} in {wish.namespace}.")
    if service.external:
        return Case(wish, why=f"{what} has no pods: it is only a name for something elsewhere.")
    fitting = [
        port for port in service.ports if wish.spec.port is None or wish.spec.port in {port.number, port.name}
    ]
    if len(fitting) != 1:
        return Case(wish, why=_which_port(what, wish.spec.port, service))
    name = fitting[0].name
    spots: dict[tuple[str, int], Spot] = {}
    expected: dict[str, set[str]] = {}
    for one in view.endpoints[key]:
        number = dict(one.ports).get(name)
        if number is None or one.namespace != wish.namespace:
            continue
        if one.ready and one.node:
            expected.setdefault(one.node, set()).add(one.pod)
        if one.node == view.node and (one.pod, number) not in spots:  # dual stack: each pod is in two slices
            spots[one.pod, number] = _spot(view.pods.get((one.namespace, one.pod)), one, number)
    return Case(
        wish,
        _in_order(spots.values()),
        {node: frozenset(pods) for node, pods in expected.items()},
        why="" if expected else f"No endpoint of {what} is ready.",
    )


def _spot(pod: Pod | None, endpoint: Endpoint, number: int) -> Spot:
    if pod is None or pod.uid != endpoint.uid:
        return Spot(
            endpoint.pod, endpoint.ip, number, endpoint.ready, "", "Its node has not heard of the pod yet."
        )
    return Spot(pod.name, endpoint.ip, number, endpoint.ready, pod.target, _why_not(pod))


def _of_pods(view: View, wish: Wish) -> Case:
    target = wish.spec.target
    if target.kind is TargetKind.POD:
        one = view.pods.get((wish.namespace, target.name))
        pods = [] if one is None else [one]
    else:
        pods = [
            pod
            for pod in view.pods.values()
            if pod.namespace == wish.namespace and pod.owner == (target.kind, target.name)
        ]
    spots = _in_order(_spot_of(pod, wish.spec.port) for pod in pods if not pod.ended)
    what = f"{target.kind} {target.name}"
    ref = (target.kind, wish.namespace, target.name)
    why, total = f"No pod of {what} is ready.", 0
    if target.kind is TargetKind.POD:
        why = f"The pod {target.name} does not run." if not spots else f"The pod {target.name} is not ready."
    elif ref not in view.workloads:
        # How many pods there are in all is not known yet: those here may not be taken for the whole.
        return Case(wish, spots, known=False, why=f"Nothing is known of {what} yet.")
    else:
        workload = view.workloads[ref]
        total = workload.ready if workload is not None else 0
        if workload is None:
            why = f"There is no {what} in {wish.namespace}."
    return Case(wish, spots, None, total, why)


def _spot_of(pod: Pod, port: int | str | None) -> Spot:
    ip = pod.ips[0] if pod.ips else ""
    ready = pod.ready and not pod.leaving
    if isinstance(port, int):
        return Spot(pod.name, ip, port, ready, pod.target, _why_not(pod))
    numbers = sorted({number for name, number in pod.ports if port is None or name == port})
    if len(numbers) == 1:
        return Spot(pod.name, ip, numbers[0], ready, pod.target, _why_not(pod))
    if port is not None:
        why = f"It has no port named {port}."
    elif numbers:
        why = f"Which port is meant? It has {', '.join(map(str, numbers[:8]))}."
    else:
        why = "It declares no port: the intercept has to name one."
    return Spot(pod.name, ip, 0, ready, pod.target, why)


def _why_not(pod: Pod) -> str:
    if pod.host_network:
        return (
            "It shares the node's own network (hostNetwork), where a redirect would hit the node's services."
        )
    if pod.static:
        return "It is a static pod: which processes are its own cannot be proved, since anybody can write what says so."
    if pod.ended or (pod.leaving and not pod.running):
        return "It has ended."
    if not pod.ips:
        return "It has no address yet." if pod.running else "It does not run yet."
    return ""


def _which_port(what: str, port: int | str | None, service: Service) -> str:
    there = ", ".join(f"{one.number} ({one.name})" if one.name else str(one.number) for one in service.ports)
    if not there:
        return f"{what} has no TCP port."
    if port is None:
        return f"Which port of {what} is meant? It has {there}."
    return f"{what} has no port {port}; it has {there}."


def _in_order(spots: Iterable[Spot]) -> tuple[Spot, ...]:
    return tuple(sorted(spots, key=lambda spot: (spot.pod, spot.port)))
