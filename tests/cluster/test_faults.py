"""What breaks in a cluster, with 100 requests a second running, and two developers on one service all the while.

No request may fail that would not have failed without tpnet, and none may go to the wrong developer.
"""

import contextlib
import json
import signal
import time

import pytest
from agent_bed import Bed
from kubelab import tools
from ledger import Ledger
from person import Person

from tpnet.datapath.netns import NetNs

SHOP = {"TERMINATION_DELAY": "3s"}


def wait_until(condition, seconds, why=lambda: "it did not happen"):
    tools.wait_until(condition, seconds, why)


@pytest.fixture(scope="module")
def bed(cluster):
    bed = Bed(cluster)
    try:
        bed.start()
        yield bed
    finally:
        bed.close()


@pytest.fixture
def scene(cluster, bed, namespace):
    """A shop of four replicas, bob and alice who intercept it, and the load, which runs."""
    made = Scene(cluster, bed, namespace)
    try:
        made.begin()
        yield made
    finally:
        made.close()


class Scene:
    def __init__(self, cluster, bed, namespace):
        self.cluster, self.bed, self.namespace = cluster, bed, namespace
        self._stack = contextlib.ExitStack()

    def begin(self):
        self.cluster.run_shop(self.namespace, "orders", replicas=4, env=SHOP)
        self.bob = Person(self.cluster, self.namespace, "bob", 0)
        self._stack.callback(self.bob.close)
        self.alice = Person(self.cluster, self.namespace, "alice", 1)
        self._stack.callback(self.alice.close)
        for person in (self.bob, self.alice):
            made = person.intercept()
            assert "intercept" in made, made
        self.settled(4)
        self.netns = self._stack.enter_context(NetNs.from_name(self.cluster.nodes[0].netns))
        self.ledger = self._stack.enter_context(self.load())
        for who in ("bob", "alice"):
            self.ledger.wait_for(who, who)
        self.ledger.wait_for("", "app")

    def load(self):
        address = self.cluster.service_ip(self.namespace, "orders")
        return Ledger(self.netns, (address, 80), ("bob", "alice"))

    def kubectl(self, *argv):
        return self.cluster.kubectl("-n", self.namespace, *argv)

    def patch(self, kind, change):
        self.kubectl("patch", kind, "orders", "--type=merge", "-p", json.dumps(change))

    def scale(self, replicas, seconds=40):
        self.kubectl("scale", "deployment", "orders", f"--replicas={replicas}")
        if replicas:
            self.settled(replicas, seconds)

    def settled(self, replicas, seconds=40):
        """Wait until exactly so many replicas are there, and redirected."""

        def there():
            deployment = json.loads(self.kubectl("get", "deployment", "orders", "-o", "json").stdout)[
                "status"
            ]
            tpi = json.loads(self.kubectl("get", "tpi", "orders-bob", "-o", "json").stdout)["status"]
            return (
                deployment.get("readyReplicas") == deployment.get("replicas") == replicas
                and tpi.get("redirected") == f"{replicas}/{replicas}"
            )

        wait_until(there, seconds, lambda: self.kubectl("get", "tpi,pods", "-o", "wide").stdout)

    def everybody_has_theirs(self):
        for who in ("bob", "alice"):
            self.ledger.wait_for(who, who)
        self.ledger.wait_for("", "app")

    def check(self, *, closed=True):
        """The ledger's word so far."""
        assert self.ledger.strays() == []
        assert self.ledger.errors() == []
        if not closed:
            assert self.ledger.closed() == []

    def close(self):
        self._stack.close()


def test_a_rollout_goes_by_unnoticed(scene):
    for version in "23":
        scene.kubectl("set", "env", "deployment/orders", f"VERSION={version}")
        scene.kubectl("rollout", "status", "deployment/orders", "--timeout=60s")
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
    assert again.strays() == again.errors() == []


def test_a_container_that_dies_and_a_pod_that_is_deleted(scene):
    pods = scene.cluster.pods(scene.namespace, "app=orders")
    began = time.monotonic()
    scene.kubectl("delete", "pod", pods[0]["metadata"]["name"])
    scene.settled(4)
    scene.everybody_has_theirs()
    assert scene.ledger.errors(began) == []
    assert scene.ledger.strays() == []


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
    wait_until(lambda: len(scene.ledger.entries) and time.monotonic() - began > 3, 5)
    assert scene.ledger.strays() == []
    broken = [one for one in scene.ledger.errors(began - 0.5) if "Reset" not in one.error]
    assert broken == []
    assert len(scene.ledger.errors(began - 0.5)) <= 10
    assert scene.ledger.errors(began + 1.0) == []
    bed.start(node)
    scene.everybody_has_theirs()
    assert scene.ledger.errors(began + 1.0) == []


@pytest.mark.timeout(300)
def test_the_api_server_is_away_for_two_minutes(scene):
    began = time.monotonic()
    scene.cluster.stop_api()
    try:
        while time.monotonic() - began < 120:
            time.sleep(10)
            scene.everybody_has_theirs()
    finally:
        scene.cluster.start_api()
    scene.everybody_has_theirs()
    scene.check(closed=False)
    scene.scale(6, seconds=120)  # the controllers take their time until they believe it
    scene.everybody_has_theirs()


def test_a_laptop_whose_daemon_is_killed_is_not_missed(scene):
    scene.bob.machine.signal(scene.bob.daemon(), signal.SIGKILL)
    at = time.monotonic()
    since = scene.ledger.wait_for("bob", "app")
    assert since - at < 3.5
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
