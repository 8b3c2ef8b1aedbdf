"""What may arrive at a socket: small eBPF programs, which the kernel asks before anything waits there.

Written by hand: a compiler would be too much for a few lines. Must never hold a descriptor after ``attach``: a socket
keeps its own filter.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

from tpnet.kernel import bpf

if TYPE_CHECKING:
    from collections.abc import Sequence

_SO_LOCK_FILTER, _SO_ATTACH_BPF = 44, 50  # asm-generic/socket.h
_BPF_MAP_TYPE_LRU_HASH = 9
_MOST_SOURCES = 4096
_NS = 1_000_000_000

# Instructions: linux/bpf_common.h, linux/bpf.h. Helpers: enum bpf_func_id.
_MOV, _MOV_REG, _ADD, _SUB = 0xB7, 0xBF, 0x07, 0x17
_LOAD, _STORE, _LOAD_MAP, _LOAD_PACKET_16 = 0x79, 0x7B, 0x18, 0x28
_JUMP, _JUMP_EQ, _JUMP_NE, _JUMP_GE_REG, _JUMP_GT_REG, _CALL, _EXIT = 0x05, 0x15, 0x55, 0x3D, 0x2D, 0x85, 0x95
_MAP_LOOKUP, _MAP_UPDATE, _KTIME, _LOAD_RELATIVE = 1, 2, 5, 68
_FROM_NETWORK_HEADER = 1
_MAP_FD = 1
_R0, _R1, _R2, _R3, _R4, _R5, _R6, _R7, _R8, _STACK = 0, 1, 2, 3, 4, 5, 6, 7, 8, 10
_SOURCE = 8  # where in an IPv6 header it is
_KEY, _VALUE = -16, -24  # on the stack

_Op = tuple[int, int, int, int, int]
_DROP: tuple[_Op, ...] = ((_MOV, _R0, 0, 0, 0), (_EXIT, 0, 0, 0, 0))
_PASS: tuple[_Op, ...] = ((_MOV, _R0, 0, 0, -1), (_EXIT, 0, 0, 0, 0))


def from_port(port: int) -> int:
    """A filter of TCP sockets: nothing arrives but what comes from this port. A descriptor; raises ``OSError``."""
    code: list[_Op] = [
        (_MOV_REG, _R6, _R1, 0, 0),
        (_LOAD_PACKET_16, 0, 0, 0, 0),  # TCP's header begins with it
        (_JUMP_NE, _R0, 0, len(_PASS), port),
    ]
    return bpf.load_socket_filter("tpnet_port", _bytes([*code, *_PASS, *_DROP]))


def at_most(per_second: int, burst: int) -> int:
    """A filter of UDP sockets: of each IPv6 address so much arrives, after as much as ``burst`` at once.

    What is more is dropped before it waits anywhere: nobody's datagrams are lost because of another's. A descriptor;
    raises ``OSError``.
    """
    sources = bpf.create_map(bpf.MapSpec("tpnet_sources", _BPF_MAP_TYPE_LRU_HASH, 16, 8, _MOST_SOURCES))
    try:
        return bpf.load_socket_filter("tpnet_rate", _bytes(_at_most(sources, per_second, burst)))
    finally:
        os.close(sources)  # the program's now


def _at_most(sources: int, per_second: int, burst: int) -> list[_Op]:
    """The value of a source is the time up to which it has used its rate; it lags behind now by ``burst`` at most."""
    step = _NS // per_second
    source: list[_Op] = [  # onto the stack, from a packet in r1
        (_MOV, _R2, 0, 0, _SOURCE),
        (_MOV_REG, _R3, _STACK, 0, 0),
        (_ADD, _R3, 0, 0, _KEY),
        (_MOV, _R4, 0, 0, 16),
        (_MOV, _R5, 0, 0, _FROM_NETWORK_HEADER),
        (_CALL, 0, 0, 0, _LOAD_RELATIVE),
    ]
    now: list[_Op] = [  # r7: now; r8: as early as a time may be
        (_CALL, 0, 0, 0, _KTIME),
        (_MOV_REG, _R7, _R0, 0, 0),
        (_MOV_REG, _R8, _R0, 0, 0),
        (_SUB, _R8, 0, 0, step * burst),
    ]
    look: list[_Op] = [*_map_in_r1(sources), *_key_in_r2(), (_CALL, 0, 0, 0, _MAP_LOOKUP)]
    known: list[_Op] = [  # r1: its time, no earlier than may be
        (_LOAD, _R1, _R0, 0, 0),
        (_JUMP_GE_REG, _R1, _R8, 1, 0),
        (_MOV_REG, _R1, _R8, 0, 0),
        (_JUMP_GT_REG, _R1, _R7, 2 + len(_PASS), 0),  # over its rate
        (_ADD, _R1, 0, 0, step),
        (_STORE, _R0, _R1, 0, 0),
    ]
    new: list[_Op] = [
        (_STORE, _STACK, _R8, _VALUE, 0),
        *_map_in_r1(sources),
        *_key_in_r2(),
        (_MOV_REG, _R3, _STACK, 0, 0),
        (_ADD, _R3, 0, 0, _VALUE),
        (_MOV, _R4, 0, 0, 0),
        (_CALL, 0, 0, 0, _MAP_UPDATE),
    ]
    return [
        *source,
        (_JUMP_EQ, _R0, 0, len(_DROP), 0),
        *_DROP,
        *now,
        *look,
        (_JUMP_EQ, _R0, 0, len(known) + len(_PASS) + len(_DROP), 0),
        *known,
        *_PASS,
        *_DROP,
        *new,
        *_PASS,
    ]


def _map_in_r1(fd: int) -> tuple[_Op, ...]:
    return (_LOAD_MAP, _R1, _MAP_FD, 0, fd), (0, 0, 0, 0, 0)


def _key_in_r2() -> tuple[_Op, ...]:
    return (_MOV_REG, _R2, _STACK, 0, 0), (_ADD, _R2, 0, 0, _KEY)


def _bytes(code: Sequence[_Op]) -> bytes:
    return b"".join(
        struct.pack("=BBhi", operation, to | source << 4, offset, value)
        for operation, to, source, offset, value in code
    )


def attach(sock: socket.socket, program: int) -> None:
    """Let nothing arrive at a socket but what the program passes, for as long as there is the socket.

    Raises ``OSError``. ``program`` stays the caller's.
    """
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_BPF, program)
    sock.setsockopt(socket.SOL_SOCKET, _SO_LOCK_FILTER, 1)
