"""Filters of system calls (seccomp(2)): what is refused fails with EPERM, and the process lives on.

``assemble`` is pure: it makes the classic BPF program of a list. ``install`` puts it on every thread of this process, for
good. A filter must never decide by what a pointer points to: another thread may change it after the look.

Why EPERM and not the end of the process: who has taken the process over gains nothing either way, and a new C library
that makes a call nobody thought of must not cost the connections of a whole node. A call of another machine's table
(32-bit, x32) is no such accident, and ends the process.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from tpnet.kernel.libc import LIBC, last_error
from tpnet.kernel.syscalls import MACHINES, number_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tpnet.kernel.syscalls import Machine

# linux/seccomp.h
RET_ALLOW = 0x7FFF_0000
RET_KILL_PROCESS = 0x8000_0000
_RET_ERRNO = 0x0005_0000
RET_EPERM = _RET_ERRNO | errno.EPERM
_SET_MODE_FILTER = 1
_FLAG_TSYNC = 1
# struct seccomp_data: the call's number, its machine, the instruction's address, six arguments of 64 bits
_NR, _ARCH, _ARGS = 0, 4, 16
_X32_BIT = 0x4000_0000  # asm/unistd.h: x32's calls are x86-64's with this bit
# linux/filter.h
_LD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_INSTRUCTION = struct.Struct("=HBBI")
_SECCOMP = {"x86_64": 317, "aarch64": 277}

# Not the function of tpnet.kernel.libc, whose arguments are those of bpf(2).
_syscall = LIBC["syscall"]
_syscall.argtypes = (ctypes.c_long, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p)
_syscall.restype = ctypes.c_long


class Is(NamedTuple):
    """The argument is one of ``values``. Of an ``int``: the kernel looks at its lower 32 bits, and so does this."""

    argument: int
    values: tuple[int, ...]


class Without(NamedTuple):
    """The argument has none of ``bits``, which lie in its lower half."""

    argument: int
    bits: int


Checks = tuple[Is | Without, ...]


class Allow(NamedTuple):
    """A call that is allowed when every one of ``checks`` holds. Two with one name: when those of either do."""

    name: str
    checks: Checks = ()


class Refuse(NamedTuple):
    """A call that fails with ``error`` when every one of ``checks`` holds: of use where what is not named is allowed.

    With ``error`` 0 it does nothing, and its caller takes it for done.
    """

    name: str
    error: int = errno.EPERM
    checks: Checks = ()


def machine() -> Machine:
    """This machine's. Raises ``OSError`` (ENOSYS) where the numbers are not known."""
    name = os.uname().machine
    if name not in MACHINES:
        raise OSError(errno.ENOSYS, f"the numbers of system calls are not known for {name}")
    return MACHINES[name]


def assemble(rules: Iterable[Allow | Refuse], machine: Machine, otherwise: int = RET_EPERM) -> bytes:
    """The program: ``struct sock_filter`` after ``struct sock_filter``. Calls are looked for in the given order.

    ``otherwise`` is what becomes of a call that no rule names, ``RET_EPERM`` or ``RET_ALLOW``.
    """
    ways: dict[int, list[Checks]] = {}
    blocks: dict[int, list[list[int]]] = {}
    for one in rules:
        number = number_of(one.name, machine)
        if number is None:
            continue
        if isinstance(one, Refuse):
            blocks[number] = _ways([one.checks], _RET_ERRNO | one.error, otherwise)
        else:
            ways.setdefault(number, []).append(one.checks)
            blocks[number] = _ways(ways[number], RET_ALLOW, RET_EPERM)
    program = [
        *([_LD, 0, 0, _ARCH], [_JEQ, 1, 0, machine.audit], [_RET, 0, 0, RET_KILL_PROCESS]),
        *([_LD, 0, 0, _NR], [_JGE, 0, 1, _X32_BIT], [_RET, 0, 0, RET_KILL_PROCESS]),
    ]
    for number, block in blocks.items():
        program += [[_JEQ, 0, len(block), number], *block]
    program.append([_RET, 0, 0, otherwise])
    return b"".join(_INSTRUCTION.pack(*one) for one in program)


def _ways(ways: list[Checks], answer: int, otherwise: int) -> list[list[int]]:
    """The instructions behind a call's number: ``answer`` if all checks of one of these ways hold."""
    block: list[list[int]] = []
    for checks in ways:
        way = [[_RET, 0, 0, answer]]
        for check in reversed(checks):  # each jumps over all that follows in its way when it does not hold
            tests = [[_LD, 0, 0, _ARGS + 8 * check.argument]]
            if isinstance(check, Without):
                tests.append([_JSET, len(way), 0, check.bits])
            else:
                last = len(check.values) - 1
                for at, value in enumerate(check.values):
                    tests.append([_JEQ, last - at, len(way) if at == last else 0, value])
            way = tests + way
        block += way
    return [*block, [_RET, 0, 0, otherwise]] if all(ways) else block


def install(program: bytes) -> None:
    """Filter the calls of every thread of this process from now on. Raises ``OSError``.

    The process must have ``no_new_privs``, or CAP_SYS_ADMIN.
    """
    code = ctypes.create_string_buffer(program, len(program))
    sock_fprog = struct.pack("=HxxxxxxQ", len(program) // _INSTRUCTION.size, ctypes.addressof(code))
    at = ctypes.create_string_buffer(sock_fprog, len(sock_fprog))
    done = _syscall(_SECCOMP[os.uname().machine], _SET_MODE_FILTER, _FLAG_TSYNC, ctypes.addressof(at))
    if done < 0:
        raise last_error("seccomp")
    if done > 0:
        raise OSError(errno.ESRCH, f"thread {done} does not take the filter over")
