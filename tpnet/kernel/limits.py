"""Resource limits of this process (getrlimit(2)). Those that are lowered must never be for a while: it is for good."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one, where the kernel lets us; returns what holds now."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_memlock_limit() -> bool:
    """Lift the limit of locked memory; whether there was one. Where the kernel refuses, it stays as it is."""
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY:
        return False
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return True


def memory_limit() -> int | None:
    """Bytes of memory that this process's control groups have at most; ``None`` where nothing says so (cgroups(7))."""
    try:
        text = Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return memory_limit_of(text)


def memory_limit_of(cgroup: str, root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The same of a process, from its /proc/PID/cgroup. In a container the folders above its own are not to be seen."""
    limits = []
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in {"", "memory"}:
            continue
        top = root / controllers
        folder = top / path.strip("/")
        for one in (folder, *folder.parents):
            for name in ("memory.max", "memory.limit_in_bytes"):
                with contextlib.suppress(OSError, ValueError):  # it is not there, or "max"
                    limits.append(int((one / name).read_text(encoding="ascii")))
            if one == top:
                break
    return min(limits, default=None)


def forbid_processes() -> None:
    """No further process or thread, for a user other than root. Raises ``OSError``."""
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def forbid_files(most_bytes: int = 0) -> None:
    """Let no file be written beyond so many bytes, and leave no memory behind in one (core(5)). Raises ``OSError``."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
