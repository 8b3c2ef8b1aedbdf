"""What tests do to a cluster: users, images, and parts that end and start again while pods keep running."""

import json
import time

import pytest
from kubelab import LabError
from kubelab.cluster import AGENT_IMAGE
from kubelab.network import API_PORT, CONTROL

POD = """
apiVersion: v1
kind: Pod
metadata: {name: big, namespace: %s}
spec:
  hostPID: true
  terminationGracePeriodSeconds: 1
  containers:
  - name: big
    image: "%s"
    imagePullPolicy: Never
    command: [python, -c, "import time; time.sleep(1000)"]
    securityContext: {capabilities: {add: [SYS_ADMIN, NET_ADMIN, SYS_PTRACE]}}
"""

PROCESSES = """
from pathlib import Path
print(Path("/etc/debian_version").read_text())
for folder in Path("/proc").glob("[0-9]*"):
    try:
        print((folder / "cmdline").read_text().replace("\\0", " "))
    except OSError:
        pass
"""
ENTER = """
import ctypes
with open("/proc/1/ns/net") as file:
    assert ctypes.CDLL(None).setns(file.fileno(), 0) == 0
print(open("/proc/thread-self/net/fib_trie").read())
"""


def restarts(cluster, namespace):
    return {
        pod["metadata"]["name"]: [c["restartCount"] for c in pod["status"]["containerStatuses"]]
        for pod in cluster.pods(namespace)
    }


def test_a_kubeconfig_speaks_for_any_user_from_a_laptop_and_from_the_tests(cluster):
    for at in ("laptop", "host"):
        config = cluster.kubeconfig("bob", ["dev", "ops"], at=at, namespace="shop")
        question = ["auth", "whoami", "-o", "json"]
        if at == "host":
            said = cluster.kubectl(*question, kubeconfig=config)
        else:
            said = cluster.laptops[0].run(
                cluster.programs / "kube", "kubectl", *question, env={"KUBECONFIG": config}
            )
        user = json.loads(said.stdout)["status"]["userInfo"]
        assert (user["username"], sorted(user["groups"])) == ("bob", ["dev", "ops", "system:authenticated"])
    with pytest.raises(LabError, match="Forbidden"):
        cluster.kubectl("get", "pods", "-n", "default", kubeconfig=config if at == "host" else None)


def test_an_expired_kubeconfig_is_refused(cluster):
    config = cluster.kubeconfig("bob", at="host", days=-1)
    with pytest.raises(LabError, match=r"Unauthorized|must be logged in|provide credentials"):
        cluster.kubectl("get", "pods", kubeconfig=config)


def test_exec_logs_and_port_forward_go_through_kubelet(cluster, namespace):
    cluster.run_shop(namespace, replicas=1)
    name = cluster.pods(namespace)[0]["metadata"]["name"]
    assert (
        name
        in cluster.kubectl(
            "exec", "-n", namespace, name, "--", "/pod", "get", "http://127.0.0.1:8080/"
        ).stdout
    )
    assert cluster.kubectl("logs", "-n", namespace, name).returncode == 0
    laptop = cluster.laptops[0]
    config = cluster.kubeconfig("admin", ["system:masters"])
    forward = laptop.service(
        "forward",
        cluster.programs / "kube",
        "kubectl",
        "port-forward",
        "-n",
        namespace,
        name,
        "8088:8080",
        env={"KUBECONFIG": config},
    )
    forward.start()
    try:
        curl = [
            "curl",
            "-sS",
            "-m",
            "5",
            "--retry",
            "20",
            "--retry-delay",
            "1",
            "--retry-connrefused",
            "http://127.0.0.1:8088/",
        ]
        assert json.loads(laptop.run(*curl).stdout)["pod"] == name
    finally:
        forward.stop()


@pytest.mark.slow
@pytest.mark.timeout(600, func_only=True)
def test_a_pod_of_the_agents_image_sees_its_nodes_processes_alone(cluster, namespace):
    cluster.load_agent_image()
    cluster.apply(POD % (namespace, AGENT_IMAGE))
    cluster.wait_ready(namespace, count=1)
    said = cluster.kubectl("exec", "-n", namespace, "big", "--", "python", "-c", PROCESSES).stdout
    assert said.startswith("12.")
    assert said.count("kubelet --config") == 1
    # What an agent does: another pod's namespace by the process's id. Here the first process of the node, and with it the node's.
    fib = cluster.kubectl("exec", "-n", namespace, "big", "--", "python", "-c", ENTER).stdout
    node = next(node for node in cluster.nodes if node.name == cluster.pods(namespace)[0]["spec"]["nodeName"])
    assert cluster.address(node) in fib


@pytest.mark.slow
def test_pods_keep_running_while_kubelet_containerd_and_the_api_server_are_away(cluster, namespace):
    cluster.run_shop(namespace, replicas=2)
    before = restarts(cluster, namespace)
    url = f"http://{cluster.service_ip(namespace, 'orders')}/"
    node = cluster.nodes[0]
    old = {name: cluster.service(node, name).pid for name in ("kubelet", "containerd")}
    cluster.restart_containerd(node)
    cluster.restart_kubelet(node)
    assert all(cluster.service(node, name).pid not in {None, pid} for name, pid in old.items())
    cluster.stop_api()
    try:
        with pytest.raises(LabError):
            cluster.get("/readyz")
        assert "orders" in node.run("curl", "-sS", "-m", "5", url).stdout
    finally:
        cluster.start_api()
    assert restarts(cluster, namespace) == before
    assert "orders" in node.run("curl", "-sS", "-m", "5", url).stdout


def test_a_pulled_cable_cuts_a_laptop_off_until_it_is_put_in_again(cluster):
    laptop = cluster.laptops[1]
    curl = ["curl", "-sk", "-m", "2", "-o", "/dev/null", f"https://{CONTROL}:{API_PORT}/version"]
    cluster.cable(laptop, plugged=False)
    try:
        assert laptop.run(*curl, check=False).returncode != 0
    finally:
        cluster.cable(laptop, plugged=True)
    laptop.run(*curl, "--retry", "5", "--retry-all-errors")


def test_a_slow_answer_takes_its_time_and_readiness_can_be_taken_away(cluster, namespace):
    cluster.run_shop(namespace, replicas=1)
    address = cluster.pods(namespace)[0]["status"]["podIP"]
    node = cluster.nodes[0]
    began = time.monotonic()
    node.run("curl", "-sS", f"http://{address}:8080/slow?s=0.5")
    assert time.monotonic() - began >= 0.5
    assert len(node.run("curl", "-sS", f"http://{address}:8080/bytes?n=100000").stdout) == 100000
    node.run("curl", "-sS", "-X", "PUT", f"http://{address}:8080/ready?ok=false")
    assert (
        node.run(
            "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", f"http://{address}:8080/ready"
        ).stdout
        == "503"
    )
