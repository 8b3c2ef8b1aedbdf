"""The bypass map: tells the redirect which connections are the agent's own. Called by the worker's dial path.

Two system calls per connection to the app, so nothing is allocated that can be made once. Must never be used by two
threads at once on one ``BypassMap``: the key's buffer is shared.
"""

from __future__ import annotations

import ctypes
import errno

from tpnet.kernel.bpf import BPF_MAP_DELETE_ELEM, BPF_MAP_UPDATE_ELEM, BPF_SYSCALL
from tpnet.kernel.endpoint import ENDPOINT
from tpnet.kernel.libc import last_error, syscall


class _Element(ctypes.Structure):
    """``union bpf_attr`` for BPF_MAP_*_ELEM (include/uapi/linux/bpf.h)."""

    _fields_ = (
        ("map_fd", ctypes.c_uint32),
        ("key", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
    )


_UPDATE_SIZE = ctypes.sizeof(_Element)
_DELETE_SIZE = _Element.value.offset
"""The kernel refuses a deletion whose attributes go on to a value."""


class BypassMap:
    """The bypass map behind a file descriptor, which stays the caller's."""

    __slots__ = ("_at", "_attr", "_key", "_value")

    def __init__(self, fd: int) -> None:
        self._key = ctypes.create_string_buffer(ENDPOINT.size)
        self._value = ctypes.c_uint64(0)
        self._attr = _Element(fd, ctypes.addressof(self._key), ctypes.addressof(self._value), 0)
        self._at = ctypes.addressof(self._attr)

    def insert(self, endpoint: bytes, until: int = 0) -> None:
        """Let connections from this end (``tpnet.kernel.endpoint``) pass to the app. Do it between bind and connect.

        With port 0: from any port of its address, ``until`` then, in nanoseconds of the monotonic clock.
        Raises ``OSError``; ``PermissionError`` on kernels before 5.19 for a process without CAP_BPF.
        """
        self._key.raw = endpoint
        self._value.value = until
        if syscall(BPF_SYSCALL, BPF_MAP_UPDATE_ELEM, self._at, _UPDATE_SIZE) < 0:
            raise last_error("the bypass map does not take an entry")

    def delete(self, endpoint: bytes) -> None:
        """Forget the entry; one that is gone is fine. Do it once the connection is established.

        Raises ``OSError``.
        """
        self._key.raw = endpoint
        if syscall(BPF_SYSCALL, BPF_MAP_DELETE_ELEM, self._at, _DELETE_SIZE) < 0:
            error = last_error("the bypass map does not give an entry up")
            if error.errno != errno.ENOENT:
                raise error
