"""What a process may do beyond its user: capabilities(7). They are given up here; there is no way back."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from tpnet.kernel.libc import LIBC, last_error, prctl

if TYPE_CHECKING:
    from collections.abc import Collection

# linux/capability.h
DAC_READ_SEARCH, NET_ADMIN, SYS_ADMIN, BPF = 2, 12, 21, 39
# prctl(2) and linux/prctl.h
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
# capset(2): _LINUX_CAPABILITY_VERSION_3 has two 32-bit words for each of the three sets.
_VERSION_3 = 0x20080522


def bound_to(kept: Collection[int] = ()) -> None:
    """Let this thread, and what it starts, never gain any but ``kept``: empties its bounding and ambient sets.

    That needs CAP_SETPCAP; without it nothing happens, and nothing was to be gained either.
    """
    capability = 0
    while True:
        if capability not in kept and prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break  # there are no more, or it may not
        capability += 1
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)


def keep(kept: Collection[int] = ()) -> None:
    """Give up every capability of this thread but those of ``kept`` that it has. Raises ``OSError``."""
    bits = _sets()[1] & sum(1 << capability for capability in kept)
    low, high = bits & 0xFFFF_FFFF, bits >> 32
    sets = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    if LIBC.capset((ctypes.c_uint32 * 2)(_VERSION_3, 0), sets) != 0:
        raise last_error("capset")


def held() -> int:
    """The bits of this thread's effective and permitted sets, or-ed."""
    effective, permitted = _sets()
    return effective | permitted


def no_new_privileges() -> None:
    """Let execve(2) never again give any: neither setuid files nor those with capabilities. Raises ``OSError``."""
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise last_error("no_new_privs")


def _sets() -> tuple[int, int]:
    words = (ctypes.c_uint32 * 6)()
    LIBC.capget((ctypes.c_uint32 * 2)(_VERSION_3, 0), words)
    return words[0] | words[3] << 32, words[1] | words[4] << 32
