"""The agents as an administrator installs them: the image, as pods of a DaemonSet, that are replaced under load."""

import errno
import json
import re
from pathlib import Path

import pytest
from desk import admin
from kubelab.cluster import AGENT_IMAGE
from kubelab.tools import wait_until
from scene import Scene

from tpnet.kernel.uids import WORKER_UIDS

ESCAPES = Path(__file__).parent.parent / "shared" / "escapes.py"
NEXT = "localhost/tpnet-agent:next"
# KILL, SETGID, SETUID, SETPCAP, NET_ADMIN, SYS_CHROOT, SYS_PTRACE, SYS_ADMIN: include/uapi/linux/capability.h
CAPABILITIES = sum(1 << number for number in (5, 6, 7, 8, 12, 18, 19, 21))
PODS = "/api/v1/namespaces/tpnet/pods?labelSelector=app.kubernetes.io/name=tpnet-agent"


@pytest.fixture(scope="module")
def image(cluster):
    """The image, on all nodes, under two names."""
    cluster.load_agent_image()
    for node in cluster.nodes:
        node.run("ctr", "-n", "k8s.io", "images", "tag", "--force", AGENT_IMAGE, NEXT)


@pytest.fixture
def installed(cluster, image):
    admin(cluster, "install")
    # As it comes, kept connections that are never idle have fifty seconds when an agent ends. Five will do here.
    cluster.kubectl("-n", "tpnet", "set", "env", "daemonset/tpnet-agent", "TPNET_END_SECONDS=5")
    admin(cluster, "install", "--wait")
    yield
    admin(cluster, "uninstall", "--yes")


@pytest.fixture
def scene(cluster, installed, namespace):
    with Scene(cluster, namespace) as made:
        yield made


def agents(cluster):
    """The names of the agents' pods that are there and Ready, by node."""
    return {
        pod["spec"]["nodeName"]: pod["metadata"]["name"]
        for pod in cluster.get(PODS)["items"]
        if "deletionTimestamp" not in pod["metadata"]
        and any(
            one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ())
        )
    }


def ours(node):
    """The status files of the agent's processes in its container on a node, by what they are."""
    found = {}
    for folder in node.proc.glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"/opt/tpnet" in b" ".join(words[:2]):
                text = (folder / "status").read_text()
                found[" ".join(word.decode() for word in words)] = dict(
                    re.findall(r"^(\w+):[ \t]*(.*)$", text, re.MULTILINE)
                )
        except OSError:
            continue  # it has ended
    return found


@pytest.mark.timeout(900)
def test_agents_hold_no_more_than_they_need(scene):
    for node in scene.cluster.nodes:
        processes = ours(node)
        assert len(processes) >= 2, processes
        rights = {words: int(status["CapEff"], 16) for words, status in processes.items()}
        assert all(bits & ~CAPABILITIES == 0 for bits in rights.values()), rights
        (worker,) = [status for words, status in processes.items() if "worker" in words]
        assert int(worker["CapPrm"], 16) == int(worker["CapBnd"], 16) == 0
        assert worker["NoNewPrivs"] == "1"
        assert int(worker["Uid"].split()[0]) in WORKER_UIDS
        for device in (status for words, status in processes.items() if "wireguard-go" in words):
            assert int(device["CapPrm"], 16) == int(device["CapBnd"], 16) == 0
            assert int(device["Uid"].split()[0]) in WORKER_UIDS
    scene.check()


# Runs the tests' escapes in the place of a worker: started as the supervisor starts one, within the agent's container.
IN_ITS_PLACE = """
import os, subprocess, sys
from tpnet.kernel.namespaces import child_apart
os.environ["ESCAPE_TO"] = sys.argv.pop(1)
with child_apart():
    done = subprocess.run([sys.executable, "-", *sys.argv[1:]], input=sys.stdin.read(), text=True, check=False)
sys.exit(done.returncode)
"""
NO_FILTER = "from tpnet.kernel import seccomp; seccomp.install = lambda program: None; TRIES.clear()"
PYTHON = "/opt/tpnet/bin/python"


@pytest.mark.timeout(900)
def test_there_is_no_way_out_of_the_worker_s_place(scene):
    cluster = scene.cluster
    pods = cluster.get(f"/api/v1/namespaces/{scene.namespace}/pods")["items"]
    reach = [
        f"{cluster.service_ip('default', 'kubernetes')}:443",
        f"{cluster.address(cluster.nodes[0])}:10250",
    ]
    reach += [
        f"{pod['status']['podIP']}:{port['containerPort']}"
        for pod in pods
        for container in pod["spec"]["containers"]
        for port in container.get("ports", ())
    ]

    def tried(before=""):
        agent = agents(cluster)["n1"]
        said = cluster.kubectl(
            *("-n", "tpnet", "exec", "-i", agent, "--", PYTHON, "-c", IN_ITS_PLACE),
            *(",".join(reach), str(WORKER_UIDS[0]), before),
            stdin=ESCAPES.read_text(),
        )
        return json.loads(said.stdout)

    found = tried()
    assert len(found["tries"]) > 70
    assert {name: said for name, said in found["tries"].items() if said != errno.EPERM} == {}
    assert found["files"] == found["after"] == []
    assert len(reach) > 2
    assert sorted(found["before"]) == sorted(reach), "what the agent reaches: API server, kubelet and pods"
    assert found["works"] == ["accepted", "answered", "epoll", "spliced"]
    unfiltered = tried(NO_FILTER)
    assert unfiltered["root"] == unfiltered["after"] == []
    assert set(unfiltered["files"]) == {"/", ".", ".."}, "the folder itself, to look at"
    assert unfiltered["files"].count("/") == 2, "not to write to"


@pytest.mark.timeout(900)
def test_the_worker_itself_is_shut_off(scene):
    for node in scene.cluster.nodes:
        (pid,) = [status["Pid"] for words, status in ours(node).items() if "tpnet.proxy.worker" in words]
        mounted = (node.proc / pid / "mountinfo").read_text().splitlines()
        assert len(mounted) == 1
        assert {"ro", "nosuid", "nodev", "noexec"} <= set(mounted[0].split()[5].split(","))
        assert list((node.proc / pid / "root").iterdir()) == []
        status = (node.proc / pid / "status").read_text()
        assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)
        assert re.search(r"^NSpid:.*\s1$", status, re.MULTILINE)
        assert len((node.proc / pid / "net" / "dev").read_text().splitlines()) == 3, (
            "lo alone, under two lines of titles"
        )
        limits = (node.proc / pid / "limits").read_text()
        for name in ("processes", "file size", "core file size"):
            assert re.search(rf"^Max {name}\s+0\s+0\s", limits, re.MULTILINE), name
        assert (node.proc / pid / "environ").read_bytes().count(b"TPNET") == 0
    scene.check()


@pytest.mark.timeout(900)
def test_an_agent_s_pod_is_deleted(scene):
    before = agents(scene.cluster)
    scene.cluster.kubectl("-n", "tpnet", "delete", "pod", before["n1"])
    wait_until(lambda: agents(scene.cluster).keys() == before.keys(), 60, lambda: "an agent in its place")
    assert agents(scene.cluster)["n1"] != before["n1"]
    scene.settled(4)
    scene.everybody_has_theirs()
    scene.check()


@pytest.mark.timeout(900)
def test_the_agents_are_upgraded_one_after_the_other(scene):
    before = agents(scene.cluster)
    said = json.loads(admin(scene.cluster, "upgrade", "--image", NEXT, "--wait", "-o", "json").stdout)
    assert {step["what"] for step in said["steps"] if step["change"] != "unchanged"} == {
        "DaemonSet tpnet/tpnet-agent"
    }
    after = agents(scene.cluster)
    assert before.keys() == after.keys()
    assert not set(before.values()) & set(after.values())
    scene.settled(4)
    scene.everybody_has_theirs()
    scene.check()


@pytest.mark.timeout(900)
def test_what_is_uninstalled_leaves_nothing(scene):
    assert "tpnet is gone" in admin(scene.cluster, "uninstall", "--yes").stdout
    scene.ledger.wait_for("bob", "app")
    scene.ledger.wait_for("alice", "app")
    scene.check()
    crds = scene.cluster.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")["items"]
    assert [one["metadata"]["name"] for one in crds if "tpnet" in one["metadata"]["name"]] == []
    for node in scene.cluster.nodes:
        assert ours(node) == {}
