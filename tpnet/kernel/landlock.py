"""This process changes no file by its name any more (landlock(7)), whatever its user could do besides. For good.

For programs of others. Must never fail for want of Landlock: it is one wall of several, and kernels before 5.13, or
without it, have the others.
"""

from __future__ import annotations

import ctypes
import os
import struct

from tpnet.kernel.libc import LIBC, last_error

# linux/landlock.h: to write to a file; to remove, and to make, what there is in folders
_ALL = sum(1 << bit for bit in (1, 4, 5, 6, 7, 8, 9, 10, 11, 12))
_LATER = {2: 1 << 13, 3: 1 << 14}  # to link from one folder to another; to truncate
_VERSION = 1
# The same numbers on every machine (asm-generic/unistd.h).
_CREATE, _RESTRICT = 444, 446

_syscall = LIBC["syscall"]
_syscall.argtypes = (ctypes.c_long, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_uint)
_syscall.restype = ctypes.c_long


def forbid_changes() -> bool:
    """Let this process open no file for writing, make none and remove none; what it has open stays so.

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
        if int(_syscall(_RESTRICT, rules, 0, None, 0)) < 0:
            raise last_error("landlock_restrict_self")
    finally:
        os.close(rules)
    return True
