"""Which clusters there are, and the end of each: also of those whose owner was killed. Used by cluster.py and __main__.py.

A cluster is a folder below RUNS with a ``run.json``. It ends when its owner says so, when the reaper sees its owner's end, or, both
having been killed, when the next cluster starts. A cluster without an owner stands until ``make cluster-down``.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

from kubelab.tools import MARK, REPOSITORY, RUNS, LabError, boot, run, start_time

CGROUPS = Path("/sys/fs/cgroup")


def new_run(**about) -> Path:
    """A new cluster's folder, owned by this process, with ``about`` in its run.json."""
    RUNS.mkdir(mode=0o700, exist_ok=True)
    lab = uuid4().hex[:6]
    fresh, folder = RUNS / f".{lab}", RUNS / lab
    fresh.mkdir(mode=0o700)
    owner = {"pid": os.getpid(), "start": start_time(os.getpid())}
    record = {"lab": lab, "boot": boot(), "owner": owner, "checkout": str(REPOSITORY), **about}
    (fresh / "run.json").write_text(json.dumps(record, indent=1))
    fresh.rename(folder)  # with its record from the first moment: a sweep at once must see whose it is
    return folder


def read_run(folder: Path) -> dict:
    """A cluster's record."""
    try:
        return json.loads((folder / "run.json").read_text())
    except FileNotFoundError:
        there = ", ".join(path.name for path in runs()) or "none"
        raise LabError(f"there is no cluster {folder.name}; those there are: {there}") from None


def disown(folder: Path) -> None:
    """From now on the cluster stands until somebody takes it down."""
    record = read_run(folder) | {"owner": None}
    new = folder / "run.json.new"
    new.write_text(json.dumps(record, indent=1))
    new.rename(folder / "run.json")


def runs() -> list[Path]:
    """The folders of all clusters."""
    return sorted(path.parent for path in RUNS.glob("[!.]*/run.json"))


def abandoned(record: dict) -> bool:
    """Whether the cluster's owner is no more, or the computer was started anew since."""
    owner = record["owner"]
    gone = owner is not None and start_time(owner["pid"]) != owner["start"]
    return gone or record["boot"] != boot()


def sweep() -> list[str]:
    """Take down every cluster whose owner is no more; their names."""
    swept = []
    for folder in runs():
        with contextlib.suppress(LabError):  # another sweep was quicker
            if abandoned(read_run(folder)):
                destroy(folder)
                swept.append(folder.name)
    return swept


def destroy(folder: Path) -> None:
    """End all processes of a cluster and remove all it made. May be called at any time, by several at once, and again."""
    lab = folder.name
    firsts = [json.loads(path.read_text()) for path in folder.glob("*/machine.json")]
    here = not (folder / "run.json").exists() or read_run(folder)["boot"] == boot()
    if here:
        kill([first["pid"] for first in firsts if start_time(first["pid"]) == first["start"]])
        # What was caught between its start and its record, and the outer ends of commands that were run in machines.
        kill(marked(lab))
    for path in Path("/run/netns").glob(f"tpl-{lab}-*"):
        run("ip", "netns", "del", path.name, check=False)
    for top in CGROUPS.glob(f"*/tpl-{lab}"):
        remove_cgroup(top)
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)  # a process that was writing is still on its way out
    raise LabError(f"cannot remove {folder}: see `ls -R` and /proc/mounts for what is in use there")


def marked(lab: str) -> list[int]:
    """The processes whose environment has the cluster's mark, but for this one."""
    mark = f"{MARK}={lab}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (path / "environ").read_bytes().split(b"\0") and int(path.name) != os.getpid():
                found.append(int(path.name))
    return found


def kill(pids: list[int], seconds=15.0) -> None:
    """SIGKILL, and wait until all have ended; LabError if one does not."""
    with contextlib.ExitStack() as stack:
        waiting = {}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                fd = os.pidfd_open(pid)
                stack.callback(os.close, fd)
                signal.pidfd_send_signal(fd, signal.SIGKILL)
                waiting[fd] = pid
        end = time.monotonic() + seconds
        while waiting:
            ready, _, _ = select.select(list(waiting), [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise LabError(
                    f"processes {sorted(waiting.values())} do not end, {seconds:g} s after SIGKILL"
                )
            for fd in ready:
                del waiting[fd]


def make_cgroups(lab: str, machine: str) -> str:
    """A cgroup for a node's pods below every controller, as kubelet wants it to be there; its path below each of them."""
    controllers = [path for path in CGROUPS.iterdir() if path.is_dir() and (path / "cgroup.procs").exists()]
    if (CGROUPS / "cgroup.controllers").exists() or not controllers:
        raise LabError("the test cluster needs cgroup v1 under /sys/fs/cgroup, and this machine has none")
    for controller in controllers:
        folder = controller / f"tpl-{lab}" / machine
        for step in (folder.parent, folder):
            step.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):
                if (step / name).exists():
                    (step / name).write_text((step.parent / name).read_text())
    return f"/tpl-{lab}/{machine}"


def remove_cgroup(top: Path) -> None:
    """Remove a cgroup and all below it; what a last process still holds is tried again for a while."""
    for _ in range(50):
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
        if not top.exists():
            return
        time.sleep(0.1)
    raise LabError(f"cannot remove the cgroup {top}: its cgroup.procs says who is in it")


def start_reaper(folder: Path) -> None:
    """Start another process that takes the cluster down should its owner end without having done so; it ends with the cluster."""
    command = ["setsid", "--fork", sys.executable, "-m", "kubelab", "reap", folder.name]
    quiet = subprocess.DEVNULL
    package = Path(__file__).parents[1]
    subprocess.run(command, cwd=package, stdin=quiet, stdout=quiet, stderr=quiet, check=True, timeout=20)


def reap(folder: Path) -> None:
    """What the reaper's process does, until the cluster has no owner, or is gone."""
    with contextlib.suppress(LabError, ProcessLookupError):
        owner = os.pidfd_open(read_run(folder)["owner"]["pid"])
        while not select.select([owner], [], [], 0.5)[0]:
            if read_run(folder)["owner"] is None:
                return
    if folder.exists() and abandoned(read_run(folder)):
        destroy(folder)
