"""bpf(2) in the few forms that are needed: maps, a program, its link. Knows no ports or pods.

Must never import bcc: this part lives in the long-lived processes. Every file descriptor made here is close-on-exec
(the kernel's doing for bpf objects) and belongs to the caller.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from dataclasses import dataclass

from tpnet.kernel.libc import last_error, syscall
from tpnet.kernel.limits import raise_memlock_limit

BPF_SYSCALL = 321 if os.uname().machine == "x86_64" else 280
"""The number of bpf(2): x86-64 has its own, arm64 and riscv64 share theirs."""
BPF_MAP_CREATE = 0
BPF_MAP_UPDATE_ELEM = 2
BPF_MAP_DELETE_ELEM = 3
BPF_PROG_LOAD = 5
_BPF_PROG_GET_FD_BY_ID = 13
_BPF_OBJ_GET_INFO_BY_FD = 15
_BPF_PROG_QUERY = 16
BPF_LINK_CREATE = 28

_PROG_TYPE_SOCKET_FILTER = 1
PROG_TYPE_SK_LOOKUP = 30
ATTACH_SK_LOOKUP = 36

_LOG_BYTES = 1 << 18
_MOST_PROGRAMS = 64  # of one namespace (kernel/bpf/net_namespace.c)
# struct bpf_prog_info as far as the name: the number stands at 4, the name at 64
_INFO_BYTES = 80


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
    return _call(command, ctypes.create_string_buffer(attr, len(attr)))


def _call(command: int, attr: ctypes.Array[ctypes.c_char]) -> int:
    """The same, and the kernel may write to it."""
    result = int(syscall(BPF_SYSCALL, command, ctypes.addressof(attr), len(attr)))
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
    """Load a program of type sk_lookup; returns its file descriptor. Raises ``LoadError``."""
    return _load(PROG_TYPE_SK_LOOKUP, ATTACH_SK_LOOKUP, name, code)


def load_socket_filter(name: str, code: bytes) -> int:
    """Load a program that sees what arrives at a socket; returns its file descriptor. Raises ``LoadError``."""
    return _load(_PROG_TYPE_SOCKET_FILTER, 0, name, code)


def _load(kind: int, attach: int, name: str, code: bytes) -> int:
    """Load a program. The verifier's log is asked for when it is refused: it costs more than the load."""
    try:
        return _try_to_load(kind, attach, name, code, None)
    except OSError:
        log = ctypes.create_string_buffer(_LOG_BYTES)
        try:
            return _try_to_load(kind, attach, name, code, log)
        except OSError as error:
            raise LoadError(error.errno or errno.EINVAL, log.value.decode(errors="replace")) from error


def _try_to_load(
    kind: int, attach: int, name: str, code: bytes, log: ctypes.Array[ctypes.c_char] | None
) -> int:
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    attr = struct.pack(
        "=IIQQIIQII16sII",
        kind,
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
        attach,
    )
    return call(BPF_PROG_LOAD, attr)


def link_to_netns(program: int, netns: int) -> int:
    """Attach to a network namespace; returns the link's file descriptor, whose end is the attachment's end.

    Raises ``OSError``.
    """
    return call(BPF_LINK_CREATE, struct.pack("=IIII", program, netns, ATTACH_SK_LOOKUP, 0))


def programs_of_netns(netns: int) -> tuple[int, ...]:
    """The numbers of the sk_lookup programs of a network namespace, in their order. Raises ``OSError``."""
    numbers = (ctypes.c_uint32 * _MOST_PROGRAMS)()
    layout = "=IIIIQII"
    attr = struct.pack(layout, netns, ATTACH_SK_LOOKUP, 0, 0, ctypes.addressof(numbers), _MOST_PROGRAMS, 0)
    buffer = ctypes.create_string_buffer(attr, len(attr))
    _call(_BPF_PROG_QUERY, buffer)
    return tuple(numbers[: struct.unpack(layout, buffer.raw)[5]])


def program_by_number(number: int) -> int:
    """A descriptor of any program in the kernel. Raises ``OSError``: ENOENT when it is gone. Needs CAP_SYS_ADMIN."""
    return call(_BPF_PROG_GET_FD_BY_ID, struct.pack("=III", number, 0, 0))


def program_info(fd: int) -> tuple[int, str]:
    """A program's number and name. Raises ``OSError``."""
    info = ctypes.create_string_buffer(_INFO_BYTES)
    call(_BPF_OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, _INFO_BYTES, ctypes.addressof(info)))
    name = info.raw[64:].partition(b"\0")[0]
    return int.from_bytes(info.raw[4:8], sys.byteorder), name.decode(errors="replace")


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
