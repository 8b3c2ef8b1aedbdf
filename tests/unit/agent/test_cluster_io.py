import asyncio
import time
from collections import Counter

import pytest
from cluster_samples import KEYS

from tpnet.agent.cluster import leases as leases_module
from tpnet.agent.cluster import lookups as lookups_module
from tpnet.agent.cluster import writer as writer_module
from tpnet.agent.cluster.decide import LeaseState
from tpnet.agent.cluster.facts import pod_of, service_of, wish_of, workload_of
from tpnet.agent.cluster.leases import Leases
from tpnet.agent.cluster.lookups import Lookups, Ref
from tpnet.agent.cluster.slices import Slices
from tpnet.agent.cluster.world import World
from tpnet.agent.cluster.writer import Writer
from tpnet.control.kubernetes.api import Unreachable
from tpnet.control.kubernetes.resources import (
    ENDPOINT_SLICES,
    INTERCEPTS,
    NODE_AGENTS,
    PODS,
    SERVICES,
    SESSIONS,
)
from tpnet.model import Conflict, InvalidInput, NotThere, Refused, TpnetError


class FakeApi:
    """``objects`` by resource, namespace and name; ``away``: nobody answers. Watches see what ``put`` and ``take`` do."""

    server = "https://fake"

    def __init__(self):
        self.objects, self.asked, self.away = {}, Counter(), False
        self.queues = []

    def put(self, resource, obj):
        meta = obj["metadata"]
        meta["resourceVersion"] = str(len(self.asked) + time.monotonic_ns())
        self.objects[resource, meta.get("namespace", ""), meta["name"]] = obj
        for wanted, queue in self.queues:
            if wanted is resource:
                queue.put_nowait(("MODIFIED", obj))
        return obj

    def take(self, resource, namespace, name):
        obj = self.objects.pop((resource, namespace, name))
        for wanted, queue in self.queues:
            if wanted is resource:
                queue.put_nowait(("DELETED", obj))

    async def get(self, resource, name, namespace=""):
        self.asked[resource.kind, name] += 1
        if self.away:
            raise Unreachable("away")
        try:
            return self.objects[resource, namespace, name]
        except KeyError:
            raise NotThere(f'{resource.plural} "{name}" not found.') from None

    async def list(self, resource, namespace="", **more):
        self.asked[resource.kind, "*"] += 1
        if self.away:
            raise Unreachable("away")
        label = more.get("labels", "").partition("=")[2]
        found = [
            obj
            for (kind, where, _), obj in self.objects.items()
            if kind is resource
            and (not namespace or where == namespace)
            and (not label or label in obj["metadata"].get("labels", {}).values())
        ]
        return found, "1"

    async def watch(self, resource, version, namespace="", *, opened=lambda: None, **more):
        opened()
        queue = asyncio.Queue()
        self.queues.append((resource, queue))
        while True:
            yield await queue.get()


def running(*runs):
    """A context in which these run."""

    class Running:
        async def __aenter__(self):
            self.tasks = [asyncio.create_task(run) for run in runs]

        async def __aexit__(self, *_):
            for task in self.tasks:
                task.cancel()
            results = await asyncio.gather(*self.tasks, return_exceptions=True)
            assert all(isinstance(one, asyncio.CancelledError) for one in results), results

    return Running()


async def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


# Facts.


def test_a_pod_as_the_api_gives_it():
    item = {
        "metadata": {
            "namespace": "shop",
            "name": "orders-5d6-x",
            "uid": "u",
            "labels": {"pod-template-hash": "5d6"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "orders-5d6", "controller": True}],
        },
        "spec": {
            "containers": [
                {"ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}]}
            ],
            "initContainers": [
                {
                    "restartPolicy": "Always",
                    "ports": [{"name": "proxy", "containerPort": 9090, "protocol": "TCP"}],
                },
                {"ports": [{"containerPort": 1}]},
            ],
        },
        "status": {
            "phase": "Running",
            "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
            "containerStatuses": [{"state": {"running": {}}}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    pod = pod_of(item)
    assert pod.target == "pod/u"
    assert pod.ports == (("http", 8080), ("proxy", 9090))
    assert pod.owner == ("Deployment", "orders")
    assert pod.ips == ("10.0.0.1", "fd00::1")
    assert (pod.running, pod.ready, pod.ended, pod.host_network, pod.leaving) == (
        True,
        True,
        False,
        False,
        False,
    )
    item["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "abc"}
    assert (pod_of(item).target, pod_of(item).static) == ("pod/u", True)
    assert pod_of({"metadata": {"name": "x"}}).owner == ("", "")
    canary = [{"kind": "ReplicaSet", "name": "orders-canary-5d6", "controller": True}]
    item["metadata"]["ownerReferences"] = canary
    assert pod_of(item).owner == ("Deployment", "orders-canary")
    item["metadata"]["ownerReferences"] = [{"kind": "DaemonSet", "name": "logs", "controller": True}]
    assert pod_of(item).owner == ("DaemonSet", "logs")


def test_services_and_workloads():
    item = {"spec": {"ports": [{"port": 80, "name": "http"}, {"port": 53, "protocol": "UDP"}]}}
    assert [(port.name, port.number) for port in service_of(item).ports] == [("http", 80)]
    assert service_of({"spec": {"type": "ExternalName"}}).external
    assert workload_of({"status": {"readyReplicas": 3}}).ready == 3
    assert workload_of({"status": {"numberReady": 2}}).ready == 2
    assert workload_of({}).ready == 0


def intercept(name="i", **meta):
    spec = {
        "user": "bob",
        "session": "bob-1",
        "target": {"kind": "Service", "name": "orders"},
        "headers": [],
        "tunnelPort": 1,
    }
    created = "2026-01-01T00:00:00Z"
    return {
        "metadata": {
            "namespace": "shop",
            "name": name,
            "uid": f"u-{name}",
            "creationTimestamp": created,
            **meta,
        },
        "spec": spec,
    }


def test_an_intercept_with_a_status_that_does_not_decode_is_taken_without():
    assert wish_of(intercept() | {"status": {"nodes": "x"}}).report.nodes == ()
    assert wish_of(intercept(deletionTimestamp="x")).leaving
    assert wish_of(intercept()).created == 1767225600.0
    with pytest.raises(InvalidInput):
        wish_of({"metadata": {"name": "i"}, "spec": {}})


# Lookups.


def test_lookups_ask_at_once_again_when_told_and_never_forget(monkeypatch):
    monkeypatch.setattr(lookups_module, "SOONEST", 0.05)

    async def main():
        api, news = FakeApi(), []
        lookups = Lookups(api, lambda resource, item: item["spec"], lambda: news.append(1))
        ref, none = Ref(SERVICES, "shop", "orders"), Ref(SERVICES, "shop", "none")
        api.put(SERVICES, {"metadata": {"namespace": "shop", "name": "orders"}, "spec": 1})
        async with running(lookups.run()):
            lookups.want({ref, none})
            await until(lambda: lookups.known == {ref: 1, none: None})
            api.away = True
            lookups.refresh(ref)
            await until(lambda: api.asked["Service", "orders"] >= 2)
            assert lookups.known[ref] == 1
            api.away = False
            api.put(SERVICES, {"metadata": {"namespace": "shop", "name": "orders"}, "spec": 2})
            await until(lambda: lookups.known[ref] == 2)
            lookups.refresh(ref)
            lookups.refresh(ref)
            await asyncio.sleep(0.3)
            assert api.asked["Service", "orders"] < 8
            assert api.asked["Service", "none"] == 1
            lookups.want({none})
            assert lookups.known == {none: None}
        assert len(news) == 3

    asyncio.run(main())


# Leases.


def session(renewed, uid="s"):
    spec = {"user": "bob", "publicKey": KEYS["bob"], "renewTime": renewed, "leaseSeconds": 5}
    return {"metadata": {"namespace": "tpnet", "name": "bob-1", "uid": uid}, "spec": spec}


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def test_a_session_is_asked_for_once_and_then_only_while_its_tunnel_is_dead(monkeypatch):
    monkeypatch.setattr(leases_module, "LOOK_EVERY", 0.01)

    async def main():
        api, clock, alive = FakeApi(), Clock(), [True]
        leases = Leases(api, lambda: None, clock)
        api.put(SESSIONS, session("1"))

        def state():
            leases.heard(lambda name: alive[0])
            return leases.standings()["bob-1"].state

        async with running(leases.run()):
            leases.want({"bob-1"})
            assert state() is LeaseState.UNKNOWN
            await until(lambda: state() is LeaseState.LIVE)
            for _ in range(20):
                clock.now += 10.0
                await asyncio.sleep(0.02)
                assert state() is LeaseState.LIVE
            assert api.asked["Session", "bob-1"] == 1
            # The tunnel dies, and the session is renewed all the same: it lives.
            alive[0] = False
            for number in range(2, 6):
                api.put(SESSIONS, session(str(number)))
                clock.now += 4.0
                await asyncio.sleep(0.03)
                assert state() is LeaseState.LIVE
            asked = api.asked["Session", "bob-1"]
            assert 1 < asked <= 5
            # Renewed no more: over, but not while nobody answers.
            api.away = True
            for _ in range(5):
                clock.now += 10.0
                await asyncio.sleep(0.03)
                assert state() is LeaseState.LIVE
            # When somebody answers again, it has the length of a lease to be renewed.
            api.away = False
            clock.now += 4.5
            await asyncio.sleep(0.05)
            assert state() is LeaseState.LIVE
            clock.now += 10.0
            await until(lambda: state() is LeaseState.OVER)
            clock.now += 7.0
            assert leases.ended_for("bob-1") == 7.0
            # The computer has slept, and wakes up.
            api.put(SESSIONS, session("9"))
            clock.now += 20.0
            await until(lambda: state() is LeaseState.LIVE)
            assert leases.ended_for("bob-1") == 0.0
            api.take(SESSIONS, "tpnet", "bob-1")
            clock.now += 20.0
            await until(lambda: state() is LeaseState.GONE)
            leases.want(set())
            assert leases.standings() == {}

    asyncio.run(main())


def test_that_a_session_with_a_living_tunnel_is_gone_one_agent_finds_out_and_the_others_when_told(
    monkeypatch,
):
    monkeypatch.setattr(leases_module, "LOOK_EVERY", 0.01)

    async def main():
        api, clock, doubted = FakeApi(), Clock(), set()
        first, other = (Leases(api, lambda: None, clock) for _ in range(2))
        first.want({"bob-1"}, {"bob-1"})
        other.want({"bob-1"})

        def states():
            for leases in (first, other):
                leases.heard(lambda name: True, doubted)
            return [leases.standings()["bob-1"].state for leases in (first, other)]

        api.put(SESSIONS, session("1"))
        async with running(first.run()), running(other.run()):
            await until(lambda: states() == [LeaseState.LIVE] * 2)
            # It is not renewed any more, but there, and its tunnel lives: once a minute one of them looks.
            for _ in range(30):
                clock.now += 10.0
                await asyncio.sleep(0.02)
                assert states() == [LeaseState.LIVE] * 2
            assert 4 <= api.asked["Session", "bob-1"] - 2 <= 8
            # Nor does it end because its computer falls silent for a moment.
            other.heard(lambda name: False)
            clock.now += 2.0
            await asyncio.sleep(0.05)
            assert states() == [LeaseState.LIVE] * 2
            api.take(SESSIONS, "tpnet", "bob-1")
            clock.now += 76.0
            await until(lambda: states() == [LeaseState.GONE, LeaseState.LIVE])
            asked = api.asked["Session", "bob-1"]
            doubted.add("bob-1")
            states()
            clock.now += 1.0
            await until(lambda: states() == [LeaseState.GONE] * 2)
            assert api.asked["Session", "bob-1"] == asked + 1

    asyncio.run(main())


# Writer.


def test_the_writer_writes_the_latest_once_and_again_after_failures(monkeypatch):
    monkeypatch.setattr(writer_module, "_RETRY", 0.01)

    async def main():
        writer, done = Writer(), []

        async def write(what):
            if what == "bad" and done.count("bad") < 2:
                done.append("bad")
                raise TpnetError("no")
            if what == "gone":
                done.append("gone")
                raise Conflict("another uid")
            if what == "forbidden" and "forbidden" not in done:
                done.append("forbidden")
                raise Refused("no")
            done.append(what)

        writer.put("a", 1, lambda: write("old"))
        writer.put("a", 2, lambda: write("new"))
        async with running(writer.run()):
            await until(lambda: done == ["new"])
            writer.put("a", 2, lambda: write("again"))
            writer.put("b", 1, lambda: write("bad"))
            await until(lambda: done.count("bad") == 3)
            writer.put("c", 1, lambda: write("gone"))
            writer.put("d", 1, lambda: write("forbidden"))
            await until(lambda: done.count("forbidden") == 2)
            await asyncio.sleep(0.05)
            assert done.count("gone") == 1
            assert "again" not in done
            assert writer.written_at("a") > 0
            writer.forget(lambda key: key != "a")
            assert writer.written_at("a") == 0
            writer.put("a", 2, lambda: write("again"))
            await until(lambda: "again" in done)

    asyncio.run(main())


# World.


def end(pod, node, uid):
    ref = {"kind": "Pod", "name": pod, "namespace": "shop", "uid": uid}
    return {"addresses": ["10.0.0.1"], "conditions": {"ready": True}, "nodeName": node, "targetRef": ref}


def test_only_what_concerns_this_node_is_followed_and_asked_for():
    async def main():
        api, news = FakeApi(), []
        api.put(INTERCEPTS, intercept("here"))
        api.put(INTERCEPTS, intercept("far", namespace="elsewhere"))
        for node in ("n2", "n3"):
            api.put(NODE_AGENTS, {"metadata": {"name": node}, "spec": {"publicKey": node}})
        api.put(
            PODS,
            {
                "metadata": {"namespace": "shop", "name": "orders-a", "uid": "u"},
                "status": {"podIP": "10.0.0.1"},
            },
        )
        labels = {"kubernetes.io/service-name": "orders"}
        api.put(
            ENDPOINT_SLICES,
            {
                "metadata": {"namespace": "shop", "name": "orders-1", "labels": labels},
                "addressType": "IPv4",
                "ports": [{"name": "", "port": 8080}],
                "endpoints": [end("orders-b", "n2", "v")],
            },
        )
        world = World(api, "n1", lambda: news.append(1))
        world.start()
        assert await world.synced(2.0)
        for _ in range(3):
            world.follow(world.view())
            await asyncio.sleep(0.05)
        view = world.view()
        assert [one.name for one in view.wishes] == ["here"]
        assert [one.node for one in view.endpoints["shop", "orders"]] == ["n2"]
        # Nothing of it is on this node: neither service nor session nor namespace is asked for.
        assert set(api.asked) == {
            ("Intercept", "*"),
            ("Pod", "*"),
            ("NodeAgent", "*"),
            ("EndpointSlice", "*"),
        }
        news.clear()
        api.put(
            ENDPOINT_SLICES,
            {
                "metadata": {"namespace": "shop", "name": "orders-1", "labels": labels},
                "addressType": "IPv4",
                "ports": [{"name": "", "port": 8080}],
                "endpoints": [end("orders-a", "n1", "u"), end("orders-b", "n2", "v")],
            },
        )
        await until(lambda: news)
        world.follow(world.view())
        await until(
            lambda: (
                api.asked["Service", "orders"]
                and api.asked["Session", "bob-1"]
                and api.asked["Namespace", "shop"]
            )
        )
        api.take(INTERCEPTS, "shop", "here")
        await until(lambda: not list(world.view().wishes))
        world.follow(world.view())
        assert world.view().endpoints == {}
        assert world.view().sessions == {}
        await world.close()

    asyncio.run(main())


def test_the_agents_that_there_are_share_the_intercepts():
    async def main():
        api = FakeApi()
        for node in ("n1", "n2", "n3"):
            api.put(NODE_AGENTS, {"metadata": {"name": node}, "spec": {}})
        for number in range(30):
            api.put(INTERCEPTS, intercept(f"i{number}"))
        worlds = [World(api, node, lambda: None) for node in ("n1", "n2", "n3")]
        for world in worlds:
            world.start()
            await world.synced(2.0)
            world.view()
        firsts = [{key for key, rank in world.owned.items() if rank == 0} for world in worlds]
        assert sum(map(len, firsts)) == len(set().union(*firsts)) == 30
        api.take(NODE_AGENTS, "", "n3")
        await until(lambda: "n3" not in worlds[0].agents and "n3" not in worlds[1].agents)
        for world in worlds[:2]:
            world.view()
        assert firsts[2] <= {key for world in worlds[:2] for key, rank in world.owned.items() if rank == 0}
        for world in worlds:
            await world.close()

    asyncio.run(main())


def test_slices_of_a_service_without_endpoints_are_known_to_be_none():
    async def main():
        news = []
        slices = Slices(FakeApi(), news.append)
        slices.want({("shop", "orders")})
        await until(lambda: news == [("shop", "orders")])
        assert slices.known() == {("shop", "orders"): ()}
        await slices.close()
        assert slices.known() == {}

    asyncio.run(main())


def test_a_session_that_hangs_delays_no_others(monkeypatch):
    monkeypatch.setattr(leases_module, "LOOK_EVERY", 0.01)

    async def main():
        api, hung = FakeApi(), asyncio.Event()
        api.put(SESSIONS, session("1"))
        answers = api.get

        async def get(resource, name, namespace=""):
            if name == "slow-1":
                await hung.wait()
            return await answers(resource, name, namespace)

        api.get = get
        leases = Leases(api, lambda: None)
        async with running(leases.run()):
            leases.want({"slow-1"})
            await asyncio.sleep(0.03)
            leases.want({"slow-1", "bob-1"})
            await until(lambda: leases.standings()["bob-1"].state is LeaseState.LIVE)
            assert leases.standings()["slow-1"].state is LeaseState.UNKNOWN
            hung.set()

    asyncio.run(main())


def test_a_session_that_is_being_deleted_is_gone_whatever_keeps_it():
    async def main():
        api = FakeApi()
        item = session("1")
        item["metadata"] |= {"deletionTimestamp": "2030-01-01T00:00:00Z", "finalizers": ["a/b"]}
        api.put(SESSIONS, item)
        leases = Leases(api, lambda: None)
        async with running(leases.run()):
            leases.want({"bob-1"})
            await until(lambda: leases.standings()["bob-1"].state is LeaseState.GONE)

    asyncio.run(main())


KEEPERS = {
    "writer": lambda api: Writer(),
    "leases": lambda api: Leases(api, lambda: None),
    "lookups": lambda api: Lookups(api, lambda resource, item: item, lambda: None),
}


@pytest.mark.parametrize("make", KEEPERS.values(), ids=KEEPERS)
def test_an_end_that_comes_with_a_wake_is_the_end(make):
    async def main():
        keeper = make(FakeApi())
        task = asyncio.create_task(keeper.run())
        await asyncio.sleep(0.03)
        keeper._wake.set()
        await asyncio.sleep(0)  # who waits for it is about to go on
        task.cancel()
        _, going_on = await asyncio.wait({task}, timeout=1)
        task.cancel()
        assert not going_on

    asyncio.run(main())
