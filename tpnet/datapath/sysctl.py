"""Makes /proc/sys/net writable inside a container that is not privileged. Called by the supervisor as it starts.

A container runtime mounts /proc/sys read-only. The sysctls of pods' network namespaces, which keep a client's
address, and those of the tunnel's own are written through it. What is changed here is a mount of the container's own:
the node does not see it, and the rest of /proc/sys stays read-only. Must never be called outside of the supervisor.
"""

from __future__ import annotations

import ctypes
import os

from tpnet.model import Refused

_MS_REMOUNT, _MS_BIND = 32, 4096  # linux/mount.h
_KEPT = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC  # the same numbers as MS_NOSUID and so on
_NET = "/proc/sys/net"

_LIBC = ctypes.CDLL(None, use_errno=True)


def make_net_sysctls_writable() -> bool:
    """Whether anything had to be done. Raises ``Refused`` when the kernel does not let us."""
    found = os.statvfs(_NET).f_flag
    if not found & os.ST_RDONLY:
        return False
    _mount(_NET, _MS_BIND)  # a mount of its own, still read-only
    _mount(None, _MS_REMOUNT | _MS_BIND | found & _KEPT)
    return True


def _mount(source: str | None, flags: int) -> None:
    """mount(2) onto /proc/sys/net."""
    name = source.encode() if source else None
    if _LIBC.mount(name, _NET.encode(), None, ctypes.c_ulong(flags), None) < 0:
        raise Refused(
            f"{_NET} is read-only, and cannot be made writable: {os.strerror(ctypes.get_errno())}.",
            "The agent's container needs CAP_SYS_ADMIN and the AppArmor profile Unconfined, or a writable /proc/sys.",
        )
