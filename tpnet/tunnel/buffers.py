"""Large buffers for the UDP sockets of ``wireguard-go``, which may not give them to itself: that takes CAP_NET_ADMIN.

``tpnet.tunnel.wireguard_go`` calls this. It must never keep a descriptor of the other process.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from tpnet.kernel.libc import last_error, syscall

_BYTES = 7 << 20
"""What wireguard-go asks for, where it may."""
_RCVBUFFORCE, _SNDBUFFORCE = 33, 32  # asm-generic/socket.h
_PIDFD_GETFD = 438  # asm-generic/unistd.h, Linux 5.6


def widen(pid: int, pidfd: int) -> int:
    """Widen those of a child. How many there were: 0 as well where the kernel does not let us, and all works without.

    Its sockets are reached by pidfd_getfd(2), which takes CAP_SYS_PTRACE where the child is another user.
    """
    done = 0
    with contextlib.suppress(OSError):
        for entry in list(Path(f"/proc/{pid}/fd").iterdir()):
            with contextlib.suppress(OSError):
                if str(entry.readlink()).startswith("socket:"):
                    done += _widen(_fetch(pidfd, int(entry.name)))
    return done


def _fetch(pidfd: int, fd: int) -> socket.socket:
    found = syscall(_PIDFD_GETFD, pidfd, fd, 0)
    if found < 0:
        raise last_error("pidfd_getfd")
    return socket.socket(fileno=found)


def _widen(sock: socket.socket) -> bool:
    with sock:
        if sock.type != socket.SOCK_DGRAM or sock.family not in {socket.AF_INET, socket.AF_INET6}:
            return False
        for option in (_RCVBUFFORCE, _SNDBUFFORCE):
            sock.setsockopt(socket.SOL_SOCKET, option, _BYTES)
        return True
