"""Rooms of one's own: namespaces with nothing in them, and a root without a file (namespaces(7), pivot_root(2)).

Called by processes that are about to give up their privileges, and by who starts them. Network namespaces of targets are
``tpnet.datapath.netns``'s business. Must never change what other processes see: what is mounted here is mounted in a
mount namespace of the caller's own.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tpnet.kernel.libc import LIBC, last_error, mount

if TYPE_CHECKING:
    from collections.abc import Iterator

# linux/sched.h
_NEWNS, _NEWUTS, _NEWIPC, _NEWPID, _NEWNET = 0x20000, 0x4000000, 0x8000000, 0x20000000, 0x40000000
# linux/mount.h
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT = 1, 2, 4, 8, 32
_MS_MOVE, _MS_REC, _MS_PRIVATE = 8192, 16384, 1 << 18
_MNT_DETACH = 2
_OVER = "/proc"
"""Where the empty file system is mounted first: a folder that every machine has."""


def leave() -> None:
    """Mount, IPC, UTS and network namespaces of this thread's own. Sockets that it holds stay where they were made.

    Raises ``OSError``. Needs CAP_SYS_ADMIN.
    """
    _check(LIBC.unshare(_NEWNS | _NEWUTS | _NEWIPC | _NEWNET), "unshare")


def leave_names(*, network: bool) -> None:
    """IPC and UTS namespaces of this thread's own, and a network namespace if it is to have none. Raises ``OSError``."""
    _check(LIBC.unshare(_NEWUTS | _NEWIPC | (_NEWNET if network else 0)), "unshare")


def own_run(file: Path) -> None:
    """A /var/run of this thread's own, with nothing but this (relative) file, which is empty. Raises ``OSError``."""
    _check(LIBC.unshare(_NEWNS), "unshare")
    mount(None, "/", _MS_REC | _MS_PRIVATE)
    run = os.path.realpath("/var/run")
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    mount("tpnet-run", run, flags, kind="tmpfs", data="size=4k,nr_inodes=8,mode=0755")
    at = Path(run) / file
    umask = os.umask(0o022)  # whoever this process becomes is to see it
    at.parent.mkdir(parents=True)
    at.touch()
    os.umask(umask)
    mount(None, run, flags | _MS_REMOUNT | _MS_RDONLY)


def empty_root() -> None:
    """An empty file system that nobody can write to in the place of this process's root. After ``leave``.

    Where pivot_root(2) is forbidden, as container runtimes do, what was mounted before stays beneath the new root, out of
    reach of whoever has neither a descriptor from there nor CAP_SYS_CHROOT. Raises ``OSError``.
    """
    mount(None, "/", _MS_REC | _MS_PRIVATE)
    flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    mount("tpnet-nothing", _OVER, flags, kind="tmpfs", data="size=4k,nr_inodes=1,mode=0555")
    os.chdir(_OVER)
    if LIBC.pivot_root(b".", b".") == 0:  # the old one comes to lie over the new one
        _check(LIBC.umount2(b".", _MNT_DETACH), "umount")
    else:
        mount(".", "/", _MS_MOVE)
        os.chroot(".")
    os.chdir("/")
    if any(Path("/").iterdir()) or not os.statvfs("/").f_flag & os.ST_RDONLY:
        raise OSError(errno.EBUSY, "the new root is not empty")


@contextlib.contextmanager
def child_apart() -> Iterator[None]:
    """What this thread starts meanwhile is process 1 of a PID namespace of its own. At most one, and no thread.

    It sees no other process, and dies with nobody but itself. Raises ``OSError``. Needs CAP_SYS_ADMIN.
    """
    home = os.open("/proc/thread-self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(LIBC.unshare(_NEWPID), "unshare")
        try:
            yield
        finally:
            _check(LIBC.setns(home, _NEWPID), "setns")
    finally:
        os.close(home)


def _check(result: int, what: str) -> None:
    if result < 0:
        raise last_error(what)
