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
from tpnet.agent.supervisor import LOOK_EVERY
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
COUNTED = ("reads", "lists", "watches", "events", "bytes", "writes")
BEGIN, END = "<!-- measured -->", "<!-- end -->"


class Cluster:
    """The objects of a cluster of ``nodes`` nodes; each service is one developer team's, with ``replicas`` pods."""

    def __init__(
        self,
        *,
        nodes=5000,
        sessions=1000,
        intercepts=10_000,
        services=2000,
        replicas=5,
        pods_each=30,
        rollout=500,
        seed=1,
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
            self.place(service, rollout if service == self.services[0] else replicas)
        self.wanted: list[Any] = []
        self.wishes: list[Any] = []  # of the same, without a status
        for number in range(intercepts):
            space, service = self.services[number % services]
            self.wanted.append(intercept(number, space, service, number % sessions))
            self.wishes.append(wish_of(self.wanted[-1]))
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
        wish = self.wishes[number]
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

    def left(self) -> list[Any]:
        return []

    def set_node(self, addresses: Any) -> None:
        """No worker is told."""

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

        self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            self.orders.glance()
            await self.orders.look()

    async def stop(self) -> None:
        self._looking.cancel()
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
            # The parts of both nodes, and the conditions, each by another agent.
            self.cluster.conclude(number)
            for _ in range(2):
                self.cluster.server.put(INTERCEPTS, self.cluster.wanted[number])


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


async def cost(
    agents: list[Agent], seconds: float, rate: float, act: Callable[[], None]
) -> tuple[list[Any], float]:
    """What each agent asked and heard a second while ``act`` was called at ``rate``, and the CPU of one on average."""
    await asyncio.sleep(1)
    before = [Counter(agent.client.count) for agent in agents]
    cpu, wall = time.process_time(), time.monotonic()
    played = await paced(seconds, rate, act)
    await asyncio.sleep(1)
    cpu, wall = time.process_time() - cpu - played, time.monotonic() - wall
    counts = [agent.client.count - was for agent, was in zip(agents, before, strict=True)]
    return [{name: count[name] / wall for name in COUNTED} for count in counts], cpu / wall / len(agents)


def row(what: str, kinds: list[tuple[int, int]], found: tuple[list[Any], float]) -> str:
    """A line of the table. ``kinds``: of how many agents the next so many simulated ones are."""
    counts, cpu = found
    total, at = Counter[str](), 0
    for there, simulated in kinds:
        for count in counts[at : at + simulated]:
            total += Counter({name: value * there / simulated for name, value in count.items()})
        at += simulated
    agents = sum(there for there, _ in kinds)
    asked = total["reads"] + total["lists"] + total["watches"]
    events = total["events"] / agents
    return (
        f"| {what} | {asked / agents:.2f} | {total['writes'] / agents:.3f} | {events:.0f} | "
        f"{total['bytes'] / agents / 1e3:.0f} | {asked:,.0f} | {total['writes']:,.0f} | {total['bytes'] / 1e6:,.0f} | "
        f"{cpu * 100:.1f} % | {cpu / events * 1e6 if events > 1 else 0:.0f} |"
    )


async def simulate(cluster: Cluster, *, each=2, seconds=15.0, rollout_seconds=300.0) -> list[str]:
    """The lines that go to the page: for each kind of node, ``each`` agents run."""
    rolled = {node for _, node in cluster.homes[cluster.services[0]]}
    groups = [
        sorted(rolled),
        [node for node in cluster.nodes if cluster.placed[node] and node not in rolled],
        [node for node in cluster.nodes if not cluster.placed[node]],
    ]
    chosen = [node for group in groups for node in group[:each]]
    kinds = [(len(group), len(group[:each])) for group in groups if group]
    for node in chosen:
        cluster.settle(node)
    gc.freeze()
    began = time.process_time()
    agents = [Agent(cluster.server, node) for node in chosen]
    for agent in agents:
        await agent.start()
    await asyncio.sleep(5)
    share, started = len(agents), Counter[str]()
    for agent in agents:
        started += agent.client.count
    used = (time.process_time() - began) / share
    queues = [queue for part in cluster.server.followers.values() for one in part.values() for queue in one]
    rows = [
        (
            f"Simulated: {share} agents in full, of {len(cluster.nodes):,} nodes, {len(cluster.services):,} services, "
            f"{len(cluster.wanted):,} intercepts; {len(groups[0])} nodes have a pod of the service that is rolled out."
        ),
        "",
        (
            f"An agent's start: {used:.1f} s of CPU, {started['lists'] / share:.0f} lists, {started['reads'] / share:.0f} "
            f"reads, {started['writes'] / share:.0f} writes; {len(queues) / share:.0f} watches open afterwards."
        ),
        "",
        "| what goes on | requests/s | writes/s | events/s | kB/s | requests/s, all | writes/s, all | MB/s, all | CPU | us an event |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    played = Played(cluster, set(chosen))
    rows.append(row("nothing", kinds, await cost(agents, seconds, 0, lambda: None)))
    for rate in (10, 100):
        found = await cost(agents, seconds, rate, played.count_hits)
        rows.append(row(f"{rate} intercepts' counts a second change", kinds, found))
    pods = len(cluster.homes[cluster.services[0]])
    found = await cost(agents, 2 * seconds, pods / rollout_seconds, played.replace)
    rows.append(row(f"a rollout of {pods} pods in {rollout_seconds / 60:.0f} minutes", kinds, found))
    for agent in agents:
        await agent.stop()
    return rows


def main() -> None:
    rows = asyncio.run(simulate(Cluster()))
    text = PAGE.read_text()
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    PAGE.write_text(f"{head}{BEGIN}\n" + "\n".join(rows) + f"\n{END}{tail}")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
