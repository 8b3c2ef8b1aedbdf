import pytest

from tpnet.datapath.target import container_ids

ID = "3f4c" * 16
OUTER = "ab01" * 16
POD = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod6a1f2b3c_0d4e_4f5a.slice"

ROWS = {
    "containerd, systemd, v2": f"0::{POD}/cri-containerd-{ID}.scope",
    "containerd, systemd, v1": f"4:memory:{POD}/cri-containerd-{ID}.scope\n3:cpuset:{POD}/cri-containerd-{ID}.scope",
    "containerd, cgroupfs": f"0::/kubepods/burstable/pod6a1f2b3c-0d4e-4f5a/{ID}",
    "containerd, cgroupfs under systemd": f"0::/system.slice/containerd.service/kubepods-burstable-podx.slice:cri-containerd:{ID}",
    "crio": f"0::{POD}/crio-{ID}.scope",
    "crio with crun": f"0::{POD}/crio-{ID}.scope/container",
    "docker, systemd": f"0::/system.slice/docker-{ID}.scope",
    "docker, cgroupfs": f"11:cpu,cpuacct:/docker/{ID}\n0::/system.slice",
    "podman": f"0::/machine.slice/libpod-{ID}.scope/container",
    "a cgroup below the container's": f"0::/docker/{ID}/system.slice/sshd.service",
    "kind: a pod inside a node that is a container": f"0::/docker/{OUTER}/kubelet.slice{POD}/cri-containerd-{ID}.scope",
    "seen from another cgroup namespace": f"0::/../../pod6a1f/{ID}",
}


@pytest.mark.parametrize("row", ROWS)
def test_the_container_is_found(row):
    assert container_ids(ROWS[row]) == {ID}


@pytest.mark.parametrize(
    "cgroup",
    [
        "",
        "0::/",
        "0::/init.scope",
        "0::/user.slice/user-1000.slice/session-2.scope",
        f"0::{POD}/crio-conmon-{ID}.scope",
        f"0::/machine.slice/libpod-conmon-{ID}.scope",
        f"0::/kubepods/pod{ID}",
        f"0::/docker/{ID[:63]}",
        f"0::/docker/{ID}0",
        f"0::/docker/{ID.upper()}",
        f"0::/build-{ID}.scope",
    ],
)
def test_what_is_no_container_is_not_taken_for_one(cgroup):
    assert container_ids(cgroup) == set()
