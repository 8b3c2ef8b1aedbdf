"""A global intercept takes every request of a pod, and the kubelet's probes reach the pod all the same."""

import time

from agent_bed import ask, wait_for
from test_agent_orders import all_agents_run, developer, intercepted
from test_agent_shapes import container, make

__all__ = ["all_agents_run", "developer"]


def probe(path, *headers):
    fields = [{"name": name, "value": value} for name, value in headers]
    get = {"path": path, "port": "web", "httpHeaders": fields}
    return {"httpGet": get, "periodSeconds": 1, "failureThreshold": 2}


def test_no_container_is_killed_while_a_handler_that_knows_no_health_takes_all(
    cluster, bed, namespace, developer
):
    one = container(
        "web",
        8080,
        livenessProbe=probe("/probe/live?full=1", ("User-Agent", "Checker"), ("X-Probe", "1")),
        readinessProbe=probe("/probe ready", ("User-Agent", "")),  # without any header that tells it
        startupProbe=probe("/probe/started"),
    )
    (pod,) = make(cluster, namespace, "probed", [one])
    cluster.wait_ready(namespace, "app=probed", 1)
    developer().intercept(namespace, "probed-bob", "Deployment/probed", headers=[], port=8080)
    intercepted(cluster, namespace, "probed-bob")
    node = next(one for one in cluster.nodes if one.name == pod["spec"]["nodeName"])
    name, address = pod["metadata"]["name"], pod["status"]["podIP"]
    other = next(number for number, one in enumerate(cluster.nodes) if one is not node)

    def probes_seen():
        return sum(target["verdicts"].get("A", 0) for target in bed.status(node)["targets"])

    began = probes_seen()
    wait_for("20 probes", lambda: probes_seen() - began >= 20, 60)
    assert ask(cluster, f"http://{address}:8080/", node=other) == "bob"
    # What is no probe, but for its path, is bob's; from the node itself it is the pod's.
    assert ask(cluster, f"http://{address}:8080/probe/live?full=1", node=other) == "bob"
    assert ask(cluster, f"http://{address}:8080/probe/started", node=cluster.nodes.index(node)) == name
    time.sleep(1)
    (now,) = cluster.pods(namespace, "app=probed")
    (status,) = now["status"]["containerStatuses"]
    assert (now["metadata"]["uid"], status["restartCount"]) == (pod["metadata"]["uid"], 0)
    changed = {one["type"]: one["status"] for one in now["status"]["conditions"]}
    assert changed["Ready"] == "True"
