"""What breaks in a cluster, with 100 requests a second running, and two developers on one service all the while.

No request may fail that would not have failed without tpnet, and none may go to the wrong developer.
"""

import json
import signal
import time

import pytest
from agent_bed import condition, state
from scene import SHOP, Scene, wait_until

REFUSED = {"ConnectionRefusedError", "ConnectionResetError", "ConnectionAbortedError"}


@pytest.fixture
def scene(cluster, bed, namespace):
    with Scene(cluster, namespace) as made:
        yield made


def test_a_rollout_goes_by_unnoticed(scene):
    for version in "23":
        scene.kubectl("set", "env", "deployment/orders", f"VERSION={version}")
        scene.kubectl("rollout", "status", "deployment/orders", "--timeout=180s")
    scene.settled(4)
    scene.everybody_has_theirs()
    scene.check()


def test_replicas_come_and_go(scene):
    for replicas in (6, 1, 2):
        scene.scale(replicas)
        scene.everybody_has_theirs()
    scene.check()


def test_to_nothing_and_back(scene):
    scene.ledger.stop()
    scene.check(closed=False)
    scene.scale(0)
    wait_until(lambda: not scene.cluster.pods(scene.namespace, "app=orders"), 30)
    scene.scale(2)
    with scene.load() as again:
        for who in ("bob", "alice"):
            again.wait_for(who, who)
    again.check()


def test_a_pod_that_is_deleted(scene):
    scene.kubectl("delete", "pod", scene.cluster.pods(scene.namespace, "app=orders")[0]["metadata"]["name"])
    scene.settled(4)
    scene.everybody_has_theirs()
    scene.check()


def test_a_container_that_is_killed(scene):
    pod = scene.cluster.pods(scene.namespace, "app=orders")[0]
    node = next(one for one in scene.cluster.nodes if one.name == pod["spec"]["nodeName"])
    _, _, container = pod["status"]["containerStatuses"][0]["containerID"].partition("://")
    killed = time.monotonic()
    node.run("ctr", "-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL", container)

    def again():
        status = scene.cluster.pods(scene.namespace, "app=orders")
        return sum(one["status"]["containerStatuses"][0]["restartCount"] for one in status) == 1

    wait_until(again, 30)
    scene.settled(4)
    scene.everybody_has_theirs()
    assert scene.ledger.strays() == []
    # While it is away, and known to nobody to be so, connections to it are refused, tpnet or not.
    assert {one.error.partition(":")[0] for one in scene.ledger.errors()} <= REFUSED
    assert scene.ledger.errors(killed + 5) == []


def test_a_service_that_is_deleted_and_made_anew(scene, bed):
    scene.ledger.stop()
    scene.check(closed=False)
    scene.kubectl("delete", "service", "orders")
    for node in bed.cluster.nodes:
        wait_until(lambda node=node: not bed.status(node)["targets"], 10)
    ready = condition(state(scene.cluster, scene.namespace, "orders-bob"))
    assert ready["status"] == "False"
    ports = [{"port": 80, "targetPort": 8080}]
    service = {"metadata": {"name": "orders"}, "spec": {"selector": {"app": "orders"}, "ports": ports}}
    scene.cluster.api("POST", f"/api/v1/namespaces/{scene.namespace}/services", service)
    scene.cluster.wait_served(scene.namespace, "orders")
    scene.settled(4)
    with scene.load() as again:
        for who in ("bob", "alice"):
            again.wait_for(who, who)
        again.wait_for("", "app")
    again.check()


def test_a_namespace_that_is_deleted_with_all_that_is_in_it(cluster, bed):
    with cluster.namespace() as name, Scene(cluster, name) as scene:
        scene.ledger.stop()
        cluster.kubectl("delete", "namespace", name, "--wait=false")
        for node in cluster.nodes:
            wait_until(lambda node=node: not bed.status(node)["targets"], 60)
        # The session is not the namespace's: it goes on, and knows that it has nothing to serve any more.
        wait_until(lambda: not scene.bob.order("info").get("intercepts"), 15)


def test_a_node_s_kubelet_and_containerd_restart(scene):
    for restart in (scene.cluster.restart_kubelet, scene.cluster.restart_containerd):
        restart(scene.cluster.nodes[0])
        scene.everybody_has_theirs()
    scene.check(closed=False)


def test_an_agent_that_ends_in_an_orderly_way_and_comes_back(scene, bed):
    node = scene.cluster.nodes[0]
    bed.services[node.name].stop()
    scene.ledger.wait_for("", "app")
    bed.start(node)
    scene.everybody_has_theirs()
    scene.check()


def test_an_agent_that_is_killed_resets_once_what_is_open_through_it(scene, bed):
    node = scene.cluster.nodes[0]
    began = time.monotonic()
    bed.services[node.name].stop(signal.SIGKILL)
    gone = time.monotonic()
    time.sleep(3)
    assert scene.ledger.strays() == []
    broken = [one for one in scene.ledger.errors(began - 0.5) if "Reset" not in one.error]
    assert broken == []
    assert len(scene.ledger.errors(began - 0.5)) <= 10
    assert scene.ledger.errors(gone + 1.0) == []
    bed.start(node)
    scene.everybody_has_theirs()
    assert scene.ledger.errors(gone + 1.0) == []


@pytest.mark.timeout(600)
def test_the_api_server_is_away_for_two_minutes(scene, bed):
    began = time.monotonic()
    scene.cluster.stop_api()
    try:
        while time.monotonic() - began < 120:
            time.sleep(10)
            scene.everybody_has_theirs()
    finally:
        scene.cluster.start_api()
        bed.caught_up()
    scene.everybody_has_theirs()
    scene.check(closed=False)
    scene.scale(6, seconds=120)  # the controllers take their time until they believe it
    scene.everybody_has_theirs()


def test_a_laptop_whose_daemon_is_killed_is_not_missed(scene):
    scene.bob.machine.signal(scene.bob.daemon(), signal.SIGKILL)
    at = time.monotonic()
    since = scene.ledger.wait_for("bob", "app")
    assert since - at < 8, "long before the lease ends"
    scene.ledger.wait_for("alice", "alice")
    wait_until(lambda: "orders-bob" not in scene.kubectl("get", "tpi", "-o", "name").stdout, 45)
    scene.check()
    made = scene.bob.intercept()
    assert "intercept" in made, made
    scene.everybody_has_theirs()


def test_who_loses_the_right_keeps_what_stands_and_gets_no_more(scene):
    scene.kubectl("delete", "rolebinding", scene.bob.binding)
    refused = scene.bob.intercept(name="another", headers=[("Coder", "bob2")])
    assert refused["code"] == 3, refused
    assert "bob may not" in refused["error"]
    scene.everybody_has_theirs()
    scene.check()


def test_a_selector_that_chooses_others(scene):
    scene.cluster.run_shop(scene.namespace, "other", replicas=2, env=SHOP)
    scene.patch("service", {"spec": {"selector": {"app": "other"}}})
    wait_until(
        lambda: (
            json.loads(scene.kubectl("get", "tpi", "orders-bob", "-o", "json").stdout)["status"]["redirected"]
            == "2/2"
        ),
        20,
    )
    scene.everybody_has_theirs()
    scene.check()
    last = [
        one.answered for one in scene.ledger.entries[-40:] if one.answered.startswith("app:") and not one.kept
    ]
    assert last
    assert all(answered.startswith("app:other-") for answered in last)
