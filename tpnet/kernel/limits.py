"""Resource limits of this process (getrlimit(2)). Those that are lowered must never be for a while: it is for good."""

from __future__ import annotations

import contextlib
import resource


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


def forbid_processes() -> None:
    """No further process or thread, for a user other than root. Raises ``OSError``."""
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def forbid_files(most_bytes: int = 0) -> None:
    """Let no file be written beyond so many bytes, and leave no memory behind in one (core(5)). Raises ``OSError``."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
