"""What an agent asks and writes must follow from what is on its own node, however large the cluster is."""

import asyncio
from collections import Counter
from types import SimpleNamespace

from cluster_samples import KEYS

from tpnet.agent.answers import Parts
from tpnet.agent.cluster.controller import ClusterOrders
from tpnet.agent.cluster.ring import Ring
from tpnet.control.kubernetes.resources import (
    ENDPOINT_SLICES,
    INTERCEPTS,
    NAMESPACES,
    NODE_AGENTS,
    NODES,
    PODS,
    SERVICES,
    SESSIONS,
)
from tpnet.model import NotThere

NODE_NAMES = tuple(f"n{number}" for number in range(40))
INTERCEPTED = tuple(f"i{number}" for number in range(6))


def idle_node():
    """A node that answers for none of the intercepts."""
    ring = Ring()
    ring.set_nodes(frozenset(NODE_NAMES))
    answering = {node for name in INTERCEPTED for node in ring.owners(f"u-{name}")}
    return next(node for node in NODE_NAMES if node not in answering)


class CountingApi:
    """Objects that agents read; ``calls`` has (verb, kind, name) of everything asked of it."""

    server = "https://counting"

    def __init__(self):
        self.objects, self.calls, self.version = {}, Counter(), 0
        self.queues = []

    def put(self, resource, namespace, name, **more):
        self.version += 1
        meta = {"name": name, "uid": f"u-{name}", "creationTimestamp": "2026-01-01T00:00:00Z",
                "resourceVersion": str(self.version), **more.pop("meta", {})}  # fmt: skip
        if namespace:
            meta["namespace"] = namespace
        obj = self.objects[resource, namespace, name] = {"metadata": meta, **more}
        for wanted, queue in self.queues:
            if wanted is resource:
                queue.put_nowait(("MODIFIED", obj))

    async def close(self):
        pass

    async def get(self, resource, name, namespace=""):
        self.calls["get", resource.kind, name] += 1
        try:
            return self.objects[resource, namespace, name]
        except KeyError:
            raise NotThere(f"{name} not found.") from None

    async def list(self, resource, namespace="", *, fields="", **_):
        self.calls["list", resource.kind, namespace] += 1
        node = fields.partition("=")[2]
        found = [
            obj
            for (kind, where, _), obj in self.objects.items()
            if kind is resource and namespace in {"", where} and (not node or obj["spec"]["nodeName"] == node)
        ]
        return found, str(self.version)

    async def watch(self, resource, version, namespace="", *, opened=lambda: None, **_):
        self.calls["watch", resource.kind, namespace] += 1
        queue = asyncio.Queue()
        self.queues.append((resource, queue))
        opened()
        while True:
            yield await queue.get()

    async def apply(self, resource, obj, manager, *, subresource=""):
        self.calls["apply", resource.kind, obj["metadata"]["name"]] += 1
        if resource is NODE_AGENTS:
            self.put(resource, "", obj["metadata"]["name"], spec=obj["spec"])
        return obj

    async def delete(self, resource, name, namespace="", *, uid=""):
        self.calls["delete", resource.kind, name] += 1
        return True


class Kernel:
    """For an agent's targets and sessions: every port is redirected at once, every session hears."""

    wireguard = "none"

    def __init__(self):
        self.keys, self.failures = {}, {}

    async def reconcile(self, desired):
        self.keys = {key: SimpleNamespace(key=key, ready=True, reason="", number=1) for key in desired()}

    def doors(self):
        return list(self.keys.values())

    def left(self):
        return []

    def set_node(self, addresses):
        pass

    def door(self, key):
        return self.keys.get(key)

    def up(self, name):
        return True

    def identity(self):
        return KEYS["dave"], "fd00::1", 21820, 1280

    def tell(self, name):
        pass

    async def admit(self, session):
        pass

    async def drop(self, session):
        pass


def cluster(node, pod_namespace):
    """Six intercepts of the Service orders in shop; one pod on ``node``, in the given namespace."""
    api = CountingApi()
    for name in NODE_NAMES:
        api.put(NODES, "", name)
        if name != node:
            api.put(NODE_AGENTS, "", name, spec={"publicKey": KEYS["dave"]})
    for namespace in ("shop", "quiet"):
        api.put(NAMESPACES, "", namespace)
    api.put(SERVICES, "shop", "orders", spec={"ports": [{"port": 80}]})
    lease = {"user": "bob", "publicKey": KEYS["bob"], "renewTime": "1", "leaseSeconds": 30}
    api.put(SESSIONS, "tpnet", "bob-1", spec=lease)
    spec = {"nodeName": node, "containers": [{"ports": [{"containerPort": 8080}]}]}
    status = {
        "phase": "Running",
        "podIPs": [{"ip": "10.0.0.1"}],
        "containerStatuses": [{"state": {"running": {}}}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    api.put(PODS, pod_namespace, "one", spec=spec, status=status)
    where = node if pod_namespace == "shop" else NODE_NAMES[-1]
    end = {
        "addresses": ["10.0.0.1"],
        "nodeName": where,
        "conditions": {"ready": True},
        "targetRef": {"kind": "Pod", "namespace": "shop", "name": "one", "uid": "u-one"},
    }
    labels = {"labels": {"kubernetes.io/service-name": "orders"}}
    api.put(ENDPOINT_SLICES, "shop", "orders-1", meta=labels, addressType="IPv4",
            ports=[{"name": "", "port": 8080}], endpoints=[end])  # fmt: skip
    for number in range(len(INTERCEPTED)):
        put_intercept(api, number)
    return api


def put_intercept(api, number, **more):
    spec = {
        "user": "bob",
        "session": "bob-1",
        "target": {"kind": "Service", "name": "orders"},
        "headers": [{"name": "Coder", "value": str(number)}],
        "tunnelPort": 20000,
    }
    api.put(INTERCEPTS, "shop", INTERCEPTED[number], spec=spec, meta={"generation": 1}, **more)


def calls_of(node, pod_namespace):
    """What the agent of that node has asked, first for itself, then while others' intercepts change."""

    async def main():
        api, kernel = cluster(node, pod_namespace), Kernel()
        ledger = SimpleNamespace(intercept=lambda _: {}, keep_only=lambda *_: None)
        workers = SimpleNamespace(pids=(), restarts=0)

        async def connect():
            return api

        orders = ClusterOrders(connect, node, ["10.0.0.1"])
        await orders.prepare()
        await orders.begin(Parts(orders.book, kernel, workers, kernel, ledger, ("ebpf", ""), 0.0))
        await asyncio.sleep(0.4)
        first = Counter(api.calls)
        for turn in range(20):
            hits = {"node": NODE_NAMES[-1], "ready": 1, "total": 1, "hits": turn}
            put_intercept(api, turn % len(INTERCEPTED), status={"nodes": [hits]})
            await orders.look()
            await asyncio.sleep(0.03)
        later = api.calls - first
        await orders.stop()
        await orders.end()
        return first, later

    return asyncio.run(main())


OF_ITS_OWN = {"Intercept", "Pod", "NodeAgent"}


def test_an_agent_without_intercepted_pods_asks_for_nothing_but_its_watches_and_its_own_entry():
    node = idle_node()
    first, later = calls_of(node, "quiet")
    assert first == {
        **{(verb, kind, ""): 1 for verb in ("list", "watch") for kind in OF_ITS_OWN},
        ("get", "Node", node): 1,
        ("apply", "NodeAgent", node): 1,
    }
    assert not later


def test_an_agent_with_an_intercepted_pod_asks_once_for_each_object_and_writes_its_part_of_each_intercept():
    node = idle_node()
    first, later = calls_of(node, "shop")
    assert first == {
        **{(verb, kind, ""): 1 for verb in ("list", "watch") for kind in OF_ITS_OWN},
        **{(verb, "EndpointSlice", "shop"): 1 for verb in ("list", "watch")},
        ("get", "Node", node): 1,
        ("apply", "NodeAgent", node): 1,
        ("get", "Service", "orders"): 1,
        ("get", "Namespace", "shop"): 1,
        ("get", "Session", "bob-1"): 1,
        **{("apply", "Intercept", name): 1 for name in INTERCEPTED},
    }
    assert not later
