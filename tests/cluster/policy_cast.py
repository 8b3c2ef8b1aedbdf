"""Who is on stage when the API server is asked who may do what: fixtures, and the objects they make."""

import secrets

import pytest
import yaml
from kubelab.tools import wait_until
from who import admin, bearer, person

from tpnet.control.kubernetes.grant import Subject, bindings
from tpnet.control.kubernetes.install import manifests

KEY = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="
NOW = "2026-01-01T00:00:00.000000Z"
ACCOUNT = "tpnet-agent"


def unique(prefix):
    return f"{prefix}-{secrets.token_hex(3)}"


def intercept(user, name="i", **spec):
    return {
        "metadata": {"name": name},
        "spec": {
            "user": user,
            "session": f"{user}-1",
            "target": {"kind": "Service", "name": "orders"},
            "headers": [{"name": "Coder", "value": user}],
            "tunnelPort": 20000,
            **spec,
        },
    }


def session(user, name):
    return {"metadata": {"name": name}, "spec": {"user": user, "publicKey": KEY, "renewTime": NOW}}


def node_agent(name):
    spec = {
        "publicKey": KEY,
        "tunnelAddress": "fd00::1",
        "endpoints": ["192.0.2.1:21820"],
        "heartbeatPort": 20,
        "mtu": 1280,
    }
    return {"metadata": {"name": name}, "spec": spec}


def part(node, ready=1):
    return {"status": {"nodes": [{"node": node, "ready": ready, "total": 1}]}}


def bind(cluster, user, namespaces, **more):
    for resource, obj in bindings(Subject("User", user), namespaces, **more):
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **obj}
        where = resource.collection(obj["metadata"].get("namespace", ""))
        cluster.api("POST", where, body)


@pytest.fixture(scope="module")
def installed(cluster):
    """Kinds, rights and policies; no agents."""
    objects = [obj for obj in manifests() if obj["kind"] != "DaemonSet"]
    cluster.apply(yaml.safe_dump_all(objects))
    probe = intercept("nobody-at-all")
    # A policy is enforced a moment after it was made.
    with cluster.namespace("policy", wait=False) as name:
        wait_until(
            lambda: "spec.user is" in admin(cluster).create("intercepts", name, probe).message,
            30,
            "the policies",
        )
    return cluster


class Cast:
    """The people and namespaces of one test module."""

    def __init__(self, cluster, shop, other):
        self.cluster, self.shop, self.other = cluster, shop, other
        tag = secrets.token_hex(3)
        self.bob_name, self.dave_name, self.eve_name = f"bob-{tag}", f"dave-{tag}", f"eve-{tag}"
        self.gina_name, self.ada_name = f"gina-{tag}", f"ada-{tag}"
        self.bob, self.dave, self.eve = (
            person(cluster, name) for name in (self.bob_name, self.dave_name, self.eve_name)
        )
        self.gina, self.ada = person(cluster, self.gina_name), person(cluster, self.ada_name)
        self.admin = admin(cluster)
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        asked = self.admin.ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", review)
        self.root_name = asked.body["status"]["userInfo"]["username"]
        bind(cluster, self.bob_name, [shop])
        bind(cluster, self.dave_name, [shop])
        bind(cluster, self.gina_name, [shop], everybodys=True)
        bind(cluster, self.ada_name, [shop], admin=True)


@pytest.fixture(scope="module")
def cast(installed):
    """Bob and Dave are developers in shop, Gina may make global intercepts there, Ada is tpnet's admin, Eve has nothing."""
    with installed.namespace("shop", wait=False) as shop, installed.namespace("other", wait=False) as other:
        people = Cast(installed, shop, other)
        wait_until(lambda: people.ada.get("sessions", "tpnet").allowed, 10, "the grants")
        yield people
        for name in (people.bob_name, people.dave_name, people.gina_name, people.ada_name):
            for resource, obj in bindings(Subject("User", name), [], everybodys=True, admin=True):
                meta = obj["metadata"]
                people.admin.ask("DELETE", resource.path(meta.get("namespace", ""), meta["name"]))


@pytest.fixture(scope="module")
def tokens(installed):
    """Tokens of agents: of a pod on each node as the kubelet would give it, and one of no pod."""
    names = {}
    pods = "/api/v1/namespaces/tpnet/pods"
    for node in ("n1", "n2"):
        names[node] = unique("stand-in")
        spec = {
            "nodeName": node,
            "serviceAccountName": ACCOUNT,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "app", "image": "localhost/shop:1", "imagePullPolicy": "Never"}],
        }
        installed.api("POST", pods, {"metadata": {"name": names[node]}, "spec": spec})
    yield {
        "n1": token(installed, ACCOUNT, "tpnet", pod=names["n1"]),
        "n2": token(installed, ACCOUNT, "tpnet", pod=names["n2"]),
        "unbound": token(installed, ACCOUNT, "tpnet"),
    }
    for name in names.values():
        installed.api("DELETE", f"{pods}/{name}?gracePeriodSeconds=0")


def token(cluster, account, namespace, pod="", audience=""):
    where = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
    spec = {"audiences": [audience] if audience else []}
    if pod:
        uid = cluster.get(f"/api/v1/namespaces/{namespace}/pods/{pod}")["metadata"]["uid"]
        spec["boundObjectRef"] = {"kind": "Pod", "apiVersion": "v1", "name": pod, "uid": uid}
    return cluster.api("POST", where, {"spec": spec})["status"]["token"]


@pytest.fixture
def agents(cast, tokens):
    """The agents of both nodes."""
    return {name: bearer(cast.cluster, text) for name, text in tokens.items()}


@pytest.fixture
def bobs(cast):
    """An intercept of Bob's."""
    name = unique("bobs")
    answer = cast.bob.create("intercepts", cast.shop, intercept(cast.bob_name, name))
    assert answer.allowed, answer.message
    yield name
    cast.admin.delete("intercepts", cast.shop, name)


@pytest.fixture
def bobs_session(cast):
    """A session of Bob's."""
    name = unique("bob")
    answer = cast.bob.create("sessions", "tpnet", session(cast.bob_name, name))
    assert answer.allowed, answer.message
    yield name
    cast.admin.delete("sessions", "tpnet", name)


def refused(answer, *words, code=403):
    assert answer.code == code, (answer.code, answer.message)
    for text in words:
        assert text in answer.message, answer.message
