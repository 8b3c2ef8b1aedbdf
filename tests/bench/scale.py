"""A large cluster, simulated: how much do agents ask, write and hear, and what does an event cost them?

``make scale`` calls this. A few agents run with all of their real code but the kernel's side and the network, on an API
server in memory with the whole cluster's objects, while what the other agents and people do is played. The table of
docs/explanation/scale.md is written anew.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from scale_api import SERVICE, Client, Server

from tpnet.agent.answers import Parts
from tpnet.agent.cluster.controller import ClusterOrders
from tpnet.agent.cluster.decide import Case
from tpnet.agent.cluster.facts import wish_of
from tpnet.agent.cluster.report import conclusion
from tpnet.control.kubernetes.convert import to_api
from tpnet.control.kubernetes.resources import (
    ENDPOINT_SLICES,
    INTERCEPTS,
    NAMESPACES,
    NODE_AGENTS,
    NODES,
    PODS,
    SERVICES,
    SESSIONS,
    SYSTEM_NAMESPACE,
)  # fmt: skip
from tpnet.model import EndpointReport, NodeReport
from tpnet.tunnel import KeyPair

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "scale.md"
BEGIN, END = "<!-- measured -->", "<!-- end -->"


class Cluster:
    """The objects of a cluster of ``nodes`` nodes; each service is one developer team's, with ``replicas`` pods."""

    def __init__(
        self, *, nodes=5000, sessions=1000, intercepts=10_000, services=2000, replicas=5, pods_each=30, seed=1
    ):
        self.server, self.random = Server(), random.Random(seed)
        self.agents = frozenset(f"node-{number}" for number in range(nodes))
        self.nodes = [f"node-{number}" for number in range(nodes)]
        self.spaces = [f"team-{number}" for number in range(max(1, services // 4))]
        self.pods_each = pods_each
        self.services = [
            (self.spaces[number % len(self.spaces)], f"svc-{number}") for number in range(services)
        ]
        key, put = KeyPair().public, self.server.put
        for space in self.spaces:
            put(NAMESPACES, {"metadata": {"name": space}})
        for node in self.nodes:
            put(NODES, {"metadata": {"name": node, "uid": node}})
            put(
                NODE_AGENTS,
                {"metadata": {"name": node}, "spec": {"publicKey": key, "tunnelAddress": "fd00::1"}},
            )
        for number in range(sessions):
            self.open_session(number)
        self.homes: dict[tuple[str, str], list[tuple[str, str]]] = {}  # (pod, node) of each service
        self.placed: dict[str, list[tuple[str, str, str]]] = {node: [] for node in self.nodes}
        for service in self.services:
            put(
                SERVICES,
                {
                    "metadata": {"namespace": service[0], "name": service[1]},
                    "spec": {"ports": [{"port": 80}]},
                },
            )
            self.homes[service] = []
            self.place(service, replicas)
        self.wanted = []
        for number in range(intercepts):
            space, service = self.services[number % services]
            self.wanted.append(intercept(number, space, service, number % sessions))
            self.conclude(number)

    def open_session(self, number: int) -> None:
        meta = {
            "namespace": SYSTEM_NAMESPACE,
            "name": f"s-{number}",
            "uid": f"s-{number}",
            "creationTimestamp": "2026-01-01T00:00:00Z",
        }
        renewed = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
        spec = {
            "user": f"dev-{number}",
            "publicKey": KeyPair().public,
            "renewTime": renewed,
            "leaseSeconds": 86400,
        }
        self.server.put(SESSIONS, {"metadata": meta, "spec": spec})

    def place(self, service: tuple[str, str], count: int) -> None:
        """So many new pods of a service, anywhere, and its slices."""
        for _ in range(count):
            node = self.random.choice(self.nodes)
            name = f"{service[1]}-{self.random.getrandbits(40):010x}"
            self.homes[service].append((name, node))
            self.placed[node].append((*service, name))
        self.slices(service)

    def conclude(self, number: int, hits: int = 0) -> None:
        """Write an intercept's status as its agents do: each node's part, and what follows from all."""
        obj = self.wanted[number]
        wish = wish_of(obj)
        homes = self.homes[wish.namespace, wish.spec.target.name]
        pods = defaultdict(set)
        for name, node in homes:
            pods[node].add(name)
        parts = [
            NodeReport(
                node=node,
                ready=len(names),
                total=len(names),
                endpoints=tuple(
                    EndpointReport(pod=name, port=8080, ready=True, ip="10.0.0.1") for name in sorted(names)
                ),
                session_up=True,
                hits=hits if node == homes[0][1] else 0,
            )
            for node, names in sorted(pods.items())
        ]
        case = Case(wish, expected={node: frozenset(names) for node, names in pods.items()})
        report = conclusion(case, parts, self.agents, 1.0)
        obj = {**obj, "status": to_api(replace(report, nodes=tuple(parts)))}
        self.wanted[number] = self.server.put(INTERCEPTS, obj)

    def slices(self, service: tuple[str, str]) -> None:
        """A service's EndpointSlices, of a hundred each as the controller makes them."""
        homes = self.homes[service]
        for number in range(0, max(1, len(homes)), 100):
            ends = [
                {"addresses": ["10.0.0.1"], "nodeName": node, "conditions": {"ready": True},
                 "targetRef": {"kind": "Pod", "namespace": service[0], "name": name, "uid": name}}
                for name, node in homes[number : number + 100]
            ]  # fmt: skip
            meta = {
                "namespace": service[0],
                "name": f"{service[1]}-{number}",
                "labels": {SERVICE: service[1]},
            }
            self.server.put(
                ENDPOINT_SLICES,
                {
                    "metadata": meta,
                    "addressType": "IPv4",
                    "ports": [{"name": "", "port": 8080}],
                    "endpoints": ends,
                },
            )

    def settle(self, node: str) -> None:
        """The pods of a node that an agent will look at: those of services, and others of anybody's."""
        for space, _, name in self.placed[node]:
            self.server.put(PODS, pod(space, name, node))
        for number in range(self.pods_each - len(self.placed[node])):
            self.server.put(PODS, pod(self.random.choice(self.spaces), f"other-{node}-{number}", node))

    def replace(self, service: tuple[str, str], real: set[str]) -> None:
        """One pod of a service goes, another comes elsewhere: what a rollout does, again and again."""
        name, node = self.homes[service].pop(0)
        if node in real:
            self.server.take(PODS, service[0], name)
        self.place(service, 1)
        new, where = self.homes[service][-1]
        if where in real:
            self.server.put(PODS, pod(service[0], new, where), "ADDED")


def pod(space: str, name: str, node: str) -> dict[str, Any]:
    status = {
        "phase": "Running",
        "podIPs": [{"ip": "10.0.0.1"}],
        "containerStatuses": [{"state": {"running": {}}}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    spec = {"nodeName": node, "containers": [{"ports": [{"containerPort": 8080}]}]}
    return {"metadata": {"namespace": space, "name": name, "uid": name}, "spec": spec, "status": status}


def intercept(number: int, space: str, service: str, session: int) -> dict[str, Any]:
    spec = {
        "user": f"dev-{session}",
        "session": f"s-{session}",
        "target": {"kind": "Service", "name": service},
        "headers": [{"name": "Coder", "value": f"{number}"}],
        "tunnelPort": 20000,
    }
    meta = {
        "namespace": space,
        "name": f"i-{number}",
        "uid": f"i-{number}",
        "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    return {"metadata": meta, "spec": spec, "status": {}}


class Kernel:
    """What stands for an agent's targets and sessions: every port is redirected at once, every session hears."""

    def __init__(self) -> None:
        self.keys: dict[Any, Any] = {}
        self.failures: dict[Any, Any] = {}
        self.wireguard = "simulated"

    async def reconcile(self, desired: Callable[[], Any]) -> None:
        self.keys = {key: self.keys.get(key) or SimpleNamespace(key=key, ready=True, reason="", number=number)
                     for number, key in enumerate(desired())}  # fmt: skip

    def doors(self) -> list[Any]:
        return list(self.keys.values())

    def door(self, key: Any) -> Any:
        return self.keys.get(key)

    def up(self, name: str) -> bool:
        return bool(name)

    def identity(self) -> None:
        """Nothing to publish: its NodeAgent stands."""

    def tell(self, name: str) -> None:
        """Nothing."""

    async def admit(self, session: Any) -> None:
        """Nothing."""

    async def drop(self, session: Any) -> None:
        """Nothing."""


class Agent:
    """One agent: its orders as in the real one."""

    def __init__(self, server: Server, node: str) -> None:
        self.node, self.client = node, Client(server)
        self.orders = ClusterOrders(self._connect, node, ["10.0.0.1"])

    async def _connect(self) -> Any:
        return self.client

    async def start(self) -> None:
        kernel: Any = Kernel()
        ledger: Any = SimpleNamespace(intercept=lambda _: {}, keep_only=lambda *_: None)
        workers: Any = SimpleNamespace(pids=(), restarts=0)
        await self.orders.prepare()
        await self.orders.begin(Parts(self.orders.book, kernel, workers, kernel, ledger, ("ebpf", ""), 0.0))

    async def stop(self) -> None:
        for task in self.orders._tasks:
            task.cancel()
        await self.orders._cluster[1].close()


class Played:
    """What all the others do: status of intercepts whose requests are counted, renewals, and a rollout."""

    def __init__(self, cluster: Cluster, real: set[str]) -> None:
        self.cluster, self.real = cluster, real
        self.turn = 0

    def count_hits(self) -> None:
        """Some agent counts more requests of some intercept."""
        self.turn += 1
        numbers = len(self.cluster.wanted)
        number = next(
            one
            for one in iter(lambda: self.cluster.random.randrange(numbers), None)
            if self.cluster.homes[self.cluster.services[one % len(self.cluster.services)]][0][1]
            not in self.real
        )
        self.cluster.conclude(number, self.turn)

    def replace(self) -> None:
        """One pod of the first service is replaced; the agents of both nodes write their parts, the ring's the rest."""
        self.cluster.replace(self.cluster.services[0], self.real)
        for number in range(0, len(self.cluster.wanted), len(self.cluster.services)):
            self.cluster.conclude(number)


async def paced(seconds: float, rate: float, act: Callable[[], None]) -> float:
    """Call ``act`` so often; the seconds of CPU that it took."""
    began, done, used = time.monotonic(), 0, 0.0
    while time.monotonic() - began < seconds:
        while done < (time.monotonic() - began) * rate:
            before = time.process_time()
            act()
            used += time.process_time() - before
            done += 1
        await asyncio.sleep(0.01)
    return used


async def cost(agents: list[Agent], seconds: float, rate: float, act: Callable[[], None]) -> dict[str, float]:
    """What agents do and use while ``act`` is called ``rate`` times a second, a second and an agent."""
    await asyncio.sleep(1)
    before = [Counter(agent.client.count) for agent in agents]
    cpu, wall = time.process_time(), time.monotonic()
    played = await paced(seconds, rate, act)
    await asyncio.sleep(1)
    cpu, wall = time.process_time() - cpu - played, time.monotonic() - wall
    total: Counter[str] = Counter()
    for agent, was in zip(agents, before, strict=True):
        total += agent.client.count - was
    each = {
        name: total[name] / len(agents) / wall
        for name in ("reads", "lists", "watches", "events", "bytes", "writes")
    }
    return {**each, "cpu": cpu / wall / len(agents)}


def row(what: str, cluster: Cluster, found: dict[str, float]) -> str:
    nodes = len(cluster.nodes)
    asked = found["reads"] + found["lists"] + found["watches"]
    per_event = found["cpu"] / found["events"] * 1e6 if found["events"] else 0.0
    return (
        f"| {what} | {asked:.2f} | {found['writes']:.2f} | {found['events']:.1f} | {found['bytes'] / 1e3:.0f} | "
        f"{asked * nodes:,.0f} | {found['writes'] * nodes:,.0f} | {found['bytes'] * nodes / 1e6:,.0f} | "
        f"{found['cpu'] * 100:.1f} % | {per_event:.0f} |"
    )


async def simulate(cluster: Cluster, *, busy=3, empty=1, seconds=20.0, rollout=500) -> list[str]:
    """The rows of the table."""
    carrying = [node for node in cluster.nodes if cluster.placed[node]]
    without = [node for node in cluster.nodes if not cluster.placed[node]]
    chosen = carrying[:busy] + (without or carrying[busy:])[:empty]
    real = set(chosen)
    for node in chosen:
        cluster.settle(node)
    gc.freeze()
    agents = [Agent(cluster.server, node) for node in chosen]
    rows = []
    began = time.process_time()
    for agent in agents:
        await agent.start()
    await asyncio.sleep(5)
    started = Counter()
    for agent in agents:
        started += agent.client.count
    share = len(agents)
    watches = (
        sum(len(queues) for part in cluster.server.followers.values() for queues in part.values()) / share
    )
    rows.append(
        f"An agent's start: {(time.process_time() - began) / share:.1f} s of CPU, {started['lists'] / share:.0f} lists, "
        f"{started['reads'] / share:.0f} reads, {started['writes'] / share:.0f} writes; {watches:.0f} watches open afterwards."
    )
    played = Played(cluster, real)
    rows += [
        "",
        "| what goes on | requests/s | writes/s | events/s | kB/s | requests/s, all | writes/s, all | MB/s, all | CPU | us an event |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows.append(row("nothing", cluster, await cost(agents, seconds, 0, lambda: None)))
    for rate in (10, 100):
        found = await cost(agents, seconds, rate, played.count_hits)
        rows.append(row(f"{rate} intercepts' counts a second change", cluster, found))
    # A service of as many pods as are rolled out, on as many nodes, those of the agents among them.
    service = cluster.services[0]
    cluster.place(service, max(0, rollout - len(cluster.homes[service])))
    await asyncio.sleep(2)
    for number in range(0, len(cluster.wanted), len(cluster.services)):
        cluster.conclude(number)
    await asyncio.sleep(2)
    found = await cost(agents, seconds, rollout / seconds, played.replace)
    rows.append(row(f"a rollout of {rollout} pods in {seconds:.0f} s", cluster, found))
    for agent in agents:
        await agent.stop()
    return rows


def main() -> None:
    cluster = Cluster()
    rows = asyncio.run(simulate(cluster))
    text = PAGE.read_text()
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    PAGE.write_text(f"{head}{BEGIN}\n" + "\n".join(rows) + f"\n{END}{tail}")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
