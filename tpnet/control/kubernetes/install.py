"""Put tpnet into a cluster, say what would change, take it out again. asyncio.

``tpnet install``, ``upgrade`` and ``uninstall`` call it. What it applies are the files in ``manifests`` beside
it, with nothing but the image changed. It must never touch an object that is not labelled as tpnet's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from copy import deepcopy
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from typing import TYPE_CHECKING, Any

from tpnet.control.kubernetes.api import Resource
from tpnet.control.kubernetes.names import AGENT_ACCOUNT, MANAGER_INSTALL, PART_OF, VERSION_LABEL
from tpnet.control.kubernetes.resources import (
    DAEMON_SETS,
    INTERCEPTS,
    NAMESPACES,
    PODS,
    SESSIONS,
    SYSTEM_NAMESPACE,
)
from tpnet.model import Conflict, InvalidInput, NotThere, Refused, TpnetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tpnet.control.kubernetes.api import Api, Object

FILES = ("namespace.yaml", "crds.yaml", "rbac.yaml", "policy.yaml", "daemonset.yaml")
"""The manifests, in the order in which they are applied."""

_RBAC, _ADMISSION = "rbac.authorization.k8s.io", "admissionregistration.k8s.io"
_CRDS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
KINDS = (
    NAMESPACES,
    Resource("", "v1", "resourcequotas", "ResourceQuota"),
    _CRDS,
    Resource(_RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False),
    Resource(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False),
    Resource(_RBAC, "v1", "roles", "Role"),
    Resource(_RBAC, "v1", "rolebindings", "RoleBinding"),
    Resource("", "v1", "serviceaccounts", "ServiceAccount"),
    Resource(_ADMISSION, "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", namespaced=False),
    Resource(
        _ADMISSION,
        "v1",
        "validatingadmissionpolicybindings",
        "ValidatingAdmissionPolicyBinding",
        namespaced=False,
    ),
    DAEMON_SETS,
)
"""Every kind of object that the manifests hold, and that ``grant`` makes."""

OURS = f"{PART_OF}=tpnet"
"""The selector of what belongs to tpnet."""
_AGENT_PODS = f"app.kubernetes.io/name={AGENT_ACCOUNT}"

READY_SECONDS = 120.0
"""Seconds that the agents have to be ready on every node, unless told otherwise."""
_GONE_SECONDS = 90.0  # an agent ends its connections within its grace period of a minute
_LOOK_EVERY = 0.25

# Fields that the API server fills in, and that say nothing about what was asked for.
_SERVER_SIDE = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink")


class Change(StrEnum):
    """What applying an object does, or would do."""

    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Step:
    """One object: ``what`` is ``Kind namespace/name``. ``fields`` are the paths of what differs, when changed."""

    what: str
    change: Change
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rollout:
    """How far the agents are. ``problem`` is why the first one that is late is late, empty if none is."""

    ready: int
    updated: int
    nodes: int
    problem: str = ""

    @property
    def done(self) -> bool:
        """Whether every node has an agent of the present version that is ready."""
        return self.ready == self.updated == self.nodes


def manifests(
    image: str = "", *, bytes_untouched: bool = False, worker_uids: range | None = None
) -> list[Object]:
    """All objects, in order; ``image`` replaces the agents' image. For the other two see ``tpnet agent run``.

    Raises ``InvalidInput`` for an image with blanks or control characters.
    """
    import yaml

    if image and (not image.isprintable() or " " in image):
        raise InvalidInput(f"{image!r} cannot be the name of an image.", "Write REGISTRY/NAME:TAG.")
    folder = resources.files("tpnet.control.kubernetes") / "manifests"
    objects = [
        document
        for name in FILES
        for document in yaml.safe_load_all((folder / name).read_text(encoding="utf-8"))
        if document
    ]
    for obj in objects:
        if obj["kind"] == DAEMON_SETS.kind:
            container = obj["spec"]["template"]["spec"]["containers"][0]
            if image:
                container["image"] = image
            if bytes_untouched:
                container["args"].append("--bytes-untouched")
            if worker_uids:
                container["args"].append(f"--worker-uids={worker_uids[0]}-{worker_uids[-1]}")
    return objects


async def preview(api: Api, objects: Sequence[Object]) -> list[Step]:
    """What ``apply`` would do, as the API server itself says; nothing is changed.

    Raises as ``apply`` does.
    """
    steps = []
    absent: set[str] = set()  # namespaces that would be made
    for obj in objects:
        before = await _current(api, obj)
        if before is None:
            if obj["kind"] == NAMESPACES.kind:
                absent.add(obj["metadata"]["name"])
            if obj["metadata"].get("namespace") not in absent:
                await _apply(api, obj, dry_run=True)
            steps.append(Step(_what(obj), Change.CREATED))
        else:
            steps.append(_step(obj, before, await _apply(api, obj, dry_run=True)))
    return steps + [Step(_what(obj), Change.REMOVED) for _, obj in await _left_over(api, objects)]


async def apply(
    api: Api, objects: Sequence[Object], told: Callable[[Step], None] = lambda _step: None
) -> list[Step]:
    """Server-side apply of all objects, then remove what an earlier version had and this one has not.

    The same for a first install and an upgrade; doing it again changes nothing. ``told`` hears of each step.
    Raises ``Refused`` when a right is missing, ``NotThere`` when the server is away or too old.
    """
    steps: list[Step] = []

    def done(step: Step) -> None:
        steps.append(step)
        told(step)

    for obj in objects:
        before = await _current(api, obj)
        after = await _apply(api, obj)
        done(Step(_what(obj), Change.CREATED) if before is None else _step(obj, before, after))
        if obj["kind"] == _CRDS.kind:
            await _established(api, obj["metadata"]["name"])
    for resource, obj in await _left_over(api, objects):
        await _remove(api, resource, obj)
        done(Step(_what(obj), Change.REMOVED))
    return steps


async def rollout(api: Api) -> Rollout:
    """How far the agents are. Raises ``NotThere`` when tpnet is not installed."""
    daemon_set = await api.get(DAEMON_SETS, AGENT_ACCOUNT, SYSTEM_NAMESPACE)
    status = daemon_set.get("status", {})
    nodes = int(status.get("desiredNumberScheduled", 0))
    seen = status.get("observedGeneration", 0) >= daemon_set["metadata"]["generation"]
    if not seen:
        return Rollout(0, 0, max(nodes, 1), "The cluster has not looked at it yet.")
    found = Rollout(int(status.get("numberReady", 0)), int(status.get("updatedNumberScheduled", 0)), nodes)
    if found.done:
        return found
    pods, _ = await api.list(PODS, SYSTEM_NAMESPACE, labels=_AGENT_PODS)
    problem = next((why for pod in pods if (why := _why_late(pod))), "")
    return Rollout(found.ready, found.updated, found.nodes, problem)


async def wait_ready(
    api: Api, seconds: float = READY_SECONDS, told: Callable[[Rollout], None] = lambda _rollout: None
) -> Rollout:
    """Wait until an agent of the applied version is ready on every node; ``told`` hears of each change.

    Raises ``TpnetError`` with the reason when that takes longer.
    """
    end = time.monotonic() + seconds
    last: Rollout | None = None
    while True:
        found = await rollout(api)
        if found != last:
            told(found)
            last = found
        if found.done:
            return found
        if time.monotonic() > end:
            raise TpnetError(
                f"The agents are ready on {found.ready} of {found.nodes} nodes after {seconds:.0f} s. "
                f"{found.problem}".strip(),
                f"kubectl get pods -n {SYSTEM_NAMESPACE} -o wide shows them.",
            )
        await asyncio.sleep(_LOOK_EVERY)


async def installed_version(api: Api) -> str:
    """The version that is installed; empty when none is. Raises ``Refused``, ``TpnetError``."""
    try:
        namespace = await api.get(NAMESPACES, SYSTEM_NAMESPACE)
    except NotThere:
        if not await _server_answers(api):
            raise
        return ""
    return str(namespace["metadata"].get("labels", {}).get(VERSION_LABEL, ""))


def skew(ours: str, theirs: Iterable[str]) -> str:
    """A sentence when agents of another version than ``ours`` are about; empty when there are none.

    Versions that differ in their last part alone go together.
    """
    other = sorted({version for version in theirs if version and _minor(version) != _minor(ours)})
    if not other:
        return ""
    newer = max(other, key=_numbers)
    way = (
        "tpnet install upgrades the cluster."
        if _numbers(newer) < _numbers(ours)
        else "Upgrade tpnet on this computer."
    )
    return f"This is tpnet {ours}, and the cluster has agents of {' and '.join(other)}. {way}"


async def intercepted(api: Api) -> list[Object]:
    """All intercepts of the cluster: what would end with ``uninstall``. Empty when the kind is not there."""
    try:
        return (await api.list(INTERCEPTS))[0]
    except NotThere:
        if not await _server_answers(api):
            raise
        return []


async def uninstall(api: Api, told: Callable[[Step], None] = lambda _step: None) -> list[Step]:
    """Remove everything, and wait until it is gone.

    The kinds Intercept and Session go first, with all their objects: nobody's daemon can make them anew, and the
    agents put every pod back before they end. What holds on to something of tpnet's kinds is let go of; what cannot be
    removed keeps nothing else from it. Raises ``Refused`` when a right is missing, ``TpnetError`` that names what is
    left.
    """
    steps: list[Step] = []
    left: list[str] = []

    def done(resource: Resource, obj: Object) -> None:
        steps.append(Step(_what({"kind": resource.kind, **obj}), Change.REMOVED))
        told(steps[-1])

    async def remove(items: Sequence[tuple[Resource, Object]]) -> None:
        for resource, obj in items:
            await _remove(api, resource, obj)
        stay: set[str] = set()
        for resource in dict.fromkeys(resource for resource, _ in items):
            held = await _gone(api, resource, [obj for kind, obj in items if kind is resource])
            stay |= {obj["metadata"]["uid"] for obj in held}
            left.extend(_held(resource, obj) for obj in held)
        for resource, obj in items:
            if obj["metadata"]["uid"] not in stay:
                done(resource, obj)

    ended = await intercepted(api)
    ours = await _ours(api)
    wishes = [
        (resource, obj)
        for resource, obj in ours
        if resource is _CRDS and obj["metadata"]["name"] in {INTERCEPTS.long_name, SESSIONS.long_name}
    ]
    await remove(wishes)
    for obj in ended:
        done(INTERCEPTS, obj)
    agents = [(resource, obj) for resource, obj in ours if resource is DAEMON_SETS]
    await remove(agents)
    if agents:
        await _agents_gone(api)
    # Last to first: bindings before roles, policies before the kinds they guard, the namespace at the end.
    rest = [item for item in ours if item not in wishes and item not in agents]
    for resource in reversed(KINDS):
        await remove([item for item in rest if item[0] is resource])
    if left:
        raise TpnetError(
            f"All but this is removed: {'; '.join(left)}.",
            "Whoever set a finalizer has to let go of it; kubectl get -o yaml shows it. Then: tpnet uninstall",
        )
    return steps


# One object.


def _resource_of(obj: Object) -> Resource:
    return next(resource for resource in KINDS if resource.kind == obj["kind"])


def _what(obj: Object) -> str:
    meta = obj["metadata"]
    return f"{obj['kind']} " + "/".join(part for part in (meta.get("namespace", ""), meta["name"]) if part)


async def _current(api: Api, obj: Object) -> Object | None:
    meta = obj["metadata"]
    try:
        return await api.get(_resource_of(obj), meta["name"], meta.get("namespace", ""))
    except NotThere:
        if not await _server_answers(api):
            raise
        return None


async def _apply(api: Api, obj: Object, *, dry_run: bool = False) -> Object:
    try:
        return await api.apply(_resource_of(obj), obj, MANAGER_INSTALL, dry_run=dry_run)
    except NotThere as error:
        if not await _server_answers(api):
            raise
        raise NotThere(
            f"The cluster does not know {_what(obj)}: {error.message}",
            "tpnet needs Kubernetes 1.30 or newer.",
        ) from error
    except Refused as error:
        raise Refused(
            error.message, "Installing needs the rights of the ClusterRole cluster-admin."
        ) from error


async def _server_answers(api: Api) -> bool:
    """Whether what was not there is an object, and not the server."""
    try:
        await api.whoami()
    except NotThere:
        return False
    return True


def _step(obj: Object, before: Object, after: Object) -> Step:
    fields = tuple(_differences(_asked(before), _asked(after)))
    return Step(_what(obj), Change.CHANGED if fields else Change.UNCHANGED, fields)


def _asked(obj: Object) -> Object:
    """An object without what the API server fills in."""
    plain = deepcopy(obj)
    for field in _SERVER_SIDE:
        plain["metadata"].pop(field, None)
    plain["metadata"].get("annotations", {}).pop("deprecated.daemonset.template.generation", None)
    plain.pop("status", None)
    return plain


def _differences(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """The paths at which two objects differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            yield from _differences(before.get(name), after.get(name), f"{where}.{name}".lstrip("."))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for place, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _differences(one, other, f"{where}[{place}]")
    elif before != after:
        yield where


async def _remove(api: Api, resource: Resource, obj: Object) -> None:
    meta = obj["metadata"]
    try:
        await api.delete(resource, meta["name"], meta.get("namespace", ""))
    except Conflict:
        if resource is not NAMESPACES:
            raise  # a namespace that is being deleted answers so


# Many.


async def _all(api: Api, resource: Resource, labels: str = "") -> list[Object]:
    try:
        return (await api.list(resource, labels=labels))[0]
    except NotThere:
        if not await _server_answers(api):
            raise
        return []  # the kind is gone already, or never was


async def _ours(api: Api) -> list[tuple[Resource, Object]]:
    """All objects in the cluster that are labelled as tpnet's."""
    found = []
    for resource in KINDS:
        found += [(resource, {"kind": resource.kind, **obj}) for obj in await _all(api, resource, OURS)]
    return found


async def _left_over(api: Api, objects: Sequence[Object]) -> list[tuple[Resource, Object]]:
    """What ``apply`` made once, and is not among ``objects`` any more. Grants are no part of that."""
    wanted = {_what(obj) for obj in objects}
    return [
        (resource, obj)
        for resource, obj in await _ours(api)
        if _what(obj) not in wanted and _applied_here(obj) and "deletionTimestamp" not in obj["metadata"]
    ]


def _applied_here(obj: Object) -> bool:
    managers = obj["metadata"].get("managedFields") or ()
    return any(entry.get("manager") == MANAGER_INSTALL for entry in managers)


async def _established(api: Api, name: str, seconds: float = 30.0) -> None:
    """Wait until the API server serves a new kind: first it says so, then its storage is ready."""
    end = time.monotonic() + seconds
    while True:
        definition = await api.get(_CRDS, name)
        conditions = {each["type"]: each for each in definition.get("status", {}).get("conditions") or ()}
        refused = conditions.get("NamesAccepted", {})
        if refused.get("status") == "False":
            raise Conflict(
                f"The cluster cannot take the kind {name}: {refused.get('message', '')}.",
                "Another kind has its names.",
            )
        established = conditions.get("Established", {}).get("status") == "True"
        if established and await _is_served(api, definition["spec"]):
            return
        if time.monotonic() > end:
            raise TpnetError(f"The API server does not serve {name} after {seconds:.0f} s.")
        await asyncio.sleep(0.05)


async def _is_served(api: Api, definition: Object) -> bool:
    names, group = definition["names"], definition["group"]
    kind = Resource(group, definition["versions"][0]["name"], names["plural"], names["kind"])
    try:
        await api.list(kind, limit=1)
    except Refused:
        raise
    except TpnetError:
        return False  # 404, then 429 "storage is (re)initializing"
    return True


async def _gone(api: Api, resource: Resource, objects: Sequence[Object]) -> list[Object]:
    """Wait until these objects are gone; those that are not after a while."""
    uids = {obj["metadata"]["uid"] for obj in objects}
    end = time.monotonic() + _GONE_SECONDS
    while uids:
        left = [obj for obj in await _all(api, resource) if obj["metadata"]["uid"] in uids]
        if not left or time.monotonic() > end:
            return left
        if resource is _CRDS:
            await _free(api)
        await asyncio.sleep(_LOOK_EVERY)
    return []


async def _free(api: Api) -> None:
    """Take the finalizers off all intercepts and sessions: nothing of theirs may outlive an admin's uninstall."""
    for resource in (INTERCEPTS, SESSIONS):
        for obj in await _all(api, resource):
            meta = obj["metadata"]
            if meta.get("finalizers"):
                with contextlib.suppress(NotThere, Conflict):
                    await api.merge(
                        resource, meta["name"], meta["namespace"], {"metadata": {"finalizers": None}}
                    )


def _held(resource: Resource, obj: Object) -> str:
    """What is not gone, and what holds it."""
    meta = obj["metadata"]
    by = [*(meta.get("finalizers") or ()), *((obj.get("spec") or {}).get("finalizers") or ())]
    return f"{_what({'kind': resource.kind, **obj})}{' (finalizer ' + ', '.join(by) + ')' if by else ''}"


async def _agents_gone(api: Api) -> None:
    """Wait until the agents have ended: each lets open connections finish what is under way."""
    end = time.monotonic() + _GONE_SECONDS
    while pods := (await api.list(PODS, SYSTEM_NAMESPACE, labels=_AGENT_PODS))[0]:
        if time.monotonic() > end:
            nodes = ", ".join(sorted(pod["spec"].get("nodeName", "?") for pod in pods))
            raise TpnetError(
                f"The agents on {nodes} do not end.",
                "A node that is down keeps its pod; delete the node, or the pod with --force, and try again.",
            )
        await asyncio.sleep(_LOOK_EVERY)


def _why_late(pod: Object) -> str:
    """Why a pod of the agents is not ready, as a sentence; empty when it is."""
    status = pod.get("status", {})
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    if conditions.get("Ready", {}).get("status") == "True":
        return ""
    node = pod["spec"].get("nodeName")
    where = f"On node {node}: " if node else "On a node: "
    for container in status.get("containerStatuses") or ():
        state = container.get("state", {})
        ended = container.get("lastState", {}).get("terminated") or state.get("terminated")
        waiting = state.get("waiting", {})
        if ended and waiting.get("reason") == "CrashLoopBackOff":
            last = str(ended.get("message", "")).strip().splitlines()
            return f"{where}the agent ended with code {ended.get('exitCode')}. {last[-1] if last else ''}".strip()
        if waiting.get("reason"):
            text = str(waiting.get("message", "")).split("\n", 1)[0]
            return f"{where}{waiting['reason']}{': ' + text if text else ''}."
    unscheduled = conditions.get("PodScheduled", {})
    if unscheduled.get("status") == "False":
        return f"{where}{unscheduled.get('message', 'the pod cannot be placed')}."
    return f"{where}the agent is starting."


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))


def _minor(version: str) -> tuple[int, ...]:
    return _numbers(version)[:2]
