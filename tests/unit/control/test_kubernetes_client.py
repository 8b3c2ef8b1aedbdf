import asyncio
import copy
import dataclasses
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from tpnet.control.kubernetes import client as client_module
from tpnet.control.kubernetes import create as create_module
from tpnet.control.kubernetes.api import Unreachable
from tpnet.control.kubernetes.client import connect
from tpnet.control.kubernetes.copies import SESSION_LABEL
from tpnet.control.kubernetes.options import ClusterOptions
from tpnet.control.kubernetes.resources import (
    INTERCEPTS,
    NODE_AGENTS,
    SERVICES,
    SESSIONS,
    SYSTEM_NAMESPACE,
)
from tpnet.model import Conflict, HeaderRule, Intercept, InvalidInput, NotThere, Refused
from tpnet.rules.sealed import sealed
from tpnet.tunnel import KeyPair

KEY = KeyPair().public


def merged(there, patch):
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(there) if isinstance(there, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


class FakeApi:
    """An API server in memory. ``agent(obj)`` gives the status that the agents write a moment after a change."""

    server, namespace = "https://fake", "shop"

    def __init__(self):
        self.objects, self.watchers, self.version = {}, [], 0
        self.agent = lambda obj: None
        self.refuse = {}
        self.installed = True
        self.closed = False

    def put(self, resource, obj, kind="ADDED"):
        self.version += 1
        obj = copy.deepcopy(obj)
        meta = obj["metadata"]
        meta["resourceVersion"] = str(self.version)
        meta.setdefault("uid", f"uid-{self.version}")
        meta.setdefault("generation", 1)
        meta.setdefault("creationTimestamp", f"2026-01-01T00:00:{self.version % 60:02d}Z")
        self.objects[resource.kind, meta.get("namespace", ""), meta["name"]] = obj
        for wanted, queue in self.watchers:
            if wanted is resource:
                queue.put_nowait((kind, obj))
        return obj

    def _said(self, resource, obj):
        def say():
            key = resource.kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"]
            status = self.agent(obj)
            if status == "DELETED":
                del self.objects[key]
                for _, queue in self.watchers:
                    queue.put_nowait(("DELETED", obj))
            elif status is not None and key in self.objects:
                self.put(resource, self.objects[key] | {"status": status}, "MODIFIED")

        if resource is INTERCEPTS:
            asyncio.get_running_loop().call_later(0.03, say)
        return obj

    def _look(self, verb, resource):
        if (error := self.refuse.get((verb, resource.kind))) is not None:
            raise error

    async def whoami(self):
        return "bob", ("dev",)

    async def close(self):
        self.closed = True

    async def serves(self, resource):
        return self.installed

    async def get(self, resource, name, namespace=""):
        self._look("get", resource)
        try:
            return self.objects[resource.kind, namespace, name]
        except KeyError:
            raise NotThere(f'{resource.plural} "{name}" not found.') from None

    async def list(self, resource, namespace="", *, labels="", fields="", limit=0):
        self._look("list", resource)
        name, _, value = labels.partition("=")
        found = [
            obj
            for (kind, where, _), obj in self.objects.items()
            if kind == resource.kind
            and (not namespace or where == namespace)
            and (
                name[1:] not in obj["metadata"].get("labels", {})
                if labels.startswith("!")
                else not labels or obj["metadata"].get("labels", {}).get(name) == value
            )
        ]
        return found, str(self.version)

    async def watch(self, resource, version, namespace="", **more):
        more.get("opened", lambda: None)()
        queue = asyncio.Queue()
        self.watchers.append((resource, queue))
        try:
            for (kind, where, _), obj in list(self.objects.items()):
                newer = int(obj["metadata"]["resourceVersion"]) > int(version)
                if newer and (kind, where) == (resource.kind, namespace):
                    yield "MODIFIED", obj
            while True:
                yield await queue.get()
        finally:
            self.watchers.remove((resource, queue))

    async def create(self, resource, obj, *, manager="tpnet"):
        self._look("create", resource)
        key = resource.kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"]
        if key in self.objects:
            raise Conflict(f'{resource.plural} "{obj["metadata"]["name"]}" already exists.')
        return self._said(resource, self.put(resource, obj))

    async def merge(self, resource, name, namespace, patch):
        there = await self.get(resource, name, namespace)
        new = merged(there, patch)
        if new["spec"] != there["spec"]:
            new["metadata"]["generation"] = there["metadata"]["generation"] + 1
        return self._said(resource, self.put(resource, new, "MODIFIED"))

    async def delete(self, resource, name, namespace="", *, uid=""):
        self._look("delete", resource)
        there = self.objects.get((resource.kind, namespace, name))
        if there is None or (uid and there["metadata"]["uid"] != uid):
            return False
        del self.objects[resource.kind, namespace, name]
        return True


def service(name="orders", ports=((80, "http"),)):
    return {
        "metadata": {"namespace": "shop", "name": name},
        "spec": {"ports": [{"port": number, "name": title} for number, title in ports]},
    }


def node_agent(name, version="1.0.0"):
    spec = {"publicKey": KEY, "tunnelAddress": "fd00::1", "endpoints": ["10.0.0.1:21820"]}
    spec |= {"heartbeatPort": 7, "mtu": 1280, "version": version, "redirect": "ebpf"}
    return {"metadata": {"name": name}, "spec": spec}


def intercept(name="shop/orders-bob", user="bob", session="bob-1", headers=(("Coder", "Bob"),), port=80):
    rules = tuple(HeaderRule(*rule) for rule in headers)
    return Intercept(name, user, session, "svc/orders", (), port, rules, None, "127.0.0.1:8080", 20000)


def ready(obj, status="True", count=2, kind="Ready", reason="Redirected", message="All are redirected."):
    generation = obj["metadata"]["generation"]
    condition = {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": generation,
    }
    node = {"node": "n1", "ready": count if status == "True" else 0, "total": count, "sessionUp": True}
    redirected = f"{node['ready']}/{count}"
    return {
        "conditions": [condition],
        "nodes": [node],
        "observedGeneration": generation,
        "redirected": redirected,
    }


@pytest.fixture
def api(monkeypatch):
    fake = FakeApi()

    async def from_kubeconfig(path=None, context=None, **more):
        return fake

    monkeypatch.setattr(client_module, "Api", SimpleNamespace(from_kubeconfig=from_kubeconfig))
    monkeypatch.setattr(create_module, "READY_SECONDS", 1.0)
    monkeypatch.setattr(create_module, "NOBODY_SECONDS", 0.2)
    return fake


@pytest.fixture
def control(api):
    with connect(ClusterOptions()) as made:
        yield made


# Who, and where.


def test_the_user_is_who_the_api_server_says(control):
    assert (control.user, control.groups, control.namespace) == ("bob", ("dev",), "shop")


def test_a_connection_that_fails_leaves_no_thread(api, monkeypatch):
    async def whoami():
        raise Refused("expired")

    monkeypatch.setattr(api, "whoami", whoami)
    before = threading.active_count()
    with pytest.raises(Refused, match="expired"):
        connect(ClusterOptions())
    assert api.closed
    assert threading.active_count() == before


def test_closing_twice_is_closing(api):
    made = connect(ClusterOptions(namespace="prod"))
    assert made.namespace == "prod"
    made.close()
    made.close()
    assert api.closed


# What there is.


def test_a_cluster_without_agents_says_who_installs_them(control, api):
    with pytest.raises(NotThere, match="No agent of tpnet") as caught:
        control.info()
    assert "tpnet install" in caught.value.hint
    api.put(NODE_AGENTS, node_agent("n1"))
    assert control.info().node == "n1"
    api.put(NODE_AGENTS, node_agent("n2"))
    assert (control.info().node, control.info().redirect) == ("2 nodes", "ebpf")
    assert control.agent("n1").endpoints == ("10.0.0.1:21820",)


def test_a_cluster_that_does_not_know_our_kinds_says_so(control, api):
    missing = NotThere("the server could not find the requested resource.")
    api.refuse = {("list", "NodeAgent"): missing, ("create", "Session"): missing}
    for ask in (control.info, lambda: control.begin_session(KEY)):
        with pytest.raises(NotThere, match="tpnet is not installed in this cluster"):
            ask()


def test_a_missing_right_to_what_there_is_not_is_not_what_is_missing(control, api):
    api.refuse = {("list", "NodeAgent"): Refused("bob may not list nodeagents.")}
    with pytest.raises(Refused, match="bob may not list"):
        control.info()
    api.installed = False
    with pytest.raises(NotThere, match="tpnet is not installed in this cluster"):
        control.info()


def test_a_service_has_its_ports_and_their_names(control, api):
    api.put(SERVICES, service(ports=((80, "http"), (90, "admin"))))
    (info,) = control.resolve("orders")
    assert info.name == "shop/svc/orders"
    assert (info.listening, info.port_names) == ((80, 90), ("http", "admin"))
    assert info.addresses == ("orders.shop",)


def test_a_name_that_is_not_there_is_answered_with_those_that_are(control, api):
    with pytest.raises(NotThere, match="There is no Service carts in shop") as caught:
        control.resolve("carts")
    assert "-n" in caught.value.hint
    api.put(SERVICES, service("orders"))
    api.put(SERVICES, service("cart"))
    with pytest.raises(NotThere) as caught:
        control.resolve("svc/carts")
    assert caught.value.hint == "There are: cart, orders."


def test_an_api_server_that_is_away_is_not_a_service_that_is_not_there(control, api):
    api.refuse = {("get", "Service"): Unreachable("The API server does not answer.")}
    with pytest.raises(Unreachable, match="does not answer"):
        control.resolve("orders")


def test_words_for_the_shell(control, api):
    api.put(SERVICES, service(ports=((80, "http"), (90, "admin"))))
    api.put(SERVICES, service("cart"))
    assert control.complete("services") == ["cart", "orders"]
    assert control.complete("ports", "orders") == ["80", "90"]
    assert control.complete("intercepts") == []


# Sessions.


def test_a_session_is_made_renewed_and_ended(control, api):
    name = control.begin_session(KEY)
    assert name.startswith("bob-")
    made = api.objects["Session", SYSTEM_NAMESPACE, name]
    assert made["spec"]["user"] == "bob"
    assert made["spec"]["publicKey"] == KEY
    before = made["spec"]["renewTime"]
    time.sleep(0.01)
    control.renew(name)
    assert api.objects["Session", SYSTEM_NAMESPACE, name]["spec"]["renewTime"] > before
    control.end_session(name)
    control.end_session(name)
    with pytest.raises(NotThere):
        control.renew(name)


def test_two_sessions_have_two_names(control):
    assert control.begin_session(KEY) != control.begin_session(KEY)


# Intercepts.


def test_an_intercept_is_awaited_until_every_endpoint_is_redirected(control, api):
    api.agent = ready
    status = control.create_intercept(intercept())
    assert (status.ready, status.total, status.problems) == (2, 2, ())
    obj = api.objects["Intercept", "shop", "orders-bob"]
    assert obj["metadata"]["labels"] == {SESSION_LABEL: "bob-1"}
    assert obj["spec"]["user"] == "bob"


def test_what_an_agent_said_of_an_earlier_generation_does_not_count(control, api):
    def stale(obj):
        status = ready(obj)
        status["conditions"][0]["observedGeneration"] = obj["metadata"]["generation"] - 1
        return status

    api.agent = stale
    begun = time.monotonic()
    control.create_intercept(intercept())
    assert time.monotonic() - begun >= 0.9, "it waited for more"


def test_where_nobody_speaks_it_does_not_wait_long(control, monkeypatch):
    monkeypatch.setattr(create_module, "READY_SECONDS", 15.0)
    begun = time.monotonic()
    status = control.create_intercept(intercept())
    assert 0.2 <= time.monotonic() - begun < 10
    assert status.problems == ("no agent has said anything yet",)


def test_what_is_not_all_redirected_in_time_is_told_as_it_is(control, api):
    api.agent = lambda obj: ready(obj, "False", reason="Partly", message="0 of 2 are redirected.")
    status = control.create_intercept(intercept())
    assert (status.ready, status.total) == (0, 2)
    assert status.problems == ("0 of 2 are redirected.",)


@pytest.mark.parametrize(("reason", "error"), [("Conflict", Conflict), ("Refused", Refused)])
def test_a_refused_intercept_is_not_left_behind(control, api, reason, error):
    api.agent = lambda obj: ready(
        obj, "False", kind="Accepted", reason=reason, message="alice's orders-a takes them."
    )
    with pytest.raises(error, match="alice's orders-a takes them"):
        control.create_intercept(intercept())
    assert not [key for key in api.objects if key[0] == "Intercept"]


def test_ready_is_not_enough_while_a_node_s_part_is_still_to_come(control, api):
    def conclusion_first(obj):
        whole = ready(obj)

        def part():
            there = api.objects["Intercept", "shop", "orders-bob"]
            api.put(INTERCEPTS, there | {"status": whole}, "MODIFIED")

        asyncio.get_running_loop().call_later(0.1, part)
        return whole | {"nodes": []}

    api.agent = conclusion_first
    control.follow("shop", "bob-1", lambda: None)
    assert control.create_intercept(intercept()).ready == 2
    assert control.nodes("bob-1") == {"n1"}


def accepted(obj, reason="Redirected"):
    status = ready(obj, reason=reason)
    taken = ready(obj, kind="Accepted", reason="Accepted")["conditions"]
    return status | {"conditions": [*taken, *status["conditions"]]}


def test_what_is_in_the_way_is_named_before_anything_is_made(control, api):
    api.agent = accepted
    control.create_intercept(intercept())
    for whose, hint in (
        ("bob", "It is your own: tpnet leave shop/orders-bob ends it."),
        ("alice", "Use another value, or --http-header=auto for one of your own."),
    ):
        (there,) = (obj for key, obj in api.objects.items() if key[0] == "Intercept")
        there["spec"]["user"] = whose
        with pytest.raises(Conflict) as caught:
            control.create_intercept(intercept(name="shop/another"))
        assert caught.value.message == (
            f"{whose}'s intercept shop/orders-bob, which is older, already takes requests with Coder: Bob."
        )
        assert caught.value.hint == hint
    # Other requests, another port, and one whose session is no more, are in nobody's way.
    control.create_intercept(intercept(name="shop/header", headers=(("Coder", "B"),)))
    control.create_intercept(intercept(name="shop/port", port=81))
    there["status"] = accepted(there, reason="SessionGone")
    odd = copy.deepcopy(there)
    odd["metadata"]["name"], odd["spec"], odd["status"] = "odd", {"of": "another version"}, accepted(there)
    api.put(INTERCEPTS, odd)
    assert control.create_intercept(intercept(name="shop/another")).ready == 2


def test_an_intercept_that_is_removed_meanwhile_says_so(control, api):
    api.agent = lambda obj: "DELETED"
    with pytest.raises(NotThere, match="was removed while it was being made"):
        control.create_intercept(intercept())


def test_a_namespace_that_is_not_there_is_named(control, api):
    api.refuse = {("create", "Intercept"): NotThere('namespaces "shop" not found.')}
    with pytest.raises(NotThere, match="There is no namespace shop"):
        control.create_intercept(intercept())


def test_ones_own_of_a_session_that_does_not_answer_goes_to_the_new_one(control, api):
    def silent(obj):
        status = ready(obj)
        status["nodes"][0]["sessionUp"] = False
        return status

    api.agent = silent
    control.create_intercept(intercept(session="bob-1"))
    uid = api.objects["Intercept", "shop", "orders-bob"]["metadata"]["uid"]
    assert control.create_intercept(intercept(session="bob-2")).ready == 2
    there = api.objects["Intercept", "shop", "orders-bob"]
    assert (there["spec"]["session"], there["metadata"]["uid"]) == ("bob-2", uid)
    assert there["metadata"]["labels"] == {SESSION_LABEL: "bob-2"}


def session_of(computer, renewed):
    spec = {"user": "bob", "publicKey": KEY, "renewTime": renewed, "leaseSeconds": 30}
    meta = {
        "name": "bob-1",
        "namespace": SYSTEM_NAMESPACE,
        "annotations": {"tpnet.dev/computer": computer},
    }
    return {"metadata": meta, "spec": spec}


@pytest.mark.parametrize(
    ("computer", "renewed", "taken"),
    [
        ("laptop-7", "2999-01-01T00:00:00.000000Z", False),
        ("laptop-7", "2020-01-01T00:00:00.000000Z", True),
        (socket.gethostname(), "2999-01-01T00:00:00.000000Z", True),
    ],
)
def test_ones_own_on_another_computer_is_left_to_it_while_its_session_lives(
    control, api, computer, renewed, taken
):
    api.agent = ready
    control.create_intercept(intercept(session="bob-1"))
    api.put(SESSIONS, session_of(computer, renewed))
    if taken:
        control.create_intercept(intercept(session="bob-2"))
    else:
        with pytest.raises(Conflict, match="your session bob-1 on laptop-7 has it"):
            control.create_intercept(intercept(session="bob-2"))
    there = api.objects["Intercept", "shop", "orders-bob"]
    assert there["spec"]["session"] == ("bob-2" if taken else "bob-1")


def by_kubectl(name="orders-bob", user="bob", **spec):
    target = {"kind": "Service", "name": "orders"}
    rules = [{"name": "Coder", "value": "Bob"}]
    return {
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"user": user, "target": target, "headers": rules, **spec},
    }


def test_what_waits_for_a_session_is_found_and_taken_once(control, api):
    api.put(SERVICES, service(ports=((80, "http"), (90, "admin"))))
    api.put(INTERCEPTS, by_kubectl(port="admin"))
    api.put(INTERCEPTS, by_kubectl("own", handler="127.0.0.1:9", port=80))
    api.put(INTERCEPTS, by_kubectl("which-port"))
    api.put(INTERCEPTS, by_kubectl("orders-alice", "alice", port=80))
    control.follow_unclaimed("shop", lambda: None)
    deadline = time.monotonic() + 20
    api.put(INTERCEPTS, by_kubectl("six", handler="::1", port=80))
    api.put(INTERCEPTS, by_kubectl("odd", handler="http://localhost", port=80))
    while len(found := control.unclaimed("bob-1")) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert {one.name: one.handler for one in found} == {
        "shop/orders-bob": "localhost:90",
        "shop/own": "127.0.0.1:9",
        "shop/six": "[::1]:80",
        "shop/odd": "http://localhost",  # the session that would serve it says what is wrong
    }
    named = next(one for one in found if one.name == "shop/orders-bob")
    control.claim(dataclasses.replace(named, session="bob-1", tunnel_port=20001))
    there = api.objects["Intercept", "shop", "orders-bob"]
    assert there["metadata"]["labels"] == {SESSION_LABEL: "bob-1"}
    assert (there["spec"]["session"], there["spec"]["tunnelPort"], there["spec"]["port"]) == (
        "bob-1",
        20001,
        "admin",
    )
    with pytest.raises(Conflict, match="Another session of yours has taken shop/orders-bob"):
        control.claim(dataclasses.replace(named, session="bob-2"))


@pytest.mark.parametrize(
    ("other", "whose"),
    [(intercept(user="alice"), "alice has"), (intercept(headers=(("Coder", "Rob"),)), "You have")],
)
def test_a_name_that_is_taken_is_never_taken_over(control, api, other, whose):
    api.agent = ready
    control.create_intercept(other)
    before = copy.deepcopy(api.objects["Intercept", "shop", "orders-bob"]["spec"])
    with pytest.raises(Conflict, match=f"{whose} an intercept named orders-bob in shop already"):
        control.create_intercept(intercept(session="bob-2"))
    assert api.objects["Intercept", "shop", "orders-bob"]["spec"] == before


ID = HeaderRule("x-tpnet-intercept-id", "6f1c" * 8)


@pytest.mark.parametrize("renewed", ["2999-01-01T00:00:00.000000Z", "2020-01-01T00:00:00.000000Z"])
def test_ones_own_that_says_its_id_makes_place_for_one_that_does_not(control, api, renewed):
    """As they were made before there were digests. One that a living session has stays."""
    api.agent = ready
    plain = dataclasses.replace(intercept(session="bob-1"), headers=(ID,))
    control.create_intercept(plain)
    api.put(SESSIONS, session_of("laptop-7", renewed))
    hidden = dataclasses.replace(plain, session="bob-2", headers=(sealed(ID, "bob"),))
    before = api.objects["Intercept", "shop", "orders-bob"]["metadata"]["uid"]
    if renewed.startswith("2999"):
        with pytest.raises(Conflict, match="your session bob-1 on laptop-7 has it"):
            control.create_intercept(hidden)
        return
    assert control.create_intercept(hidden).ready == 2
    there = api.objects["Intercept", "shop", "orders-bob"]
    assert there["metadata"]["uid"] != before
    assert ID.value not in repr(there)
    assert there["spec"]["headers"] == [{"name": ID.name, "digest": hidden.headers[0].digest}]
    other = dataclasses.replace(hidden, headers=(sealed(dataclasses.replace(ID, value="0" * 32), "bob"),))
    with pytest.raises(Conflict, match="You have an intercept named orders-bob"):
        control.create_intercept(other)


def test_leaving_what_is_not_there_says_where_it_looked(control, api):
    api.agent = ready
    control.create_intercept(intercept())
    assert control.delete_intercept("orders-bob", "bob") == {"draining": 0}
    with pytest.raises(NotThere, match="There is no intercept orders-bob in shop"):
        control.delete_intercept("shop/orders-bob", "bob")


def test_what_policy_refuses_stays_refused(control, api):
    api.refuse = {
        ("create", "Intercept"): Refused("A global intercept in shop needs the verb intercept-all.")
    }
    with pytest.raises(Refused, match="intercept-all"):
        control.create_intercept(intercept(headers=()))


# Following.


def test_nodes_are_those_that_speak_of_the_sessions_own_intercepts(control, api):
    api.agent = ready
    told = threading.Event()
    control.follow("shop", "bob-1", told.set)
    control.follow("shop", "bob-1", told.set)
    assert control.nodes("bob-1") == set()
    control.create_intercept(intercept())
    assert told.wait(20)
    deadline = time.monotonic() + 20
    while control.nodes("bob-1") != {"n1"}:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert control.nodes("bob-2") == set()
    assert control.standing("bob-1") == {"shop/orders-bob"}
    assert control.standing("bob-2") == set()
    # Who may not ask any more has the last word of the watch.
    api.refuse = {("list", "Intercept"): Refused("bob may not list intercepts.tpnet.dev in shop.")}
    assert control.standing("bob-1") == {"shop/orders-bob"}
    api.refuse = {}
    # A new session is the only one; what waits for one is followed on.
    control.follow_unclaimed("shop", lambda: None)
    control.follow("shop", "bob-2", told.set)
    assert control.nodes("bob-1") == set()
    assert len(api.watchers) <= 3


# Status and explain.


def test_status_is_of_the_namespace_or_of_all(api):
    api.put(NODE_AGENTS, node_agent("n1"))
    api.agent = ready
    with connect(ClusterOptions()) as control:
        control.create_intercept(intercept())
        control.create_intercept(intercept("prod/orders-bob"))
        assert [one.intercept.name for one in control.status().intercepts] == ["shop/orders-bob"]
    with connect(ClusterOptions(all_namespaces=True)) as control:
        found = {one.intercept.name for one in control.status().intercepts}
        assert found == {"shop/orders-bob", "prod/orders-bob"}
    with connect(ClusterOptions(labels=f"{SESSION_LABEL}=other")) as control:
        assert control.status().intercepts == ()


def test_explain_says_who_takes_a_request_and_who_does_not(control, api):
    api.put(SERVICES, service())
    api.agent = ready
    control.create_intercept(intercept())
    control.create_intercept(intercept("shop/all", "alice", "alice-1", headers=()))
    control.create_intercept(intercept("prod/orders-bob", session="bob-9"))
    taken = control.explain("orders", None, "GET", "/api", [("Coder", "Bob")])
    assert (taken.to, taken.handler) == ("bob-1", "127.0.0.1:8080")
    assert [step.intercept for step in taken.steps] == ["shop/orders-bob", "shop/all"]
    assert control.explain("orders", 80, "GET", "/", []).to == "alice-1"
    assert control.explain("orders", 81, "GET", "/", []).reason == "no intercept stands on port 81"


def test_explain_says_when_a_session_is_away(control, api):
    def away(obj):
        status = ready(obj)
        status["nodes"][0]["sessionUp"] = False
        return status

    api.put(SERVICES, service())
    api.agent = away
    control.create_intercept(intercept())
    assert "bob's session does not answer: for now to the app" in (
        control.explain("orders", 80, "GET", "/", [("Coder", "Bob")]).reason
    )


def test_explain_wants_a_port_where_there_are_several(control, api):
    api.put(SERVICES, service(ports=((80, "http"), (90, "admin"))))
    with pytest.raises(InvalidInput, match="Which port of shop/svc/orders"):
        control.explain("orders", None, "GET", "/", [])


def test_the_newest_agent_is_told_by_number(control, api):
    api.put(NODE_AGENTS, node_agent("n1", "0.9.0"))
    api.put(NODE_AGENTS, node_agent("n2", "0.10.0"))
    assert control.info().version == "0.10.0"


def test_one_odd_intercept_does_not_keep_the_others_from_being_explained(control, api):
    api.put(SERVICES, service(ports=((80, "http"), (90, "admin"))))
    api.agent = ready
    control.create_intercept(intercept())
    control.create_intercept(intercept("shop/odd", "eve", "eve-1", port=0))
    assert control.explain("orders", 80, "GET", "/", [("Coder", "Bob")]).to == "bob-1"
