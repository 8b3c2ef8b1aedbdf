"""Gives up every privilege, for good. Called by ``tpnet.proxy.worker`` before its first hostile byte.

Must never be called in a process that is to keep anything of root: there is no way back.
"""

from __future__ import annotations

import ctypes
import os

from tpnet.kernel.libc import LIBC, last_error, prctl
from tpnet.model import TpnetError

# prctl(2) and linux/prctl.h
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
# capset(2): _LINUX_CAPABILITY_VERSION_3 has two 32-bit words for each of the three sets.
_CAPABILITY_VERSION_3 = 0x20080522


def drop(uid: int) -> None:
    """Become ``uid`` (user and group) without groups or capabilities, unable to regain any, and undumpable.

    Undumpable also keeps processes of the same uid from tracing this one (ptrace(2)). Raises ``TpnetError``
    when the kernel refuses a step, or when something is left after all of them.
    """
    try:
        # The bounding set needs CAP_SETPCAP, so it goes first; outside of root it cannot go, and is of no use
        # either.
        capability = 0
        while prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
            capability += 1
        prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        _clear_capabilities()
        _check(prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
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
        raise last_error()


def _clear_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()
    _check(LIBC.capset(header, none))


def _held() -> int:
    """The bits of the effective and permitted sets, or-ed."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()
    LIBC.capget(header, sets)
    return int(sets[0] | sets[1] | sets[3] | sets[4])
