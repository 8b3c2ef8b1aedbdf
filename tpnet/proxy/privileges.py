"""Gives up every privilege, for good. Called by ``tpnet.proxy.worker`` before its first hostile byte.

Must never be called in a process that is to keep anything of root: there is no way back.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal

from tpnet.model import TpnetError

# prctl(2) and linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
# capset(2): _LINUX_CAPABILITY_VERSION_3 has two 32-bit words for each of the three sets.
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)
_prctl = _libc.prctl
_prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]
_prctl.restype = ctypes.c_int


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends.

    The kernel forgets this whenever the process changes its credentials (prctl(2)), so it is said again after
    that.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one, and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def drop(uid: int) -> None:
    """Become ``uid`` (user and group) without groups or capabilities, unable to regain any, and undumpable.

    Undumpable also keeps processes of the same uid from tracing this one (ptrace(2)). Raises ``TpnetError``
    when the kernel refuses a step, or when something is left after all of them.
    """
    try:
        # The bounding set needs CAP_SETPCAP, so it goes first; outside of root it cannot go, and is of no use
        # either.
        capability = 0
        while _prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
            capability += 1
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        _clear_capabilities()
        _check(_prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    except OSError as error:
        raise TpnetError(
            f"The worker cannot give up its privileges: {error.strerror}.",
            "Run the agent as root, with CAP_SETUID, CAP_SETGID and CAP_SETPCAP.",
        ) from error
    if os.getresuid() != (uid, uid, uid) or _held():
        raise TpnetError(
            f"The worker should run as uid {uid} without capabilities, and does not.",
            "Run the agent as root, with CAP_SETUID, CAP_SETGID and CAP_SETPCAP.",
        )


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _clear_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()
    _check(_libc.capset(header, none))


def _held() -> int:
    """The bits of the effective and permitted sets, or-ed."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()
    _libc.capget(header, sets)
    return int(sets[0] | sets[1] | sets[3] | sets[4])
