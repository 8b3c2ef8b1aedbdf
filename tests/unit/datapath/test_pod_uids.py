import time

import pytest

from tpnet.datapath import pods
from tpnet.datapath.pods import PodProcesses, pod_uids
from tpnet.datapath.target import resolve_targets
from tpnet.model import InvalidInput, NotThere

UID = "6a1f2b3c-0d4e-4f5a-9b8c-7d6e5f4a3b2c"
LOW = UID.replace("-", "_")
OUTER = "11111111-2222-4333-8444-555555555555"
STATIC = "0123456789abcdef0123456789abcdef"
ID = "3f4c" * 16
SLICE = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{LOW}.slice"

ROWS = {
    "containerd, systemd, v2": f"0::{SLICE}/cri-containerd-{ID}.scope",
    "containerd, systemd, v1": f"4:memory:{SLICE}/cri-containerd-{ID}.scope\n1:name=systemd:{SLICE}/cri-containerd-{ID}.scope",
    "containerd, cgroupfs, v2": f"0::/kubepods/burstable/pod{UID}/{ID}",
    "containerd, cgroupfs, v1": f"11:pids:/kubepods/besteffort/pod{UID}/{ID}\n0::/",
    "containerd, cgroupfs below systemd": f"0::/system.slice/containerd.service/kubepods-burstable-pod{LOW}.slice:cri-containerd:{ID}",
    "guaranteed, cgroupfs": f"0::/kubepods/pod{UID}/{ID}",
    "guaranteed, systemd": f"0::/kubepods.slice/kubepods-pod{LOW}.slice/crio-{ID}.scope",
    "crio, systemd": f"0::{SLICE}/crio-{ID}.scope",
    "crio with crun": f"0::{SLICE}/crio-{ID}.scope/container",
    "crio, cgroupfs, v1": f"5:cpu:/kubepods/burstable/pod{UID}/crio-{ID}",
    "docker, systemd": f"0::{SLICE}/docker-{ID}.scope",
    "docker, cgroupfs, v1": f"6:devices:/kubepods/burstable/pod{UID}/{ID}",
    "a node that is a container": f"0::/docker/{ID}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{LOW}.slice/cri-containerd-{ID}.scope",
    "a root of its own for kubelet": f"0::/tpnet-lab/n1/kubepods/burstable/pod{UID}/{ID}",
    "seen from another cgroup namespace": f"0::/../../pod{UID}/{ID}",
    "a cgroup below the container's": f"0::{SLICE}/cri-containerd-{ID}.scope/app/worker",
}


@pytest.mark.parametrize("row", ROWS)
def test_the_pod_is_found(row):
    assert pod_uids(ROWS[row]) == {UID}


def test_a_static_pod_has_the_hash_of_its_file():
    assert pod_uids(f"0::/kubepods/burstable/pod{STATIC}/{ID}") == {STATIC}


def test_a_node_that_is_a_pod_has_processes_of_two():
    assert pod_uids(f"0::/kubepods/pod{OUTER}/{ID}/kubepods/burstable/pod{UID}/{ID}") == {OUTER, UID}


@pytest.mark.parametrize(
    "cgroup",
    [
        "",
        "0::/",
        "0::/init.scope",
        f"0::/docker/{ID}",
        "0::/kubepods.slice/kubepods-burstable.slice",
        f"0::/kubepods/pod{UID[:-1]}/{ID}",
        f"0::/kubepods/pod{UID}0/{ID}",
        f"0::/kubepods/pod{UID.upper()}/{ID}",
        f"0::/user.slice/tripod{UID}/x",
        f"0::/machine.slice/libpod-{ID}.scope",
    ],
)
def test_what_is_no_pod_is_not_taken_for_one(cgroup):
    assert pod_uids(cgroup) == set()


def test_one_look_answers_for_many_pods(monkeypatch):
    looks = []
    monkeypatch.setattr(pods, "look", lambda: looks.append(1) or {UID: [7, 9]})
    table = PodProcesses(fresh=0.2)
    assert [table.of(UID) for _ in range(50)] == [[7, 9]] * 50
    assert table.of(OUTER) == []
    assert len(looks) == 1
    time.sleep(0.25)
    table.of(UID)
    assert len(looks) == 2


def test_a_pod_that_is_not_here_or_no_uid_is_said():
    with pytest.raises(NotThere, match="No process of the pod"):
        resolve_targets(f"pod/{OUTER}")
    with pytest.raises(InvalidInput, match="no uid of a pod"):
        resolve_targets("pod/orders-7d5")
