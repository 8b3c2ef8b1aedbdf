"""Which processes belong to which Kubernetes pod, by their cgroups. ``tpnet.datapath.target`` calls it.

One look at /proc serves many questions: a node's pods are all resolved in the same instant. It must never take a
process id for a process: whoever uses one compares its start time.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from pathlib import Path

from tpnet.datapath.netns import processes

FRESH_SECONDS = 0.2
"""For so long the answer of one look at /proc is used again."""

# A pod's own cgroup: `pod<uid>` as the cgroupfs driver names it, `kubepods-burstable-pod<uid with _>.slice` as
# systemd's does, with whatever prefix a node inside a container has. Static pods have 32 digits without dashes
# (the hash of their file). kubernetes/kubernetes: pkg/kubelet/cm/pod_container_manager_linux.go.
_POD_CGROUP = re.compile(
    r"(?:.*-)?pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?(?::.*)?"
)
POD_UID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}")
"""What a pod's uid looks like."""


def pod_uids(cgroup: str) -> set[str]:
    """The pods a process belongs to, from its /proc/PID/cgroup.

    One, unless a cluster's node is itself a pod: then the outer one too.
    """
    return {
        match[1].replace("_", "-")
        for line in cgroup.splitlines()
        for component in line.split("/")
        if (match := _POD_CGROUP.fullmatch(component))
    }


class PodProcesses:
    """The processes of every pod on this machine, looked up at most every ``fresh`` seconds. For any thread."""

    def __init__(self, fresh: float = FRESH_SECONDS) -> None:
        self._fresh = fresh
        self._lock = threading.Lock()
        self._seen = -fresh
        self._pods: dict[str, list[int]] = {}

    def of(self, uid: str) -> list[int]:
        """The processes of a pod, oldest id first; none when it has ended, or has not begun."""
        with self._lock:
            if time.monotonic() - self._seen >= self._fresh:
                self._pods = look()
                self._seen = time.monotonic()
            return self._pods.get(uid, [])


def look() -> dict[str, list[int]]:
    """Every pod's processes at this moment. About 15 us for each process of the machine."""
    found: dict[str, list[int]] = {}
    for pid in processes():
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace")
            if "pod" in text:
                for uid in pod_uids(text):
                    found.setdefault(uid, []).append(pid)
    return found


everybody = PodProcesses()
"""The one that ``resolve_targets`` asks."""
