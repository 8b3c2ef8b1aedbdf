"""The main cases where pods, services, nodes and laptops have IPv4 and IPv6."""

import json

import pytest
from agent_bed import Bed
from desk import Desk
from kubelab.tools import wait_until
from traces import traces


@pytest.fixture(scope="module")
def bed(dual_cluster):
    bed = Bed(dual_cluster)
    try:
        bed.start()
        yield bed
    finally:
        bed.close()


@pytest.fixture
def shop(dual_cluster, bed):
    """A namespace with a service of two replicas and both families."""
    with dual_cluster.namespace(wait=False) as name:
        dual_cluster.run_shop(name, "orders", replicas=2)
        both = {"spec": {"ipFamilyPolicy": "RequireDualStack"}}
        dual_cluster.kubectl("-n", name, "patch", "service", "orders", "--type=merge", "-p", json.dumps(both))
        for url in urls(dual_cluster, name):
            wait_until(lambda url=url: fetch(dual_cluster, url), 20, lambda url=url: f"{url} is served")
        yield name


@pytest.fixture
def desk(dual_cluster, shop):
    with Desk(dual_cluster, shop, "bob") as desk:
        desk.grant("--global")
        desk.serve(80)
        yield desk


def urls(cluster, namespace):
    """The service's addresses, IPv4 first."""
    spec = cluster.get(f"/api/v1/namespaces/{namespace}/services/orders")["spec"]
    addresses = sorted(spec["clusterIPs"], key=lambda one: ":" in one)
    return [f"http://[{one}]/api" if ":" in one else f"http://{one}/api" for one in addresses]


def fetch(cluster, url, *headers):
    words = [word for header in headers for word in ("-H", header)]
    return cluster.nodes[0].run("curl", "-s", "-g", "-m", "20", *words, url, check=False).stdout


def answered(cluster, namespace, *headers):
    """Who answers by each family: the developer's name, or ``pod``."""
    said = [fetch(cluster, url, *headers) for url in urls(cluster, namespace) for _ in range(5)]
    return {
        text.split("'")[0] if "'s laptop" in text else "pod" if '"pod"' in text else text for text in said
    }


def test_requests_of_both_families_are_taken_and_the_rest_is_not(dual_cluster, desk, shop):
    before = traces(*dual_cluster.nodes)
    said = desk.tpnet("intercept", "orders", "--http-header=Coder=Bob", "-n", shop).stdout
    assert "2/2 on 2 nodes redirected" in said
    assert answered(dual_cluster, shop, "Coder: Bob") == {"bob"}
    assert answered(dual_cluster, shop) == {"pod"}
    desk.tpnet("leave", "--all")
    assert answered(dual_cluster, shop, "Coder: Bob") == {"pod"}
    desk.tpnet("intercept", "orders", "--http-header=all", "-n", shop)
    assert answered(dual_cluster, shop) == {"bob"}
    desk.tpnet("leave", "--all")
    assert answered(dual_cluster, shop) == {"pod"}
    wait_until(lambda: traces(*dual_cluster.nodes) <= before, 20, lambda: "nothing of ours is left")


def test_the_app_sees_the_client_s_own_address_of_either_family(dual_cluster, desk, shop):
    desk.tpnet("intercept", "orders", "--http-header=Coder=Bob", "-n", shop)
    client, server = dual_cluster.pods(shop, "app=orders")
    name = client["metadata"]["name"]
    addresses = zip(client["status"]["podIPs"], server["status"]["podIPs"], strict=True)
    for own, other in ((one["ip"], two["ip"]) for one, two in addresses):
        host, peer = (f"[{other}]", f"[{own}]:") if ":" in own else (other, f"{own}:")
        done = dual_cluster.kubectl("exec", "-n", shop, name, "--", "/pod", "get", f"http://{host}:8080/")
        assert json.loads(done.stdout)["peer"].startswith(peer)
    desk.tpnet("leave", "--all")


def test_where_ipv4_does_not_reach_the_nodes_the_tunnel_takes_ipv6(dual_cluster, desk, shop):
    nodes = [dual_cluster.address(node) for node in dual_cluster.nodes]
    for address in nodes:
        desk.machine.run("ip", "route", "add", "blackhole", address)
    try:
        desk.tpnet("intercept", "orders", "--http-header=Coder=Bob", "-n", shop)
        wait_until(
            lambda: answered(dual_cluster, shop, "Coder: Bob") == {"bob"},
            10,
            lambda: desk.tpnet("status", "-n", shop).stdout,
        )
        status = desk.tpnet("status", "-n", shop, "-o", "wide").stdout
        assert status.count("udp fd30::") == 2 or status.count("udp [fd30::") == 2, status
    finally:
        for address in nodes:
            desk.machine.run("ip", "route", "del", "blackhole", address)
    desk.tpnet("leave", "--all")
