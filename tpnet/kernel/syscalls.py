"""The numbers of system calls, for filters: x86-64 has its own, arm64 has those of asm-generic/unistd.h.

``tpnet.kernel.seccomp`` reads them. A machine that is not in ``MACHINES`` must never get a filter by guess.
"""

from __future__ import annotations

from typing import NamedTuple


class Machine(NamedTuple):
    """``column`` of ``NUMBERS``; ``audit`` as ``struct seccomp_data`` names the machine (linux/audit.h)."""

    column: int
    audit: int


MACHINES = {"x86_64": Machine(0, 0xC000003E), "aarch64": Machine(1, 0xC00000B7)}
"""By ``os.uname().machine``."""

NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "accept4": (288, 242),
    "bind": (49, 200),
    "bpf": (321, 280),
    "brk": (12, 214),
    "clock_gettime": (228, 113),
    "close": (3, 57),
    "connect": (42, 203),
    "epoll_ctl": (233, 21),
    "epoll_pwait": (281, 22),
    "epoll_wait": (232, None),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "fcntl": (72, 25),
    "fstat": (5, 80),
    "futex": (202, 98),
    "getpid": (39, 172),
    "getrandom": (318, 278),
    "getsockname": (51, 204),
    "getsockopt": (55, 209),
    "gettid": (186, 178),
    "gettimeofday": (96, 169),
    "ioctl": (16, 29),
    "listen": (50, 201),
    "madvise": (28, 233),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "munmap": (11, 215),
    "newfstatat": (262, 79),
    "pipe2": (293, 59),
    "pread64": (17, 67),
    "pselect6": (270, 72),
    "read": (0, 63),
    "recvfrom": (45, 207),
    "recvmsg": (47, 212),
    "restart_syscall": (219, 128),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_getaffinity": (204, 123),
    "sched_yield": (24, 124),
    "select": (23, None),
    "sendmsg": (46, 211),
    "sendto": (44, 206),
    "setsockopt": (54, 208),
    "shutdown": (48, 210),
    "sigaltstack": (131, 132),
    "splice": (275, 76),
    "write": (1, 64),
}
"""By name: on x86-64, on arm64; ``None`` where the machine lacks the call."""


def number_of(name: str, machine: Machine) -> int | None:
    """The number; ``None`` where the machine lacks the call. Raises ``KeyError`` for a name that is not here."""
    return NUMBERS[name][machine.column]
