"""An API server in memory for many agents: what it holds, who follows what, and how much each asked, wrote and was told.

``scale.py`` runs agents on it. It keeps no history and knows no rights; selectors are those that agents use.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter, defaultdict
from typing import Any

from tpnet.control.kubernetes.names import MANAGER_CONDITIONS, node_manager
from tpnet.control.kubernetes.resources import ENDPOINT_SLICES, PODS
from tpnet.model import NotThere

Object = dict[str, Any]
SERVICE = "kubernetes.io/service-name"


class Server:
    """Objects by resource and (namespace, name). ``put`` and ``take`` tell whoever follows."""

    def __init__(self) -> None:
        self.objects: dict[Any, dict[tuple[str, str], Object]] = defaultdict(dict)
        self.followers: dict[Any, dict[str, list[asyncio.Queue[Any]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        self.version = 0

    def put(self, resource: Any, obj: Object, kind: str = "MODIFIED") -> Object:
        self.version += 1
        meta = obj["metadata"]
        meta["resourceVersion"] = str(self.version)
        self.objects[resource][meta.get("namespace", ""), meta["name"]] = obj
        self._tell(resource, kind, obj)
        return obj

    def take(self, resource: Any, namespace: str, name: str) -> None:
        if (obj := self.objects[resource].pop((namespace, name), None)) is not None:
            self._tell(resource, "DELETED", obj)

    def _tell(self, resource: Any, kind: str, obj: Object) -> None:
        queues = [queue for part in {"", part_of(resource, obj)} for queue in self.followers[resource][part]]
        size = len(json.dumps(obj)) if queues else 0
        for queue in queues:
            queue.put_nowait((kind, obj, size))


def part_of(resource: Any, obj: Object) -> str:
    """What agents select by: a pod's node, a slice's service."""
    meta = obj["metadata"]
    if resource is PODS:
        return str(obj["spec"].get("nodeName", ""))
    if resource is ENDPOINT_SLICES:
        return f"{meta['namespace']}/{meta['labels'][SERVICE]}"
    return ""


class Client:
    """One agent's connection: as ``tpnet.control.kubernetes.api.Api``, as far as agents use it. ``count`` says what it did."""

    server = "https://simulated"

    def __init__(self, server: Server) -> None:
        self._server = server
        self.count: Counter[str] = Counter()

    async def close(self) -> None:
        """Nothing."""

    async def get(self, resource: Any, name: str, namespace: str = "") -> Object:
        self.count["reads"] += 1
        await asyncio.sleep(0)
        try:
            return self._server.objects[resource][namespace, name]
        except KeyError:
            raise NotThere(f'{resource.plural} "{name}" not found.') from None

    async def list(
        self, resource: Any, namespace: str = "", *, labels: str = "", fields: str = "", limit: int = 0
    ) -> Any:
        del limit
        self.count["lists"] += 1
        await asyncio.sleep(0)
        wanted = _selected(namespace, labels, fields)
        every = self._server.objects[resource].values()
        return [one for one in every if wanted in {"", part_of(resource, one)}], str(self._server.version)

    async def watch(self, resource: Any, version: str, namespace: str = "", *, labels: str = "", fields: str = "",
                    opened: Any = lambda: None, **more: Any) -> Any:  # fmt: skip
        del version, more
        self.count["watches"] += 1
        queue: asyncio.Queue[Any] = asyncio.Queue()
        followers = self._server.followers[resource][_selected(namespace, labels, fields)]
        followers.append(queue)
        opened()
        try:
            while True:
                kind, obj, size = await queue.get()
                self.count["events"] += 1
                self.count["bytes"] += size
                yield kind, obj
        finally:
            with contextlib.suppress(ValueError):
                followers.remove(queue)

    async def apply(self, resource: Any, obj: Object, manager: str, *, subresource: str = "") -> Object:
        self.count["writes"] += 1
        await asyncio.sleep(0)
        meta = obj["metadata"]
        there = self._server.objects[resource].get((meta.get("namespace", ""), meta["name"]))
        if there is None:
            return self._server.put(resource, obj, "ADDED")
        if not subresource:
            return self._server.put(resource, {**there, "spec": obj["spec"]})
        return self._server.put(
            resource, {**there, "status": merged(there.get("status") or {}, obj["status"], manager)}
        )

    async def delete(self, resource: Any, name: str, namespace: str = "", *, uid: str = "") -> bool:
        del uid
        self.count["writes"] += 1
        self._server.take(resource, namespace, name)
        return True


def _selected(namespace: str, labels: str, fields: str) -> str:
    _, _, value = (labels or fields).partition("=")
    return f"{namespace}/{value}" if labels else value


def merged(status: Object, applied: Object, manager: str) -> Object:
    """Server-side apply of an Intercept's status: a node's part is its own agent's, the rest is of all."""
    if manager == MANAGER_CONDITIONS:
        return {**status, **applied}
    node = manager.removeprefix(node_manager(""))
    others = [one for one in status.get("nodes", ()) if one["node"] != node]
    parts = [*others, *applied.get("nodes", ())]
    return {**status, "nodes": sorted(parts, key=lambda one: one["node"])}
