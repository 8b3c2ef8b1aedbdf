"""The API server's objects, its errors, and the kubeconfig."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from pathlib import Path

import cluster_samples as samples
from odd import Choices, gone_wrong
from registry import target

from tpnet.agent.cluster import facts
from tpnet.agent.cluster.decide import decide
from tpnet.control.kubernetes import api
from tpnet.control.kubernetes.convert import from_api, to_api
from tpnet.control.kubernetes.view import model_intercept, status_of, target_statuses
from tpnet.model import InvalidInput, NodeAgentSpec, TpnetError

SEEDS = [bytes(range(at, at + 24)) for at in range(0, 240, 24)]
META = {
    "namespace": "shop", "name": "orders-bob", "uid": "u1", "generation": 1, "resourceVersion": "7",
    "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"a": "b"}, "annotations": {"c": "d"},
}  # fmt: skip
SPEC = {
    "user": "bob", "session": "bob-1", "target": {"kind": "Service", "name": "orders"}, "tunnelPort": 20000, "port": 80,
    "headers": [{"name": "Coder", "value": "bob"}, {"name": "X", "value": "a.*", "regex": True}],
    "path": {"kind": "prefix", "value": "/api"}, "handler": "localhost:3000", "onFailure": "error", "shared": False,
    "connectTimeoutSeconds": 3,
}  # fmt: skip
STATUS = {
    "observedGeneration": 1, "requests": "Coder: bob", "redirected": "1/2",
    "conditions": [{"type": "Ready", "status": "True", "reason": "Redirected", "message": "All is well.", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    "nodes": [{
        "node": "n1", "ready": 1, "total": 2, "sessionUp": True, "hits": 4, "lastHit": "2026-01-01T00:00:00Z", "message": "", "reason": "",
        "endpoints": [{"pod": "orders-a", "port": 8080, "ready": True, "ip": "10.0.0.1", "reason": ""}],
        "missed": [{"reason": "the handler was not there", "count": 2}],
    }],
}  # fmt: skip
INTERCEPT = {"metadata": META, "spec": SPEC, "status": STATUS}
SESSION = {
    "metadata": {**META, "namespace": "tpnet", "name": "bob-1"},
    "spec": {"user": "bob", "publicKey": samples.KEYS["bob"], "renewTime": "2026-01-01T00:00:00.000000Z", "leaseSeconds": 30},
}  # fmt: skip
NODE_AGENT = {
    "publicKey": samples.KEYS["dave"], "tunnelAddress": "fd00::1", "endpoints": ["10.0.0.1:21820", "[fd00::1]:21820"], "heartbeatPort": 21821, "mtu": 1420,
}  # fmt: skip
POD = {
    "metadata": {**META, "ownerReferences": [{"controller": True, "kind": "ReplicaSet", "name": "orders-5d"}], "labels": {"pod-template-hash": "5d"}},
    "spec": {"hostNetwork": False, "containers": [{
        "name": "c", "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
        "livenessProbe": {"httpGet": {"path": "/live", "port": "http", "scheme": "HTTP", "httpHeaders": [{"name": "a", "value": "b"}]}},
        "lifecycle": {"preStop": {"httpGet": {"path": "x", "port": 8080, "host": ""}}},
    }], "initContainers": [{"name": "i", "restartPolicy": "Always", "ports": [{"containerPort": 1}]}]},
    "status": {
        "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"state": {"running": {}}}], "initContainerStatuses": [],
    },
}  # fmt: skip
SERVICE = {
    "metadata": META,
    "spec": {"type": "ClusterIP", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
}
WORKLOAD = {"metadata": META, "spec": {}, "status": {"readyReplicas": 2, "numberReady": 1}}
SLICE = samples.slice_of(("orders-a", "n1", True), ("orders-b", "n2", False))
# What the API server itself never leaves out of its own kinds.
REQUIRED = frozenset({
    "metadata", "name", "containerPort", "port", "type", "status", "ip", "addresses", "addressType", "creationTimestamp", "namespace",
})  # fmt: skip


@target(seeds=SEEDS)
def own_objects(data: bytes) -> None:
    """Intercepts and sessions, as versions yet unknown, or liars, may write them: taken, or refused with a sentence."""
    choices = Choices(data)
    wish = lease = None
    item = gone_wrong(INTERCEPT, choices, kept=REQUIRED - {"type", "port", "status"})
    item["metadata"] = META
    try:
        wish = facts.wish_of(item)
    except InvalidInput as refusal:
        refused(refusal)
    other = gone_wrong(SESSION, choices)
    other["metadata"] = SESSION["metadata"]
    try:
        lease = facts.lease_of(other)
    except InvalidInput as refusal:
        refused(refusal)
    if wish is not None:
        sessions = (
            samples.live()
            if lease is None
            else samples.live() | {lease.name: samples.Standing(samples.LeaseState.LIVE, lease)}
        )
        seen = samples.view(
            wish,
            samples.wish("older", user="dave", created=1.0),
            pods=[samples.pod()],
            ends=[("orders-a", "n1", True)],
            sessions=sessions,
        )
        outcome = decide(seen)
        assert set(outcome.cases) == {wish.key, ("shop", "older")}
        for case in outcome.cases.values():
            assert case.problem is None or case.problem.message


@target(seeds=SEEDS)
def listed_objects(data: bytes) -> None:
    """The same where a person lists them: whatever stands there, a table or a sentence comes of it."""
    item = gone_wrong(INTERCEPT, Choices(data))
    item["metadata"] = META
    try:
        found = status_of(item)
        model_intercept(item)
        target_statuses([item])
    except InvalidInput as refusal:
        refused(refusal)
    else:
        assert found.ready >= 0
        assert found.total >= 0


@target(seeds=SEEDS)
def node_agents(data: bytes) -> None:
    """What an agent says of itself, on a laptop."""
    from tpnet.session.link import parse_endpoint

    try:
        found = from_api(NodeAgentSpec, gone_wrong(NODE_AGENT, Choices(data)))
        for one in found.endpoints:
            host, port = parse_endpoint(one)
            assert re.fullmatch("[0-9a-fA-F:.]+", host), host
            assert 0 < port < 65536
    except TpnetError as refusal:
        refused(refusal)
        return
    assert from_api(NodeAgentSpec, to_api(found)) == found


@target(seeds=SEEDS)
def core_objects(data: bytes) -> None:
    """Kubernetes' own kinds, as their schema allows: they never raise, whatever their creator wrote."""
    choices = Choices(data)
    kind, read = choices.pick([
        (POD, facts.pod_of), (SERVICE, facts.service_of), (WORKLOAD, facts.workload_of), (SLICE, facts.endpoints_of),
    ])  # fmt: skip
    item = gone_wrong(kind, choices, same_type=True, kept=REQUIRED)
    found = read(item)
    if kind is POD:
        assert found.target == f"pod/{found.uid}"
        wishes = [samples.wish(target="Deployment/orders"), samples.wish("p", target=f"Pod/{found.name}")]
        decide(samples.view(*wishes, pods=[found]))


@target(
    seeds=[
        b"500" + one
        for one in (
            b"{}",
            b"[]",
            b'"x"',
            b"<html>",
            b'{"message": 1}',
            b'{"message": "a denied request: \\u001b[2J"}',
            b"[" * 50_000,
        )
    ],
    longest=60_000,
)
def api_errors(data: bytes) -> None:
    """What stands in an error, which may be of any proxy before the API server."""
    code = 400 + Choices(data).byte() % 200
    error = api.error_of(code, data[1:], "https://server")
    assert isinstance(error, TpnetError)
    refused(error)


@target(
    seeds=[
        b"{}",
        b'{"type": "ADDED", "object": {}}',
        b"[]",
        b"1",
        b"",
        b"\xff",
        b'{"type": "ERROR", "object": []}',
        b"[" * 50_000,
        b'{"type": 1}',
    ],
    longest=60_000,
)
def api_lines(data: bytes) -> None:
    """A line of a watch, and a whole answer."""
    for read in (api.event_of, api.object_of):
        try:
            read(data, "https://server")
        except TpnetError as refusal:
            refused(refusal)


KUBECONFIG = b"""\
apiVersion: v1
kind: Config
current-context: a
clusters:
- {name: a, cluster: {server: "https://127.0.0.1:1", insecure-skip-tls-verify: true}}
contexts:
- {name: a, context: {cluster: a, user: a, namespace: shop}}
users:
- {name: a, user: {token: x}}
"""


@target(
    seeds=[
        KUBECONFIG,
        b"",
        b"[]",
        b"a: &a [*a]",
        KUBECONFIG.replace(b"token: x", b"username: u, password: p"),
        b"{" * 5000,
    ],
    words=[
        b"certificate-authority-data: ",
        b"client-key-data: ",
        b"!!python/object",
        b"&a ",
        b"*a",
        b"- ",
        b"~",
        b"token",
        b"namespace",
    ],
    longest=8192,
)
def kubeconfig(data: bytes) -> None:
    """A kubeconfig: usable, or refused with a sentence. What it would run is not run (see ``fuzz.py``)."""
    if b"exec" in data or b"auth-provider" in data:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config")
        path.write_bytes(data)
        asyncio.run(_use(str(path)))


async def _use(path: str) -> None:
    try:
        made = await api.Api.from_kubeconfig(path)
    except TpnetError as refusal:
        refused(refusal)
    else:
        assert isinstance(made.namespace, str)
        await made.close()


def refused(error: TpnetError) -> None:
    """A refusal is a sentence of bounded length."""
    assert error.message.strip()
    assert len(error.message) < 20_000
    json.dumps(error.to_json()).encode()
