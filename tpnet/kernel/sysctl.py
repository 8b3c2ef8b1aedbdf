"""Makes /proc/sys/net writable where a container runtime has mounted /proc/sys read-only.

What is changed is a mount of the container's own: the node does not see it, and the rest of /proc/sys stays
read-only. Must never be called in a mount namespace that others share.
"""

from __future__ import annotations

import os

from tpnet.kernel.libc import MS_BIND, MS_REMOUNT, mount

NET = "/proc/sys/net"
_KEPT = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC  # the same numbers as MS_NOSUID and so on


def remount_net_writable() -> bool:
    """Whether anything had to be done. Raises ``OSError`` when the kernel does not let us."""
    found = os.statvfs(NET).f_flag
    if not found & os.ST_RDONLY:
        return False
    mount(NET, NET, MS_BIND)  # a mount of its own, still read-only
    mount(None, NET, MS_REMOUNT | MS_BIND | found & _KEPT)
    return True
