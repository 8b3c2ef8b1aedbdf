"""Who reaches whom in the lab, and as whom: the ground that the tests of intercepts stand on."""

import json

import pytest
from kubelab import LabError
from kubelab.network import API_PORT, CONTROL


def fetch(machine, url, *options):
    return json.loads(machine.run("curl", "-sS", "-m", "20", *options, url).stdout)


def from_pod(cluster, namespace, pod, url):
    return json.loads(cluster.kubectl("exec", "-n", namespace, pod, "--", "/pod", "get", url).stdout)


def test_pods_see_each_other_by_their_own_addresses_on_all_ports(cluster, namespace):
    cluster.run_shop(namespace, replicas=4, ports=(8080, 9090))
    pods = cluster.pods(namespace)
    assert {pod["spec"]["nodeName"] for pod in pods} == {"n1", "n2"}
    client = pods[0]
    for server in pods[1:]:
        for port in (8080, 9090):
            said = from_pod(
                cluster,
                namespace,
                client["metadata"]["name"],
                f"http://{server['status']['podIP']}:{port}/a?b=c",
            )
            assert said["pod"] == server["metadata"]["name"]
            assert said["node"] == server["spec"]["nodeName"]
            assert said["peer"].startswith(client["status"]["podIP"] + ":")
            assert (said["path"], said["query"]) == ("/a", "b=c")


def test_a_service_reaches_every_pod_from_nodes_and_pods(cluster, namespace):
    cluster.run_shop(namespace, replicas=2)
    url = f"http://{cluster.service_ip(namespace, 'orders')}/"
    names = {pod["metadata"]["name"] for pod in cluster.pods(namespace)}
    assert {fetch(cluster.nodes[0], url)["pod"] for _ in range(30)} == names
    client = next(iter(names))
    assert {from_pod(cluster, namespace, client, url)["pod"] for _ in range(15)} == names


def test_laptops_reach_the_api_server_and_nodes_but_no_pod_and_no_service(cluster, namespace):
    cluster.run_shop(namespace, replicas=1)
    laptop, node = cluster.laptops[0], cluster.nodes[1]
    assert fetch(laptop, f"https://{CONTROL}:{API_PORT}/version", "--cacert", cluster.pki / "ca.crt")[
        "gitVersion"
    ].startswith("v1.")
    node.service("hello", cluster.programs / "pod", "serve", "-ports", "8099").start()
    try:
        said = fetch(laptop, f"http://{cluster.address(node)}:8099/", "--retry", "5", "--retry-connrefused")
    finally:
        node.service("hello").stop()
    assert said["peer"].startswith(cluster.address(laptop) + ":")
    for address in (cluster.pods(namespace)[0]["status"]["podIP"], cluster.service_ip(namespace, "orders")):
        with pytest.raises(LabError, match="curl"):
            fetch(laptop, f"http://{address}:8080/", "-m", "5")


def test_a_host_port_over_udp_reaches_its_pod_from_a_laptop(cluster, namespace):
    node, laptop = cluster.nodes[0], cluster.laptops[0]
    container = {
        "name": "echo",
        "image": "localhost/shop:1",
        "imagePullPolicy": "Never",
        "ports": [
            {"containerPort": 8080, "hostPort": 21999, "protocol": "TCP"},
            {"containerPort": 7, "hostPort": 21998, "protocol": "UDP"},
        ],
    }
    spec = {"nodeName": node.name, "containers": [container]}
    cluster.api("POST", f"/api/v1/namespaces/{namespace}/pods", {"metadata": {"name": "echo"}, "spec": spec})
    cluster.wait_ready(namespace, count=1)
    said = fetch(laptop, f"http://{cluster.address(node)}:21999/")
    assert said["pod"] == "echo"
    assert said["peer"].startswith(cluster.address(laptop) + ":")
    rules = node.run("iptables-save", "-t", "nat").stdout
    assert "-p udp -m udp --dport 21998 -j DNAT" in rules


@pytest.mark.slow
def test_with_two_families_pods_services_and_laptops_have_both(dual_cluster):
    cluster = dual_cluster
    with cluster.namespace() as namespace:
        cluster.run_shop(namespace, replicas=2)
        spec = {
            "selector": {"app": "orders"},
            "ipFamilies": ["IPv6", "IPv4"],
            "ipFamilyPolicy": "RequireDualStack",
            "ports": [{"port": 80, "targetPort": 8080}],
        }
        cluster.api(
            "POST", f"/api/v1/namespaces/{namespace}/services", {"metadata": {"name": "both"}, "spec": spec}
        )
        cluster.wait_served(namespace, "both")
        client, server = cluster.pods(namespace)
        four, six = (entry["ip"] for entry in server["status"]["podIPs"])
        assert (":" in four, ":" in six) == (False, True)
        name = client["metadata"]["name"]
        assert from_pod(cluster, namespace, name, f"http://[{six}]:8080/")["peer"].startswith(
            f"[{client['status']['podIPs'][1]['ip']}]:"
        )
        assert from_pod(cluster, namespace, name, f"http://{four}:8080/")["pod"] == server["metadata"]["name"]
        addresses = cluster.get(f"/api/v1/namespaces/{namespace}/services/both")["spec"]["clusterIPs"]
        for host in (f"[{addresses[0]}]", addresses[1]):
            assert fetch(cluster.nodes[0], f"http://{host}/")["pod"].startswith("orders-")
    laptop = cluster.laptops[0]
    url = f"https://[fd30::1]:{API_PORT}/version"
    assert fetch(laptop, url, "--cacert", cluster.pki / "ca.crt")["major"] == "1"
