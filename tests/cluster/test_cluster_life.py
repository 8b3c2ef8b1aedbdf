"""A cluster comes, goes and is killed: nothing of it may be left, and nothing of it may show outside while it is there."""

import contextlib
import json
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from kubelab import Cluster, LabError, Machine, build, runs, wait_until
from kubelab.tools import RUNS, start_time

# Folders that the parts of a cluster would make on a computer that is theirs alone.
FOREIGN = [
    *(
        "/run/containerd",
        "/run/kubernetes",
        "/run/flannel",
        "/run/cni-addresses",
        "/var/lib/containerd",
        "/var/lib/kubelet",
    ),
    *(
        "/var/lib/cni",
        "/var/log/pods",
        "/var/log/containers",
        "/opt/containerd",
        "/opt/cni",
        "/etc/cni",
        "/usr/libexec/kubernetes",
    ),
]
SETTINGS = [
    *(
        "kernel/panic",
        "kernel/panic_on_oops",
        "kernel/keys/root_maxkeys",
        "kernel/keys/root_maxbytes",
        "kernel/hostname",
    ),
    *("vm/overcommit_memory", "vm/panic_on_oom", "net/netfilter/nf_conntrack_max", "net/ipv4/ip_forward"),
]
OWN = """
import sys, time
from kubelab import Cluster
cluster = Cluster.up(laptops=1)
with cluster.namespace() as namespace:
    cluster.run_shop(namespace)
    print(cluster.id, flush=True)
    time.sleep(300)
"""


def outside():
    """What a cluster could have changed of the computer."""
    settings = {}
    for name in SETTINGS:
        path = Path("/proc/sys", name)
        settings[name] = path.read_text() if path.exists() else None
    folders = {name: Path(name).exists() for name in FOREIGN}
    return settings, folders


def members(lab):
    """The processes of a cluster, by pid and start: all that are in a PID namespace of one of its machines or below it."""
    firsts = [json.loads(path.read_text()) for path in (RUNS / lab).glob("*/machine.json")]
    children = defaultdict(list)
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # The parent of whatever lost its own is the first process of its namespace, or of the one above.
            children[int((path / "stat").read_text().rpartition(")")[2].split()[1])].append(int(path.name))
    found, todo = set(), [first["pid"] for first in firsts]
    while todo:
        pid = todo.pop()
        found.add((pid, start_time(pid)))
        todo += children[pid]
    return {(pid, start) for pid, start in found if start is not None}


def alive(known):
    """Those of some processes that are still there."""
    return [pid for pid, start in known if start_time(pid) == start]


def reapers(lab):
    found = []
    for pid in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found += [pid.name] if f"kubelab\0reap\0{lab}\0" in (pid / "cmdline").read_text() else []
    return found


def left(lab):
    """Whatever there is on the computer that has a cluster's name."""
    found = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/*{lab}*")]
    found += [
        str(path)
        for path in [
            *Path("/run/netns").glob(f"*{lab}*"),
            *RUNS.glob(f"*{lab}*"),
            *Path("/tmp").glob(f"*{lab}*"),
        ]
    ]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if lab in line]
    found += runs.marked(lab)
    for pid in Path("/proc").glob("[0-9]*"):
        try:
            found += [
                (pid.name, line) for line in [(pid / "cmdline").read_text()] if f"tpnet-lab/{lab}" in line
            ]
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_two_at_once_do_not_meet_and_leave_nothing():
    before = outside()
    first, second = Cluster.up(laptops=1), None
    try:
        second = Cluster.up(laptops=1)
        assert outside() == before
        for cluster in (first, second):
            cluster.run_shop("default", f"of-{cluster.id}")
            address = cluster.pods("default")[0]["status"]["podIP"]
            said = json.loads(cluster.control.run("curl", "-sS", "-m", "5", f"http://{address}:8080/").stdout)
            assert said["pod"].startswith(f"of-{cluster.id}")
            assert [pod["metadata"]["labels"]["app"] for pod in cluster.pods("default")] == [
                f"of-{cluster.id}"
            ] * 2
        assert outside() == before
        inside = members(first.id)
        assert len(inside) > 15  # what is ended below is control plane, nodes, laptop and pods
        first.down()
        assert alive(inside) == []
        assert left(first.id) == []
        assert second.get("/readyz") == {"text": "ok"}
    finally:
        for cluster in filter(None, (first, second)):
            cluster.down()
    assert left(first.id) + left(second.id) == []
    wait_until(lambda: not reapers(first.id) + reapers(second.id), 10, "the end of both reapers")
    assert outside() == before


@pytest.mark.slow
def test_a_killed_owner_leaves_nothing():
    before = outside()
    with subprocess.Popen(
        [sys.executable, "-c", OWN], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True
    ) as owner:
        try:
            lab = owner.stdout.readline().strip()
            assert lab
            inside = members(lab)
            assert len(inside) > 15
        finally:
            owner.send_signal(signal.SIGKILL)
    wait_until(lambda: not (RUNS / lab).exists(), 30, "the reaper's work")
    wait_until(lambda: not reapers(lab), 10, "the reaper's end")
    assert alive(inside) == []
    assert left(lab) == []
    assert outside() == before


def test_the_next_start_sweeps_what_killed_owner_and_reaper_left():
    code = (
        "from kubelab import Machine, build, runs\n"
        "folder = runs.new_run(laptops=1, dual=False, port=1)\n"
        "Machine('l1', f'tpl-{folder.name}-l1', folder / 'l1', folder.name).start(build.programs() / 'pod')\n"
        "runs.make_cgroups(folder.name, 'l1')\n"
        "print(folder.name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    lab = done.stdout.strip()
    inside = members(lab)
    assert inside
    runs.sweep()
    assert alive(inside) == []
    assert left(lab) == []


def test_a_living_owners_cluster_and_one_that_stands_are_not_swept():
    folder = runs.new_run(laptops=0, dual=False, port=1)
    try:
        runs.sweep()
        assert folder.exists()
        runs.disown(folder)
        runs.sweep()
        assert folder.exists()
    finally:
        runs.destroy(folder)


def test_a_machine_has_folders_processes_and_name_of_its_own():
    folder = runs.new_run(laptops=1, dual=False, port=1)
    try:
        machine = Machine("l1", f"tpl-{folder.name}-l1", folder / "l1", folder.name)
        machine.start(build.programs() / "pod")
        assert machine.run("hostname").stdout == "l1\n"
        assert set(machine.shell("ls /run").stdout.split()) <= {"lock", "mount"}
        assert machine.shell("ls /var/lib").stdout == ""
        assert len(machine.shell("ls -d /proc/[0-9]*").stdout.split()) < 5
        sleeper = machine.service("sleeper", "sleep", "1000")
        sleeper.start()
        before = sleeper.pid
        sleeper.restart()
        assert sleeper.pid not in {None, before}
        sleeper.stop()
        assert sleeper.pid is None
        deaf = machine.service("deaf", "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
        deaf.start()
        deaf.stop(seconds=0.3)
        with machine.popen("sleep", "777") as popen:
            wait_until(lambda: "sleep 777" in machine.run("ps", "ax").stdout, 5, "its process")
            popen.terminate()
        wait_until(lambda: "sleep 777" not in machine.run("ps", "ax").stdout, 5, "the end of its process")
        with pytest.raises(LabError, match="took over"):
            machine.run("sleep", "778", timeout=0.3)
        wait_until(lambda: "sleep 778" not in machine.run("ps", "ax").stdout, 5, "the end of what was late")
        assert deaf.pid is None
        wait_until(lambda: "<defunct>" not in machine.run("ps", "ax").stdout, 5, "the end of dead processes")
    finally:
        runs.destroy(folder)
    assert not folder.exists()
