"""The C library, and the few calls of it that more than one part needs.

Must never be called where a signal handler of Python's could run between a call and the reading of ``errno``: ctypes
keeps a copy of its own for each thread, and every call here reads that at once.
"""

from __future__ import annotations

import ctypes
import os
import signal

CLONE_NEWNET = 0x40000000
"""linux/sched.h"""
MS_REMOUNT, MS_BIND = 32, 4096
"""linux/mount.h"""

LIBC = ctypes.CDLL(None, use_errno=True)

prctl = LIBC.prctl
"""prctl(2) with all of its five arguments. Returns a negative number on failure; see ``last_error``."""
prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]
prctl.restype = ctypes.c_int

syscall = LIBC.syscall
"""syscall(2) in the form of bpf(2): a number, a command, an address and a size."""
syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint)
syscall.restype = ctypes.c_long

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def last_error(what: str = "") -> OSError:
    """Why the last call of this thread failed; ``what`` names the call or the file."""
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}" if what else os.strerror(number))


def die_with_parent(sign: int = signal.SIGKILL) -> None:
    """Have the kernel send ``sign`` to this process when the thread that started it ends.

    The kernel forgets this whenever the process changes its credentials (prctl(2)): say it again after that.
    """
    prctl(_PR_SET_PDEATHSIG, sign, 0, 0, 0)


def mount(
    source: str | None, target: str, flags: int, *, kind: str | None = None, data: str | None = None
) -> None:
    """Mount; ``kind`` is a file system's type (mount(2)). Raises ``OSError``."""
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    if LIBC.mount(*texts[:3], ctypes.c_ulong(flags), texts[3]) < 0:
        raise last_error()


def enter_netns(fd: int) -> None:
    """Move this thread to the network namespace behind ``fd`` (setns(2)). Raises ``OSError``."""
    if LIBC.setns(fd, CLONE_NEWNET) < 0:
        raise last_error()


def new_netns() -> None:
    """Move this thread to a network namespace that is made for it (unshare(2)). Raises ``OSError``."""
    if LIBC.unshare(CLONE_NEWNET) < 0:
        raise last_error()
