"""The few things about the cluster's objects that decisions need, taken from API data. Pure.

``tpnet.agent.cluster.world`` keeps these instead of whole objects: they are small, and equal when nothing has changed
that matters. Must never raise for what a kind's own schema allows; of the kinds of tpnet, what does not decode is told
apart with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tpnet.control.kubernetes.convert import from_api
from tpnet.model import InterceptReport, InterceptSpec, InvalidInput, SessionSpec, TpnetError, is_object_name
from tpnet.rules import Probe

if TYPE_CHECKING:
    from collections.abc import Iterator

Object = dict[str, Any]
Key = tuple[str, str]
"""Namespace and name."""

_MIRROR = "kubernetes.io/config.mirror"
_TEMPLATE_HASH = "pod-template-hash"


@dataclass(frozen=True, slots=True)
class Wish:
    """An Intercept object. ``created`` is in Unix seconds, ``resource_version`` only ever compared for equality."""

    namespace: str
    name: str
    uid: str
    generation: int
    created: float
    spec: InterceptSpec
    report: InterceptReport
    leaving: bool = False

    @property
    def key(self) -> Key:
        """Namespace and name."""
        return self.namespace, self.name

    @property
    def full_name(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    @property
    def age_order(self) -> tuple[float, str]:
        """The lower one is the older; the same on every node."""
        return self.created, self.full_name


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of this node. ``owner``: the kind and name of what made it. ``static``: it says that it stands for a file.

    ``target`` is what ``resolve_targets`` takes: the uid, which the API server gives and nobody can write. Labels,
    annotations, owner and status are what people wrote: they must never lead to processes.

    ``ports`` are the TCP ports that its containers declare, with their names; those of native sidecars too. ``probes``:
    what its kubelet asks by HTTP, with the port.
    """

    namespace: str
    name: str
    uid: str
    target: str
    ips: tuple[str, ...]
    ports: tuple[tuple[str, int], ...]
    owner: tuple[str, str]
    probes: tuple[tuple[int, Probe], ...] = ()
    host_network: bool = False
    static: bool = False
    running: bool = False
    ready: bool = False
    ended: bool = False
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port of a Service."""

    name: str
    number: int


@dataclass(frozen=True, slots=True)
class Service:
    """A Service: its TCP ports. ``external``: it is only a name for something elsewhere."""

    ports: tuple[ServicePort, ...]
    external: bool = False


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment, StatefulSet or DaemonSet: how many of its pods are ready."""

    ready: int


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One pod behind a Service. ``ports`` by the name of the Service's port."""

    namespace: str
    pod: str
    uid: str
    node: str
    ip: str
    ready: bool
    ports: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Lease:
    """A Session object."""

    name: str
    uid: str
    user: str
    public_key: str
    renew_time: str
    seconds: int
    created: float = 0.0


def wish_of(item: Object) -> Wish:
    """An Intercept.

    Raises ``InvalidInput`` when its spec is of another version's making, or names what cannot be: what its creator
    wrote becomes part of requests with the agent's own rights.
    """
    meta = item["metadata"]
    status = item.get("status") or {}
    spec = from_api(InterceptSpec, item.get("spec"))
    for what, name in (("target.name", spec.target.name), ("session", spec.session)):
        if name and not is_object_name(name):
            raise InvalidInput(f"InterceptSpec.{what} is {name[:64]!r}, and nothing can be called that.")
    try:
        report = from_api(InterceptReport, status)
    except TpnetError:
        report = InterceptReport()  # only what agents say of each other: it is written anew
    return Wish(
        namespace=meta.get("namespace", ""),
        name=meta["name"],
        uid=meta.get("uid", ""),
        generation=int(meta.get("generation", 0)),
        created=seconds_of(meta.get("creationTimestamp")),
        spec=spec,
        report=report,
        leaving="deletionTimestamp" in meta,
    )


def pod_of(item: Object) -> Pod:
    """A Pod."""
    meta, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    sidecars = [one for one in spec.get("initContainers") or () if one.get("restartPolicy") == "Always"]
    containers = [*(spec.get("containers") or ()), *sidecars]
    ports = tuple(
        (port.get("name", ""), int(port["containerPort"]))
        for container in containers
        for port in container.get("ports") or ()
        if port.get("protocol", "TCP") == "TCP"
    )
    states = [*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())]
    conditions = {one["type"]: one["status"] for one in status.get("conditions") or ()}
    ips = tuple(one["ip"] for one in status.get("podIPs") or () if one.get("ip"))
    if not ips and status.get("podIP"):
        ips = (status["podIP"],)
    uid = meta.get("uid", "")
    return Pod(
        namespace=meta.get("namespace", ""),
        name=meta["name"],
        uid=uid,
        target=f"pod/{uid}",
        ips=ips,
        ports=ports,
        owner=_owner_of(meta),
        probes=tuple(probe for container in containers for probe in _probes_of(container, ips)),
        host_network=bool(spec.get("hostNetwork")),
        static=_MIRROR in (meta.get("annotations") or {}),
        running=any("running" in (one.get("state") or {}) for one in states),
        ready=conditions.get("Ready") == "True",
        ended=status.get("phase") in {"Succeeded", "Failed"},
        leaving="deletionTimestamp" in meta,
    )


def _probes_of(container: Object, ips: tuple[str, ...]) -> Iterator[tuple[int, Probe]]:
    """What the kubelet asks a container by plain HTTP, as it writes it on the wire.

    kubernetes/kubernetes: pkg/probe/http/request.go, pkg/kubelet/lifecycle/handlers.go.
    """
    hooks = container.get("lifecycle") or {}
    actions = [container.get(kind) for kind in ("livenessProbe", "readinessProbe", "startupProbe")]
    actions += [hooks.get(kind) for kind in ("postStart", "preStop")]
    for action in actions:
        get = (action or {}).get("httpGet")
        if (
            not get
            or str(get.get("scheme") or "HTTP").upper() != "HTTP"
            or get.get("host", "") not in {"", *ips}
        ):
            continue
        port = _number_of(get.get("port"), container)
        headers = tuple(
            (str(one.get("name", "")), str(one.get("value") or "")) for one in get.get("httpHeaders") or ()
        )
        # An empty value of these two means: none at all.
        sent = tuple(one for one in headers if one[1] or one[0].lower() not in {"accept", "user-agent"})
        path = str(get.get("path") or "/").partition("#")[0]
        yield port, Probe(path if path.startswith("/") else f"/{path}", sent)


def _number_of(port: object, container: Object) -> int:
    """A probe's port, which may be the name of one of the container's; 0 for one that is none."""
    if isinstance(port, int):
        return port
    named = (one for one in container.get("ports") or () if one.get("name") == port)
    return next((int(one["containerPort"]) for one in named), int(str(port)) if str(port).isdecimal() else 0)


def _owner_of(meta: Object) -> tuple[str, str]:
    """The workload that a pod belongs to. A Deployment's pods are its ReplicaSet's, named after it and their label."""
    for owner in meta.get("ownerReferences") or ():
        if not owner.get("controller"):
            continue
        kind, name = str(owner.get("kind", "")), str(owner.get("name", ""))
        suffix = "-" + str((meta.get("labels") or {}).get(_TEMPLATE_HASH, ""))
        if kind == "ReplicaSet" and len(suffix) > 1 and name.endswith(suffix):
            return "Deployment", name.removesuffix(suffix)
        return kind, name
    return "", ""


def service_of(item: Object) -> Service:
    """A Service."""
    spec = item.get("spec") or {}
    ports = tuple(
        ServicePort(port.get("name", ""), int(port["port"]))
        for port in spec.get("ports") or ()
        if port.get("protocol", "TCP") == "TCP"
    )
    return Service(ports, external=spec.get("type") == "ExternalName")


def workload_of(item: Object) -> Workload:
    """A Deployment, StatefulSet or DaemonSet."""
    status = item.get("status") or {}
    return Workload(int(status.get("readyReplicas") or status.get("numberReady") or 0))


def endpoints_of(item: Object) -> tuple[Endpoint, ...]:
    """The pods of an EndpointSlice. Those that are no pods, or of names instead of addresses, are left out."""
    if item.get("addressType") not in {"IPv4", "IPv6"}:
        return ()
    ports = tuple(
        (port.get("name") or "", int(port["port"]))
        for port in item.get("ports") or ()
        if port.get("port") and (port.get("protocol") or "TCP") == "TCP"
    )
    found = []
    for one in item.get("endpoints") or ():
        ref = one.get("targetRef") or {}
        if ref.get("kind") != "Pod" or not one.get("addresses"):
            continue
        # discovery/v1: an unknown readiness is to be taken for ready.
        ready = (one.get("conditions") or {}).get("ready") is not False
        namespace = ref.get("namespace") or item["metadata"].get("namespace", "")
        found.append(
            Endpoint(
                namespace,
                ref.get("name", ""),
                ref.get("uid", ""),
                one.get("nodeName") or "",
                one["addresses"][0],
                ready,
                ports,
            )
        )
    return tuple(found)


def lease_of(item: Object) -> Lease:
    """A Session. Raises ``InvalidInput``."""
    meta = item["metadata"]
    spec = from_api(SessionSpec, item.get("spec"))
    return Lease(
        meta["name"],
        meta.get("uid", ""),
        spec.user,
        spec.public_key,
        spec.renew_time,
        spec.lease_seconds,
        seconds_of(meta.get("creationTimestamp")),
    )


def seconds_of(text: object) -> float:
    """Unix seconds of a time as the API writes it; 0 for what is none."""
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def time_text(seconds: float) -> str:
    """A time as the API writes it, to the second; empty for 0."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else ""
