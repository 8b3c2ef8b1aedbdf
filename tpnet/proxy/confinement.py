"""What the worker is held to: nothing but the calls that its loop makes, on what the supervisor hands it.

``tpnet.proxy.worker`` calls ``confine`` once it has imported all it needs. Whoever takes the worker over with a client's
bytes must find nothing there: no file, no process, no network, no privilege, and no call to get one with. Must never
let the worker serve when a step of this fails.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from tpnet.kernel import bpf, limits, namespaces, seccomp
from tpnet.kernel.libc import die_with_parent
from tpnet.kernel.seccomp import Allow, Is, Without
from tpnet.kernel.tcp import SO_BUF_LOCK, TCP_NOTSENT_LOWAT
from tpnet.model import TpnetError
from tpnet.proxy import privileges

if TYPE_CHECKING:
    from collections.abc import Callable

# linux/fcntl.h, asm-generic/ioctls.h, asm-generic/mman-common.h, linux/stat.h
_F_GETFD, _F_SETFD, _F_GETFL, _F_SETFL, _F_DUPFD_CLOEXEC, _F_SETPIPE_SZ = 1, 2, 3, 4, 1030, 1031
_FIONBIO = 0x5421
_PROT_EXEC = 4
_AT_EMPTY_PATH = 0x1000

# No sendmsg: descriptors could be handed to the supervisor with it, whose close(2) of some takes as long as one likes.
CALLS = (
    # For every request, the most frequent first: the kernel looks from the top.
    *map(
        Allow,
        ("epoll_wait", "epoll_pwait", "recvfrom", "sendto", "epoll_ctl", "getsockname", "close", "connect"),
    ),
    *map(
        Allow,
        ("accept4", "bind", "listen", "shutdown", "recvmsg", "splice", "read", "write", "pipe2"),
    ),
    # The bypass map's entries. Neither maps nor programs.
    Allow("bpf", (Is(0, (bpf.BPF_MAP_UPDATE_ELEM, bpf.BPF_MAP_DELETE_ELEM)),)),
    Allow(
        "setsockopt",
        (Is(1, (socket.SOL_SOCKET,)), Is(2, (socket.SO_LINGER, socket.SO_RCVBUF, SO_BUF_LOCK))),
    ),
    Allow(
        "setsockopt",
        (
            Is(1, (socket.IPPROTO_TCP,)),
            Is(2, (socket.TCP_NODELAY, socket.TCP_KEEPIDLE, TCP_NOTSENT_LOWAT)),
        ),
    ),
    Allow("getsockopt", (Is(1, (socket.SOL_SOCKET,)),)),
    Allow("getsockopt", (Is(1, (socket.IPPROTO_TCP,)), Is(2, (socket.TCP_INFO,)))),
    Allow("fcntl", (Is(1, (_F_GETFD, _F_SETFD, _F_GETFL, _F_SETFL, _F_DUPFD_CLOEXEC, _F_SETPIPE_SZ)),)),
    Allow("ioctl", (Is(1, (_FIONBIO,)),)),
    # A long message of the supervisor's; the signs of life.
    Allow("pread64"),
    Allow("fstat"),
    Allow("newfstatat", (Is(3, (_AT_EMPTY_PATH,)),)),
    # Memory, but no new code.
    *map(Allow, ("brk", "munmap", "mremap", "madvise")),
    Allow("mmap", (Without(2, _PROT_EXEC),)),
    Allow("mprotect", (Without(2, _PROT_EXEC),)),
    # What Python and the C library do by themselves.
    *map(
        Allow,
        ("futex", "clock_gettime", "gettimeofday", "getrandom", "getpid", "gettid", "select", "pselect6"),
    ),
    *map(Allow, ("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall")),
    *map(Allow, ("sched_yield", "sched_getaffinity", "exit", "exit_group")),
)
"""All that the worker may call once it serves."""


def confine(uid: int, begin_threads: Callable[[], None]) -> None:
    """Leave the node behind, become ``uid`` without privileges, and keep to ``CALLS``.

    ``begin_threads`` starts the threads that are needed: there is no other time for it. Raises ``TpnetError``.
    """
    try:
        namespaces.leave()
        namespaces.empty_root()
    except OSError as error:
        raise TpnetError(
            f"The worker cannot leave the node's file system and networks: {error.strerror}.",
            "Run the agent as root, with CAP_SYS_ADMIN and CAP_SYS_CHROOT.",
        ) from error
    privileges.drop(uid)
    die_with_parent()  # said before, and forgotten by the kernel as the user changed
    begin_threads()
    try:
        limits.forbid_processes()
        limits.forbid_files()
        seccomp.install(seccomp.assemble(CALLS, seccomp.machine()))
    except (OSError, ValueError) as error:
        raise TpnetError(
            f"The worker cannot be kept to the system calls that it needs: {error}.",
            "The kernel must have CONFIG_SECCOMP_FILTER, on x86-64 or arm64.",
        ) from error
