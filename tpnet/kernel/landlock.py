"""Where this process may write (landlock(7)): a list of paths, whatever its user could do besides. For good.

For programs of others that are root since a device of theirs is root's. Must never fail for want of Landlock: it is one
wall of several, and kernels before 5.13, or without it, have the others.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING

from tpnet.kernel.libc import LIBC, last_error

if TYPE_CHECKING:
    from collections.abc import Mapping

# linux/landlock.h
WRITE, REMOVE_FILE, MAKE_SOCKET = 1 << 1, 1 << 5, 1 << 9
_REMOVE_FOLDER, _MAKE_CHAR, _MAKE_FOLDER, _MAKE_FILE, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_LINK = (
    1 << bit for bit in (4, 6, 7, 8, 10, 11, 12)
)
_ALL = (
    WRITE | REMOVE_FILE | MAKE_SOCKET | _REMOVE_FOLDER | _MAKE_CHAR | _MAKE_FOLDER | _MAKE_FILE
    | _MAKE_FIFO | _MAKE_BLOCK | _MAKE_LINK
)  # fmt: skip
_LATER = {2: 1 << 13, 3: 1 << 14}  # to link from one folder to another; to truncate
_VERSION = 1
_BENEATH = 1
# The same numbers on every machine (asm-generic/unistd.h).
_CREATE, _ADD, _RESTRICT = 444, 445, 446

_syscall = LIBC["syscall"]
_syscall.argtypes = (ctypes.c_long, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_uint)
_syscall.restype = ctypes.c_long


def write_only(allowed: Mapping[str, int]) -> bool:
    """Let this process change no file but beneath these paths, which are there, and only so.

    It must have ``no_new_privs``. Whether the kernel can do that. Raises ``OSError``.
    """
    version = int(_syscall(_CREATE, None, 0, _VERSION, 0))
    if version < 1:
        return False
    handled = _ALL | sum(bit for since, bit in _LATER.items() if version >= since)
    attr = ctypes.create_string_buffer(struct.pack("=Q", handled), 8)
    rules = int(_syscall(_CREATE, ctypes.addressof(attr), 8, None, 0))
    if rules < 0:
        raise last_error("landlock_create_ruleset")
    try:
        for path, access in allowed.items():
            _allow(rules, path, access)
        if int(_syscall(_RESTRICT, rules, 0, None, 0)) < 0:
            raise last_error("landlock_restrict_self")
    finally:
        os.close(rules)
    return True


def _allow(rules: int, path: str, access: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        attr = ctypes.create_string_buffer(struct.pack("=Qi", access, fd), 12)
        if int(_syscall(_ADD, rules, _BENEATH, ctypes.addressof(attr), 0)) < 0:
            raise last_error("landlock_add_rule")
    finally:
        os.close(fd)
