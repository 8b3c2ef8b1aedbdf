"""Pods and services of every shape: which of their ports are taken, when, and what is refused with which reason."""

import contextlib
import json
import time

import pytest
from agent_bed import ask, condition, state, until, wait_for
from kubelab.config import SHOP
from kubelab.tools import LabError
from test_agent_orders import all_agents_run, developer, intercepted

__all__ = ["all_agents_run", "developer"]


def container(name, port, **more):
    field = {"fieldRef": {"fieldPath": "metadata.name"}}
    return {
        "name": name,
        "image": SHOP,
        "imagePullPolicy": "Never",
        "args": ["-ports", str(port)],
        "env": [{"name": "POD_NAME", "valueFrom": field}],
        "ports": [{"name": name, "containerPort": port}],
        **more,
    }


def make(cluster, namespace, name, containers, *, service=None, replicas=1, **pod):
    """A Deployment, and a Service of its pods if ``service`` is given; its pods when they run."""
    labels = {"app": name}
    template = {
        "metadata": {"labels": labels},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": containers, **pod},
    }
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    deployment = {"metadata": {"name": name}, "spec": spec}
    cluster.api("POST", f"/apis/apps/v1/namespaces/{namespace}/deployments", deployment)
    if service is not None:
        body = {"metadata": {"name": name}, "spec": {"selector": labels, **service}}
        cluster.api("POST", f"/api/v1/namespaces/{namespace}/services", body)

    def run():
        pods = cluster.pods(namespace, f"app={name}")
        return len(pods) == replicas and all(one["status"].get("podIP") for one in pods)

    wait_for(f"{name} runs", run)
    return cluster.pods(namespace, f"app={name}")


def test_a_headless_service_of_pods_with_several_containers_and_a_native_sidecar(
    cluster, bed, namespace, developer
):
    pods = make(
        cluster,
        namespace,
        "many",
        [container("web", 8080), container("admin", 9090)],
        initContainers=[container("sidecar", 7070, restartPolicy="Always")],
        replicas=2,
        service={
            "clusterIP": "None",
            "ports": [
                {"name": name, "port": number, "targetPort": name}
                for name, number in (("web", 80), ("admin", 81), ("sidecar", 82))
            ],
        },
    )
    cluster.wait_ready(namespace, "app=many", 2)
    bob = developer()
    bob.intercept(namespace, "side", "Service/many", headers=[{"name": "Coder", "value": "side"}], port=82)
    bob.intercept(namespace, "named", "Deployment/many", port="admin")
    for name in ("side", "named"):
        assert intercepted(cluster, namespace, name)["redirected"] == "2/2"
    for pod in pods:
        name, address = pod["metadata"]["name"], pod["status"]["podIP"]
        assert ask(cluster, f"http://{address}:7070/", "Coder: side") == "bob"
        assert ask(cluster, f"http://{address}:9090/", "Coder: bob") == "bob"
        # Another's header, and a port that nobody asked for.
        assert ask(cluster, f"http://{address}:7070/", "Coder: bob") == name
        assert ask(cluster, f"http://{address}:8080/", "Coder: side") == name


def test_a_pod_on_its_node_s_network_is_refused_with_the_reason(cluster, bed, namespace, developer):
    (pod,) = make(cluster, namespace, "host", [container("web", 8099)], hostNetwork=True)
    cluster.wait_ready(namespace, "app=host", 1)
    developer().intercept(namespace, "host-bob", "Deployment/host", port=8099)
    status = until(cluster, namespace, "host-bob", "Partly")
    assert "It shares the node's own network (hostNetwork)" in condition(status)["message"]
    (part,) = status["nodes"]
    assert (part["ready"], part["total"]) == (0, 1)
    assert "hostNetwork" in part["endpoints"][0]["reason"]
    targets = {target["name"] for node in cluster.nodes for target in bed.status(node)["targets"]}
    assert f"pod/{pod['metadata']['uid']}" not in targets


MERGE = "application/merge-patch+json"


@pytest.fixture
def liar(cluster, namespace):
    """``liar(node, **meta)``: a pod that says of itself what its creator likes; gone at the end whatever that is."""
    made = []

    def make(node, **meta):
        spec = {"nodeName": node, "terminationGracePeriodSeconds": 1, "containers": [container("web", 8080)]}
        pod = {"metadata": {"name": f"liar-{len(made)}", **meta}, "spec": spec}
        made.append(f"/api/v1/namespaces/{namespace}/pods/liar-{len(made)}")
        cluster.api("POST", f"/api/v1/namespaces/{namespace}/pods", pod)
        return made[-1]

    yield make
    for path in made:
        with contextlib.suppress(LabError):
            cluster.api("PATCH", path, {"metadata": {"finalizers": None}}, kind=MERGE)
            cluster.api("DELETE", path)


def running(address):
    """What a kubelet says of a pod that is well."""
    return {
        "status": {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [
                {"type": one, "status": "True"} for one in ("Ready", "ContainersReady", "PodScheduled")
            ],
            "containerStatuses": [
                {
                    "name": "web",
                    "image": SHOP,
                    "imageID": SHOP,
                    "ready": True,
                    "restartCount": 0,
                    "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
                }
            ],
        }
    }


def test_nothing_that_a_pod_s_creator_writes_leads_to_another_pod(cluster, bed, namespace, developer, liar):
    (victim,) = make(cluster, namespace, "victim", [container("web", 8080)])
    cluster.wait_ready(namespace, "app=victim", 1)
    meta, address = victim["metadata"], victim["status"]["podIP"]
    node, owner = victim["spec"]["nodeName"], meta["ownerReferences"]
    static = {"kubernetes.io/config.mirror": meta["uid"], "kubernetes.io/config.hash": meta["uid"]}
    lies = (
        {"annotations": static},
        {"labels": {"app": "another"}},
        {"ownerReferences": [{**one, "controller": False} for one in owner]},
    )
    bob = developer()
    for number in range(len(lies)):
        header = {"name": "Coder", "value": f"lie-{number}"}
        bob.intercept(namespace, f"bob-{number}", f"Pod/liar-{number}", port=8080, headers=[header])
    paths = [liar(node, finalizers=["example.org/stays"], **said) for said in lies]
    reasons = set()
    began = time.monotonic()

    def told():
        return all(any(words in one for one in reasons) for words in ("static pod", "is not its pod's"))

    while (took := time.monotonic() - began) < 12 or (not told() and took < 90):
        for _ in range(5):
            for path in paths:
                with contextlib.suppress(LabError):
                    cluster.api("PATCH", f"{path}/status", running(address), kind=MERGE)
        for number in range(len(lies)):
            assert ask(cluster, f"http://{address}:8080/", f"Coder: lie-{number}") == meta["name"]
            for part in state(cluster, namespace, f"bob-{number}").get("nodes", ()):
                reasons.update(one.get("reason", "") for one in part["endpoints"])
    for one in cluster.nodes:
        for target in bed.status(one)["targets"]:
            assert target["name"] != f"pod/{meta['uid']}"
            assert address not in target["addresses"], "a liar is redirected where it is itself, if anywhere"
    assert any("static pod" in one for one in reasons), reasons
    assert any("is not its pod's" in one for one in reasons), reasons


def test_a_new_replica_is_redirected_before_it_is_ready(cluster, bed, namespace, developer):
    late = {"httpGet": {"path": "/ready", "port": 8080}, "initialDelaySeconds": 20, "periodSeconds": 1}
    make(
        cluster,
        namespace,
        "slow",
        [container("web", 8080, readinessProbe=late)],
        service={"ports": [{"port": 80, "targetPort": 8080}]},
    )
    developer().intercept(namespace, "slow-bob", "Service/slow")
    cluster.wait_ready(namespace, "app=slow", 1)
    intercepted(cluster, namespace, "slow-bob")
    before = {one["metadata"]["uid"] for one in cluster.pods(namespace, "app=slow")}
    cluster.kubectl("-n", namespace, "scale", "deploy/slow", "--replicas=2")

    def new():
        pods = cluster.pods(namespace, "app=slow")
        return next((one for one in pods if one["metadata"]["uid"] not in before), None)

    wait_for("another replica", new)
    address = wait_for("its address", lambda: new()["status"].get("podIP"))
    node = next(one for one in cluster.nodes if one.name == new()["spec"]["nodeName"])
    node.run(
        "timeout", "20", "sh", "-c", f"until curl -s -o /dev/null http://{address}:8080/; do sleep 0.05; done"
    )
    wait_for("it goes to bob", lambda: ask(cluster, f"http://{address}:8080/", "Coder: bob") == "bob", 5)
    ready = {one["type"]: one["status"] for one in new()["status"]["conditions"]}["Ready"]
    assert ready == "False", json.dumps(new()["status"])
    # One that is not Ready counts for nothing in what the intercept waits for.
    assert state(cluster, namespace, "slow-bob")["redirected"] == "1/1"
