"""The bypass map: tells the redirect which connections are the agent's own. Called by the worker's dial path.

Two system calls per connection to the app, so nothing is allocated that can be made once. Imports nothing of
ours; ``tpnet.datapath`` takes the key's layout from here and asserts it against the C program. Must never be
used by two threads at once on one ``BypassMap``: the key's buffer is shared.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct

ENDPOINT = struct.Struct("=16sHH")
"""``struct endpoint`` of bpf/redirect.c: address, port, zero. Address and port are in network byte order."""

BPF_SYSCALL = 321 if os.uname().machine == "x86_64" else 280
"""The number of bpf(2): x86-64 has its own, arm64 and riscv64 share theirs."""
BPF_MAP_UPDATE_ELEM = 2
BPF_MAP_DELETE_ELEM = 3

LIBC = ctypes.CDLL(None, use_errno=True)
_syscall = LIBC.syscall
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint)
_syscall.restype = ctypes.c_long

_MAPPED = b"\0" * 10 + b"\xff\xff"
_ENOENT = 2


def pack_endpoint(address: str, port: int) -> bytes:
    """The key of one end of a connection: an address as ``accept`` gives it, a port.

    IPv4 may come plain or v4-mapped; both give the same key. Raises ``OSError`` for text that is no address.
    """
    if ":" in address:
        packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    else:
        packed = _MAPPED + socket.inet_pton(socket.AF_INET, address)
    return ENDPOINT.pack(packed, socket.htons(port), 0)


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
        self._value = ctypes.create_string_buffer(b"\1", 1)
        self._attr = _Element(fd, ctypes.addressof(self._key), ctypes.addressof(self._value), 0)
        self._at = ctypes.addressof(self._attr)

    def insert(self, endpoint: bytes) -> None:
        """Let connections from this end (``pack_endpoint``) pass to the app. Do it between bind and connect.

        Raises ``OSError``; ``PermissionError`` on kernels before 5.19 for a process without CAP_BPF.
        """
        self._key.raw = endpoint
        if _syscall(BPF_SYSCALL, BPF_MAP_UPDATE_ELEM, self._at, _UPDATE_SIZE) < 0:
            errno = ctypes.get_errno()
            raise OSError(errno, f"the bypass map does not take an entry: {os.strerror(errno)}")

    def delete(self, endpoint: bytes) -> None:
        """Forget the entry; one that is gone is fine. Do it once the connection is established.

        Raises ``OSError``.
        """
        self._key.raw = endpoint
        if _syscall(BPF_SYSCALL, BPF_MAP_DELETE_ELEM, self._at, _DELETE_SIZE) < 0:
            errno = ctypes.get_errno()
            if errno != _ENOENT:
                raise OSError(errno, f"the bypass map does not give an entry up: {os.strerror(errno)}")
