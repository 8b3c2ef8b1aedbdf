"""Everything this agent knows of the cluster, kept current by watches; nothing is decided here. asyncio.

``tpnet.agent.cluster.controller`` asks it for a ``View`` and tells it what to follow. It keeps small facts instead of
objects, and must never let go of what it knows because the API server is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import TYPE_CHECKING, Any

from tpnet.agent.cluster.decide import View
from tpnet.agent.cluster.facts import pod_of, service_of, wish_of, workload_of
from tpnet.agent.cluster.leases import Leases
from tpnet.agent.cluster.lookups import Lookups, Ref
from tpnet.agent.cluster.ring import Ring
from tpnet.agent.cluster.slices import Slices
from tpnet.control.kubernetes.api import field_is
from tpnet.control.kubernetes.informer import Informer, only_identity
from tpnet.control.kubernetes.names import LIMIT_LABEL
from tpnet.control.kubernetes.resources import (
    DAEMON_SETS,
    DEPLOYMENTS,
    INTERCEPTS,
    NAMESPACES,
    NODE_AGENTS,
    PODS,
    SERVICES,
    STATEFUL_SETS,
)
from tpnet.model import TargetKind, TpnetError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tpnet.agent.cluster.facts import Key, Object, Pod, Wish
    from tpnet.control.kubernetes.api import Api, Resource

_log = logging.getLogger(__name__)

WORKLOADS = {
    TargetKind.DEPLOYMENT: DEPLOYMENTS,
    TargetKind.STATEFUL_SET: STATEFUL_SETS,
    TargetKind.DAEMON_SET: DAEMON_SETS,
}
_KINDS = {resource: kind for kind, resource in WORKLOADS.items()}
_RESTART_SECONDS = 1.0


class World:
    """``changed()`` is called, often, when a ``view`` may be another one than before.

    ``agents`` has each NodeAgent's spec by the name of its node. ``owned`` are the intercepts that this agent answers
    for, as the first or the second.
    """

    def __init__(self, api: Api, node: str, changed: Callable[[], None]) -> None:
        self._node = node
        self._changed = changed
        self._wishes: dict[str, dict[str, Wish]] = {}
        self._far: dict[str, dict[str, tuple[str, bytes]]] = {}  # not read yet: see _intercept_changed
        self._pods: dict[Key, Pod] = {}
        self._ring = Ring()
        self._ring_is_old = False
        self._tasks: list[asyncio.Task[None]] = []
        self.agents: dict[str, Object] = {}
        self.owned: dict[Key, int] = {}
        self._told: set[Key] = set()
        self.slices = Slices(api, self._slices_changed)
        self.lookups = Lookups(api, _read, changed)
        self.leases = Leases(api, changed)
        self._informers = (
            Informer(api, INTERCEPTS, self._intercept_changed, slim=only_identity),
            Informer(
                api, PODS, self._pod_changed, fields=field_is("spec.nodeName", node), slim=only_identity
            ),
            Informer(api, NODE_AGENTS, self._agent_changed, slim=only_identity),
        )

    def start(self) -> None:
        """Follow from now on."""
        runs = [*(informer.run for informer in self._informers), self.lookups.run, self.leases.run]
        self._tasks = [asyncio.create_task(keep_running(run)) for run in runs]

    async def synced(self, seconds: float) -> bool:
        """Wait, no longer than that, until every list has come once; whether they have."""
        waits = (informer.synced.wait() for informer in self._informers)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*waits)
        return self.is_synced

    @property
    def is_synced(self) -> bool:
        """Whether every list has come once. Before that, what is not known may yet be there."""
        return all(informer.synced.is_set() for informer in self._informers)

    @property
    def trouble(self) -> str:
        """Why this is not current at this moment; empty when it is."""
        return next((informer.trouble for informer in self._informers if informer.trouble), "")

    async def close(self) -> None:
        """Follow nothing any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.slices.close()

    # What is known.

    def view(self) -> View:
        """Everything that concerns this node."""
        self._turn_ring()
        spaces = self._spaces()
        for space in spaces & self._far.keys():
            for _, data in self._far.pop(space).values():
                self._know(json.loads(data))
        wishes = [one for space in spaces for one in self._wishes.get(space, {}).values()]
        known = self.lookups.known
        return View(
            node=self._node,
            wishes=wishes,
            pods=self._pods,
            services={ref[1:]: value for ref, value in known.items() if ref.resource is SERVICES},
            workloads={
                (_KINDS[ref.resource], *ref[1:]): value
                for ref, value in known.items()
                if ref.resource in _KINDS
            },
            endpoints=self.slices.known(),
            limits={ref.name: value or "all" for ref, value in known.items() if ref.resource is NAMESPACES},
            sessions=self.leases.standings(),
            agents=frozenset(self.agents),
        )

    def follow(self, view: View) -> None:
        """Ask for what the intercepts of a view need, and for nothing else."""
        near = self._near()
        services: set[Key] = set()
        refs: set[Ref] = set()
        sessions: set[str] = set()
        ours: set[str] = set()
        for wish in view.wishes:
            target = wish.spec.target
            key = wish.namespace, target.name
            owned = wish.key in self.owned or wish.key in self._told
            if target.kind is TargetKind.SERVICE:
                if owned or wish.namespace in near:
                    services.add(key)
                here = any(one.node == self._node for one in view.endpoints.get(key, ()))
                ref = Ref(SERVICES, *key)
            elif target.kind is TargetKind.POD:
                here, ref = key in self._pods, None
            else:
                here = any(
                    pod.namespace == wish.namespace and pod.owner == (target.kind, target.name)
                    for pod in self._pods.values()
                )
                ref = Ref(WORKLOADS[target.kind], *key)
            if here or owned:
                refs |= {Ref(NAMESPACES, "", wish.namespace)} | ({ref} if ref else set())
                sessions |= {wish.spec.session} - {""}
            if wish.key in self.owned:  # first or second: the first may be dead
                ours.add(wish.spec.session)
        self.slices.want(services)
        self.lookups.want(refs)
        self.leases.want(sessions, ours)

    def _spaces(self) -> set[str]:
        """The namespaces whose intercepts a view shows: one of them may bar another."""
        return self._near() | {namespace for namespace, _ in (*self.owned, *self._told)}

    def _near(self) -> set[str]:
        """The namespaces of this node's pods: their intercepts may concern it."""
        return {pod.namespace for pod in self._pods.values() if not pod.ended}

    def refresh(self, wish: Wish) -> None:
        """What an intercept's conditions rest upon may have changed."""
        kind = wish.spec.target.kind
        resource = SERVICES if kind is TargetKind.SERVICE else WORKLOADS.get(kind)
        if resource is not None:
            self.lookups.refresh(Ref(resource, wish.namespace, wish.spec.target.name))

    # What changes.

    def _intercept_changed(self, key: Key, item: Object | None) -> None:
        namespace, name = key
        concerned = namespace in self._spaces()
        self._told.discard(key)
        self._wishes.get(namespace, {}).pop(name, None)
        self._far.get(namespace, {}).pop(name, None)
        if item is None:
            self.owned.pop(key, None)
        else:
            self._own(key, str(item["metadata"].get("uid", "")))
            parts = (item.get("status") or {}).get("nodes") or ()
            if any(part.get("node") == self._node for part in parts):
                self._told.add(key)
            if namespace in self._spaces():
                concerned = True
                self._know(item)
            else:
                # Of these there are thousands. Reading one takes up to milliseconds; what nobody looks at is only kept.
                self._far.setdefault(namespace, {})[name] = _packed(item)
        if concerned:
            self._changed()

    def _know(self, item: Object) -> None:
        """Take an intercept in that concerns this node, or is in a namespace with one that does."""
        meta = item["metadata"]
        try:
            wish = wish_of(item)
        except TpnetError as error:
            _log.warning("intercept %s/%s: %s", meta["namespace"], meta["name"], error.message)
            self.owned.pop((meta["namespace"], meta["name"]), None)
            return
        self._wishes.setdefault(wish.namespace, {})[wish.name] = wish
        if wish.key in self.owned:
            self.refresh(wish)

    def _pod_changed(self, key: Key, item: Object | None) -> None:
        before = self._pods.pop(key, None)
        if item is not None:
            self._pods[key] = pod_of(item)
        if before != self._pods.get(key):
            self._changed()

    def _agent_changed(self, key: Key, item: Object | None) -> None:
        was_there = key[1] in self.agents
        if item is None:
            self.agents.pop(key[1], None)
        else:
            self.agents[key[1]] = item.get("spec") or {}
        if was_there is (item is None):  # a new key or address moves nothing on the ring
            self._ring_is_old = True
            self._changed()
        elif key[1] == self._node:
            self._changed()

    def _slices_changed(self, service: Key) -> None:
        self.lookups.refresh(Ref(SERVICES, *service))
        self._changed()

    def _turn_ring(self) -> None:
        if self._ring_is_old:
            self._ring_is_old = False
            self._ring.set_nodes(frozenset(self.agents))
            self.owned.clear()
            for namespace, space in self._wishes.items():
                for name, wish in space.items():
                    self._own((namespace, name), wish.uid)
            for namespace, others in self._far.items():
                for name, (uid, _) in others.items():
                    self._own((namespace, name), uid)

    def _own(self, key: Key, uid: str) -> None:
        owners = self._ring.owners(uid)
        if self._node in owners:
            self.owned[key] = owners.index(self._node)
        else:
            self.owned.pop(key, None)


def _packed(item: Object) -> tuple[str, bytes]:
    """An object's uid, and what is worth keeping of it."""
    meta = {name: value for name, value in item["metadata"].items() if name != "managedFields"}
    return str(meta.get("uid", "")), json.dumps({**item, "metadata": meta}).encode()


def _read(resource: Resource, item: Object) -> Any:
    """What is kept of an object that was asked for."""
    if resource is SERVICES:
        return service_of(item)
    if resource is NAMESPACES:
        return (item["metadata"].get("labels") or {}).get(LIMIT_LABEL, "all")
    return workload_of(item)


async def keep_running(run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run for ever: a fault of ours is logged, and does not end what else the agent does."""
    while True:
        try:
            await run()
        except Exception:  # noqa: BLE001
            _log.exception("it goes on after a fault")
        await asyncio.sleep(_RESTART_SECONDS)
