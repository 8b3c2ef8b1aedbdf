"""bpf(2) in the few forms that are needed: maps, a program, its link. Knows no ports or pods.

Must never import bcc: this part lives in the long-lived processes. Every file descriptor made here is close-on-exec
(the kernel's doing for bpf objects) and belongs to the caller.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass

from tpnet.kernel.libc import last_error, syscall
from tpnet.kernel.limits import raise_memlock_limit

BPF_SYSCALL = 321 if os.uname().machine == "x86_64" else 280
"""The number of bpf(2): x86-64 has its own, arm64 and riscv64 share theirs."""
BPF_MAP_CREATE = 0
BPF_MAP_UPDATE_ELEM = 2
BPF_MAP_DELETE_ELEM = 3
BPF_PROG_LOAD = 5
BPF_LINK_CREATE = 28

PROG_TYPE_SK_LOOKUP = 30
ATTACH_SK_LOOKUP = 36

_LOG_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class MapSpec:
    """A map as the C program declares it. Sizes in bytes; ``kind`` is ``enum bpf_map_type``."""

    name: str
    kind: int
    key_size: int
    value_size: int
    entries: int
    flags: int = 0


class LoadError(OSError):
    """The kernel refused a program. ``log`` is what its verifier said, empty when it did not get that far."""

    def __init__(self, number: int, log: str) -> None:
        super().__init__(number, os.strerror(number))
        self.log = log


def call(command: int, attr: bytes) -> int:
    """bpf(2) with ``union bpf_attr`` as bytes, which the kernel may not write to. Raises ``OSError``."""
    buffer = ctypes.create_string_buffer(attr, len(attr))
    result = int(syscall(BPF_SYSCALL, command, ctypes.addressof(buffer), len(attr)))
    if result < 0:
        raise last_error("bpf")
    return result


def create_map(spec: MapSpec) -> int:
    """A new map; returns its file descriptor. Raises ``OSError``."""
    attr = struct.pack(
        "=IIIIIII16s",
        spec.kind,
        spec.key_size,
        spec.value_size,
        spec.entries,
        spec.flags,
        0,
        0,
        _name(spec.name),
    )
    try:
        return call(BPF_MAP_CREATE, attr)
    except PermissionError:
        # Before 5.11 maps count against RLIMIT_MEMLOCK, and too much of it is EPERM.
        if not raise_memlock_limit():
            raise
        return call(BPF_MAP_CREATE, attr)


def load_sk_lookup(name: str, code: bytes) -> int:
    """Load a program of type sk_lookup; returns its file descriptor.

    Raises ``LoadError``. The verifier's log is asked for only then: it costs more than the load.
    """
    try:
        return _load(name, code, None)
    except OSError:
        log = ctypes.create_string_buffer(_LOG_BYTES)
        try:
            return _load(name, code, log)
        except OSError as error:
            raise LoadError(error.errno or errno.EINVAL, log.value.decode(errors="replace")) from error


def _load(name: str, code: bytes, log: ctypes.Array[ctypes.c_char] | None) -> int:
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    attr = struct.pack(
        "=IIQQIIQII16sII",
        PROG_TYPE_SK_LOOKUP,
        len(code) // 8,
        ctypes.addressof(instructions),
        ctypes.addressof(licence),
        0 if log is None else 1,
        0 if log is None else len(log),
        0 if log is None else ctypes.addressof(log),
        0,
        0,
        _name(name),
        0,
        ATTACH_SK_LOOKUP,
    )
    return call(BPF_PROG_LOAD, attr)


def link_to_netns(program: int, netns: int) -> int:
    """Attach to a network namespace; returns the link's file descriptor, whose end is the attachment's end.

    Raises ``OSError``.
    """
    return call(BPF_LINK_CREATE, struct.pack("=IIII", program, netns, ATTACH_SK_LOOKUP, 0))


def map_update(fd: int, key: bytes, value: bytes) -> None:
    """Set an entry, new or not. Raises ``OSError``."""
    key_at = ctypes.create_string_buffer(key, len(key))
    value_at = ctypes.create_string_buffer(value, len(value))
    attr = struct.pack("=IIQQQ", fd, 0, ctypes.addressof(key_at), ctypes.addressof(value_at), 0)
    call(BPF_MAP_UPDATE_ELEM, attr)


def map_delete(fd: int, key: bytes) -> None:
    """Take an entry out; one that is not there is fine. Raises ``OSError``."""
    key_at = ctypes.create_string_buffer(key, len(key))
    try:
        call(BPF_MAP_DELETE_ELEM, struct.pack("=IIQ", fd, 0, ctypes.addressof(key_at)))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def _name(text: str) -> bytes:
    return text.encode()[:15]
