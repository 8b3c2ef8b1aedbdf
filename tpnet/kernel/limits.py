"""Resource limits of this process (getrlimit(2)). Must never lower one."""

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
