"""Agents on the lab's nodes: whatever happens in the cluster, requests reach whom they are for."""

import contextlib
import json
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from agent_bed import (
    AGENTS,
    ENV,
    INTERCEPTS,
    SESSIONS,
    Developer,
    ask,
    condition,
    state,
    until,
    wait_for,
)
from kubelab.tools import LabError

from tpnet.control.kubernetes.convert import to_api
from tpnet.model import HeaderRule
from tpnet.rules.sealed import mark, sealed


@pytest.fixture(autouse=True)
def all_agents_run(bed):
    """A test that fails may leave a node without one; the next tests are not to fail for that."""
    if missing := [node for node in bed.cluster.nodes if not bed.services[node.name].pid]:
        bed.start(*missing)


@pytest.fixture
def developer(bed):
    """``developer(user)`` has a laptop and may make intercepts."""
    made = []

    def make(user="bob", laptop=0, **more):
        bed.allow(user)
        made.append(Developer(bed, user, laptop, **more))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def intercepted(cluster, namespace, name, seconds=40):
    """Wait until every endpoint is redirected and every node that has one hears the session."""
    until(cluster, namespace, name, "Redirected", seconds=seconds)

    def heard():
        parts = state(cluster, namespace, name).get("nodes")  # none yet, for a moment
        return bool(parts) and all(part.get("sessionUp") for part in parts)

    wait_for(lambda: str(state(cluster, namespace, name)), heard, seconds)
    return state(cluster, namespace, name)


def all_answer(cluster, url, *headers, who, times=8):
    """Wait until so many requests in a row are all answered by ``who``: kube-proxy may not know yet which pods have gone."""

    def they_do():
        with contextlib.suppress(LabError):
            return {ask(cluster, url, *headers) for _ in range(times)} == {who}
        return False

    wait_for(f"{who} answers", they_do, 20)


def url_of(cluster, namespace, name="orders", port=80):
    return f"http://{cluster.service_ip(namespace, name)}:{port}/"


def test_requests_of_a_service_reach_the_developer_from_every_replica_through_scaling(
    cluster, bed, namespace, developer
):
    cluster.run_shop(namespace, "orders", replicas=2)
    bob = developer()
    bob.intercept(namespace, "orders-bob")
    status = intercepted(cluster, namespace, "orders-bob")
    assert status["redirected"] == "2/2"
    assert status["requests"] == f"Coder: #{mark(b'bob')}"
    assert "Coder: bob" not in cluster.kubectl("-n", namespace, "get", "tpi", "-o", "wide").stdout
    assert status["observedGeneration"] == 1
    assert condition(status, "Accepted")["status"] == "True"
    url = url_of(cluster, namespace)
    for replicas in (6, 1):
        cluster.kubectl("-n", namespace, "scale", "deploy/orders", f"--replicas={replicas}")
        cluster.wait_ready(namespace, "app=orders", replicas)

        def settled(replicas=replicas):
            if len(cluster.pods(namespace, "app=orders")) != replicas:
                return False  # some are still on their way out, and kube-proxy may not know yet
            return state(cluster, namespace, "orders-bob")["redirected"] == f"{replicas}/{replicas}"

        wait_for(lambda: str(state(cluster, namespace, "orders-bob")), settled, 20)
        assert condition(state(cluster, namespace, "orders-bob"))["status"] == "True"
        all_answer(cluster, url, "Coder: bob", who="bob")
        assert ask(cluster, url).startswith("orders-")
    # A node that has no endpoint any more takes its part back.
    wait_for("a node takes its part back", lambda: len(state(cluster, namespace, "orders-bob")["nodes"]) == 1)
    cluster.kubectl("-n", namespace, "scale", "deploy/orders", "--replicas=0")
    until(cluster, namespace, "orders-bob", "NoEndpoints", seconds=40)
    bob.leave(namespace, "orders-bob")
    for node in cluster.nodes:
        wait_for("targets are given back", lambda node=node: not bed.status(node)["targets"])


def test_a_container_that_is_killed_comes_back_redirected(cluster, bed, namespace, developer):
    cluster.run_shop(namespace, "orders", replicas=1)
    bob = developer()
    bob.intercept(namespace, "orders-bob")
    intercepted(cluster, namespace, "orders-bob")
    url = url_of(cluster, namespace)
    (pod,) = cluster.pods(namespace, "app=orders")
    uid = pod["metadata"]["uid"]
    node = next(one for one in cluster.nodes if one.name == pod["spec"]["nodeName"])
    assert f"pod/{uid}" in {target["name"] for target in bed.status(node)["targets"]}
    node.shell(
        "for p in /proc/[0-9]*; do if grep -q " + uid + " $p/cgroup 2>/dev/null || grep -q "
        + uid.replace("-", "_") + " $p/cgroup 2>/dev/null; then"
        " case $(tr '\\0' ' ' < $p/cmdline) in *pause*) ;; *) kill -9 ${p#/proc/} ;; esac; fi; done"
    )  # fmt: skip

    def restarted():
        (pod,) = cluster.pods(namespace, "app=orders")
        return pod["status"]["containerStatuses"][0]["restartCount"] == 1

    wait_for("the container restarts", restarted, 30)
    cluster.wait_ready(namespace, "app=orders", 1)
    cluster.wait_served(namespace, "orders")
    intercepted(cluster, namespace, "orders-bob")
    assert ask(cluster, url, "Coder: bob") == "bob"
    assert f"pod/{uid}" in {target["name"] for target in bed.status(node)["targets"]}


def test_of_two_made_in_the_same_instant_exactly_one_wins_and_the_other_takes_over(
    cluster, bed, namespace, developer
):
    cluster.run_shop(namespace, "orders", replicas=4)
    people = [developer("bob", 0), developer("dave", 1)]
    rules = [{"name": "Coder", "value": "x"}]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda one: one.intercept(namespace, f"orders-{one.user}", headers=rules), people))

    def reasons():
        return sorted(
            condition(state(cluster, namespace, f"orders-{one.user}"), "Accepted")["reason"] for one in people
        )

    wait_for(lambda: str(reasons()), lambda: reasons() == ["Accepted", "Conflict"], 30)
    accepted = [
        condition(state(cluster, namespace, f"orders-{one.user}"), "Accepted")["status"] for one in people
    ]
    winner, loser = people if accepted[0] == "True" else people[::-1]
    said = condition(state(cluster, namespace, f"orders-{loser.user}"), "Accepted")["message"]
    assert said == (
        f"{winner.user}'s intercept {namespace}/orders-{winner.user}, which is older, already takes requests"
        f" with Coder: #{mark(b'x')}."
    )
    intercepted(cluster, namespace, f"orders-{winner.user}")
    url = url_of(cluster, namespace)
    all_answer(cluster, url, "Coder: x", who=winner.user)
    winner.leave(namespace, f"orders-{winner.user}")
    intercepted(cluster, namespace, f"orders-{loser.user}")
    all_answer(cluster, url, "Coder: x", who=loser.user)


def test_who_copies_a_digest_gets_nothing_while_its_owner_is_there_and_afterwards(
    cluster, bed, namespace, developer
):
    cluster.run_shop(namespace, "orders", replicas=2)
    bob, dave = developer("bob", 0), developer("dave", 1)
    own = HeaderRule("x-tpnet-intercept-id", "6f1c" * 8)
    rules, header = [to_api(sealed(own, bob.user))], f"{own.name}: {own.value}"
    url = url_of(cluster, namespace)
    dave.intercept(namespace, "orders-dave", headers=rules)  # as he might have seen it yesterday
    intercepted(cluster, namespace, "orders-dave")
    assert all(ask(cluster, url, header).startswith("orders-") for _ in range(8))
    bob.intercept(namespace, "orders-bob", headers=rules)
    status = intercepted(cluster, namespace, "orders-bob")
    assert status["requests"] == f"{own.name}: #{mark(own.value.encode())}"
    all_answer(cluster, url, header, who="bob")
    bob.leave(namespace, "orders-bob")
    wait_for("the app answers", lambda: ask(cluster, url, header) != "bob", 5)
    assert all(ask(cluster, url, header).startswith("orders-") for _ in range(8))
    everything = cluster.kubectl("-n", namespace, "get", "tpi", "-o", "yaml").stdout
    assert own.value not in everything


def test_a_session_that_is_removed_ends_although_its_computer_goes_on(cluster, bed, namespace, developer):
    cluster.run_shop(namespace, "orders", replicas=2)
    bob = developer()
    bob.intercept(namespace, "orders-bob")
    intercepted(cluster, namespace, "orders-bob")
    url = url_of(cluster, namespace)
    assert ask(cluster, url, "Coder: bob") == "bob"
    bob.renew_no_more()
    cluster.api("DELETE", f"{SESSIONS}/{bob.session}")
    status = until(cluster, namespace, "orders-bob", "SessionGone", seconds=90)
    assert condition(status)["message"] == f"There is no session {bob.session}: it has ended."
    wait_for(
        "the app answers",
        lambda: all(ask(cluster, url, "Coder: bob").startswith("orders-") for _ in range(8)),
        20,
    )


def test_a_computer_that_is_switched_off_loses_its_session_and_intercepts(cluster, bed, namespace, developer):
    cluster.run_shop(namespace, "orders", replicas=2)
    bob, dave = developer("bob", 0), developer("dave", 1)
    bob.intercept(namespace, "orders-bob")
    dave.intercept(namespace, "orders-dave", headers=[])
    bed.cluster.kubectl("-n", namespace, "get", "tpi")
    intercepted(cluster, namespace, "orders-bob")
    intercepted(cluster, namespace, "orders-dave")
    url = url_of(cluster, namespace)
    assert (ask(cluster, url, "Coder: bob"), ask(cluster, url)) == ("bob", "dave")
    bob.stop()
    wait_for("the app answers", lambda: ask(cluster, url, "Coder: bob") != "bob", 5)

    def dropped():
        left = cluster.get(INTERCEPTS.format(namespace))["items"]
        sessions = {item["metadata"]["name"] for item in cluster.get(SESSIONS)["items"]}
        return [item["metadata"]["name"] for item in left] == ["orders-dave"] and bob.session not in sessions

    wait_for("session and intercept are gone", dropped, 40)
    assert ask(cluster, url, "Coder: bob") == "dave"


def test_ports_by_name_and_number_of_workloads_and_pods(cluster, bed, namespace, developer):
    cluster.run_shop(namespace, "orders", replicas=2, ports=(8080, 9090), service_ports={80: 8080, 81: 9090})
    bob = developer()
    rules = {name: [{"name": "Coder", "value": name}] for name in ("svc", "deploy", "pod")}
    bob.intercept(namespace, "svc", headers=rules["svc"], port=81)
    bob.intercept(namespace, "which", headers=rules["svc"])
    bob.intercept(namespace, "deploy", "Deployment/orders", headers=rules["deploy"], port=8080)
    pod = cluster.pods(namespace, "app=orders")[0]["metadata"]["name"]
    bob.intercept(namespace, "pod", f"Pod/{pod}", headers=rules["pod"], port=9090)
    bob.intercept(namespace, "silent", "Deployment/orders", headers=rules["pod"], port=9999)
    bob.intercept(namespace, "none", "Service/nobody")
    for name, redirected in (("svc", "2/2"), ("deploy", "2/2"), ("pod", "1/1")):
        assert intercepted(cluster, namespace, name)["redirected"] == redirected
    assert {ask(cluster, url_of(cluster, namespace, port=81), "Coder: svc") for _ in range(6)} == {"bob"}
    assert ask(cluster, url_of(cluster, namespace), "Coder: svc") != "bob"
    assert {ask(cluster, url_of(cluster, namespace), "Coder: deploy") for _ in range(6)} == {"bob"}
    assert {ask(cluster, url_of(cluster, namespace, port=81), "Coder: pod") for _ in range(12)} == {"bob", *(
        one["metadata"]["name"] for one in cluster.pods(namespace, "app=orders") if one["metadata"]["name"] != pod
    )}  # fmt: skip
    until(cluster, namespace, "silent", "NotListening")
    said = condition(until(cluster, namespace, "which", "NoEndpoints"))["message"]
    assert said.startswith("Which port of Service orders is meant? It has ")
    said = condition(until(cluster, namespace, "none", "NoEndpoints"))["message"]
    assert said == f"There is no Service nobody in {namespace}."


def test_a_selector_that_changes_is_followed(cluster, bed, namespace, developer):
    cluster.run_shop(namespace, "orders", replicas=1)
    cluster.run_shop(namespace, "blue", replicas=1)
    bob = developer()
    bob.intercept(namespace, "orders-bob")
    intercepted(cluster, namespace, "orders-bob")
    patch = json.dumps({"spec": {"selector": {"app": "blue"}}})
    cluster.kubectl("-n", namespace, "patch", "service", "orders", "-p", patch)

    def moved():
        status = state(cluster, namespace, "orders-bob")
        ends = [end for part in status.get("nodes", ()) for end in part.get("endpoints", ())]
        return condition(status)["status"] == "True" and [end["pod"][:4] for end in ends] == ["blue"]

    wait_for(lambda: str(state(cluster, namespace, "orders-bob")), moved, 10)
    blue = url_of(cluster, namespace, "blue")
    wait_for("bob answers", lambda: ask(cluster, blue, "Coder: bob") == "bob", 5)


def test_the_api_server_away_changes_nothing_for_requests(cluster, bed, namespace, developer):
    cluster.run_shop(namespace, "orders", replicas=2)
    bob = developer()
    bob.intercept(namespace, "orders-bob")
    intercepted(cluster, namespace, "orders-bob")
    url = url_of(cluster, namespace)
    cluster.stop_api()
    try:
        until_then = time.monotonic() + 8  # longer than the lease
        while time.monotonic() < until_then:
            assert ask(cluster, url, "Coder: bob") == "bob"
            assert ask(cluster, url).startswith("orders-")
            time.sleep(0.2)
    finally:
        cluster.start_api()
        bed.caught_up()
    back = time.monotonic()
    cluster.kubectl("-n", namespace, "scale", "deploy/orders", "--replicas=4")
    cluster.wait_ready(namespace, "app=orders", 4)
    ready = time.monotonic()

    def settled():
        return state(cluster, namespace, "orders-bob")["redirected"] == "4/4"

    wait_for(lambda: str(state(cluster, namespace, "orders-bob")), settled, 40)
    print(f"ready after {ready - back:.1f} s, redirected after {time.monotonic() - back:.1f} s")
    all_answer(cluster, url, "Coder: bob", who="bob")


def test_an_agent_that_ends_says_so_and_one_that_is_killed_comes_back(cluster, bed, namespace, developer):
    cluster.run_shop(namespace, "orders", replicas=2)
    bob = developer()
    bob.intercept(namespace, "orders-bob")
    intercepted(cluster, namespace, "orders-bob")
    url = url_of(cluster, namespace)
    node = cluster.nodes[0]
    service = bed.services[node.name]
    # SIGTERM, with a request under way that takes two seconds.
    with ThreadPoolExecutor() as pool:
        slow = [pool.submit(ask, cluster, url + "slow?s=2", node=1) for _ in range(4)]
        time.sleep(0.7)
        bed.stop(node)
        assert all(one.result().startswith("orders-") for one in slow)
    assert "ended" in service.log.read_text()
    assert [item["metadata"]["name"] for item in cluster.get(AGENTS)["items"]] == ["n2"]
    status = until(cluster, namespace, "orders-bob", "Partly")
    assert status["redirected"] == "1/2"
    assert {ask(cluster, url).startswith("orders-") for _ in range(6)} == {True}
    took = bed.start(node)
    intercepted(cluster, namespace, "orders-bob")
    service.machine.signal(service.pid, signal.SIGKILL)
    wait_for("it is gone", lambda: not service.pid, 5)  # a connection of this very moment may be reset
    assert {ask(cluster, url).startswith("orders-") for _ in range(6)} == {True}
    bed.start(node)
    # The status is of the one that was killed, for an instant.
    all_answer(cluster, url, "Coder: bob", who="bob")
    intercepted(cluster, namespace, "orders-bob")
    print(f"an agent starts in {took:.1f} s")


def test_what_an_idle_agent_takes(cluster, bed):
    node = cluster.nodes[0]
    code = (
        "import os,re,sys\n"
        "root=int(sys.argv[1]); kids={}\n"
        "for p in filter(str.isdigit, os.listdir('/proc')):\n"
        "    try: kids.setdefault(int(open(f'/proc/{p}/stat').read().rpartition(')')[2].split()[1]),[]).append(int(p))\n"
        "    except OSError: pass\n"
        "todo,total=[root],0\n"
        "while todo:\n"
        "    p=todo.pop(); todo+=kids.get(p,[])\n"
        "    pss=int(re.search(r'Pss:\\s+(\\d+)',open(f'/proc/{p}/smaps_rollup').read())[1]); total+=pss\n"
        "    print(pss, open(f'/proc/{p}/cmdline').read().replace(chr(0),' ')[:80])\n"
        "print('total',total)\n"
    )
    pid = bed.services[node.name].pid
    said = node.run("python3", "-c", code, str(pid), env=ENV).stdout
    print(said)
    assert int(re.search(r"total (\d+)", said)[1]) < 130_000  # KiB; the goal is 100 MB
