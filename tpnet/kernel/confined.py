"""Starts a program of others with the least it needs: ``main(PROFILE, USER, COMMAND…)`` confines this process, and is it.

For children of the agent that are not its own code's process: ``wireguard-go`` (``device``) and BCC's compiler
(``compiler``). Must never need anything but the standard library and ``tpnet.kernel``: it is in the way of their start.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple

from tpnet.kernel import capabilities, landlock, limits, namespaces, seccomp
from tpnet.kernel.libc import die_with_parent
from tpnet.kernel.seccomp import Allow, Is, Refuse, Without

# asm-generic/fcntl.h
_WRONLY, _RDWR, _CREAT, _TRUNC = 1, 2, 0o100, 0o1000
_NEW_NAMESPACES = (
    0x7E02_0000  # linux/sched.h: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
)
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16  # linux/socket.h
_BPF_MAP_CREATE, _BPF_BTF_LOAD = 0, 18  # linux/bpf.h
_SIOCSIFMTU = 0x8922  # linux/sockios.h

# A list of what is refused: what other people's programs and their runtimes call changes with each release. What is not
# there is what a program without capabilities may do anyway.
NEVER: tuple[Allow | Refuse, ...] = (
    *map(
        Refuse,
        ("unshare", "setns", "pivot_root", "chroot", "mount", "umount2", "fsopen", "fsconfig", "fsmount"),
    ),
    *map(
        Refuse,
        ("fspick", "open_tree", "move_mount", "mount_setattr", "swapon", "swapoff", "quotactl", "acct"),
    ),
    *map(
        Refuse, ("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_getfd")
    ),
    *map(
        Refuse,
        ("kill", "tkill", "pidfd_open", "pidfd_send_signal", "personality", "userfaultfd", "memfd_secret"),
    ),
    *map(
        Refuse,
        ("io_uring_setup", "io_uring_enter", "io_uring_register", "perf_event_open", "syslog", "vhangup"),
    ),
    *map(
        Refuse,
        ("keyctl", "add_key", "request_key", "name_to_handle_at", "open_by_handle_at", "fanotify_init"),
    ),
    *map(Refuse, ("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot")),
    *map(
        Refuse, ("settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname")
    ),
    *map(Refuse, ("move_pages", "migrate_pages", "mbind", "vmsplice", "iopl", "ioperm")),
    # ENOSYS: these have elders, to which the C library then turns, and whose arguments can be looked at.
    Refuse("clone3", errno.ENOSYS),
    Refuse("openat2", errno.ENOSYS),
    Allow("clone", (Without(0, _NEW_NAMESPACES),)),
)


class Profile(NamedTuple):
    """What a program keeps, and what is refused to it besides ``NEVER``.

    ``watches``: a file below /var/run that it looks for, which it alone sees; ``{}`` is its last argument.
    ``capabilities``: those of the first of these sets whose first one is held; of the others, what is held.
    """

    capabilities: tuple[tuple[int, ...], ...]
    calls: tuple[Allow | Refuse, ...]
    network: bool
    watches: str
    most_bytes: int
    end: signal.Signals


PROFILES = {
    # It is given its interface and its Unix socket; it makes UDP sockets, and asks netlink. It would end if it did not
    # set the interface's MTU, or its socket had no name: both it only thinks.
    "device": Profile(
        (),
        (
            Allow("socket", (Is(0, (_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK)),)),
            Allow("openat", (Without(2, _WRONLY | _RDWR | _CREAT | _TRUNC),)),
            Allow("open", (Without(1, _WRONLY | _RDWR | _CREAT | _TRUNC),)),
            Refuse("ioctl", 0, (Is(1, (_SIOCSIFMTU,)),)),
            *map(Refuse, ("creat", "bpf")),
        ),
        network=True,
        watches="/var/run/wireguard/{}.sock",
        most_bytes=1 << 17,
        end=signal.SIGTERM,
    ),
    # It reads files, which may be in a home of somebody's, and makes maps, which it must to compile.
    "compiler": Profile(
        (
            (capabilities.BPF, capabilities.NET_ADMIN, capabilities.DAC_READ_SEARCH),
            (capabilities.SYS_ADMIN, capabilities.NET_ADMIN, capabilities.DAC_READ_SEARCH),
        ),
        (
            Allow("bpf", (Is(0, (_BPF_MAP_CREATE, _BPF_BTF_LOAD)),)),
            Allow("openat", (Without(2, _WRONLY | _RDWR | _CREAT | _TRUNC),)),
            Allow("open", (Without(1, _WRONLY | _RDWR | _CREAT | _TRUNC),)),
            *map(
                Refuse, ("socket", "socketpair", "creat", "unlink", "unlinkat", "rmdir", "rename", "renameat")
            ),
            *map(
                Refuse,
                (
                    "renameat2",
                    "mkdir",
                    "mkdirat",
                    "mknod",
                    "mknodat",
                    "link",
                    "linkat",
                    "symlink",
                    "symlinkat",
                ),
            ),
            *map(
                Refuse, ("chmod", "fchmod", "fchmodat", "chown", "fchown", "lchown", "fchownat", "truncate")
            ),
        ),
        network=False,
        watches="",
        most_bytes=0,
        end=signal.SIGKILL,
    ),
}


def command(profile: str, *words: str, user: int = 0) -> list[str]:
    """What starts ``words`` confined, as ``user`` (user and group; 0: who starts it).

    No site-packages are looked at: that would be most of the time it takes.
    """
    root = str(Path(__file__).parents[2])
    code = (
        f"import sys; sys.path.append({root!r}); from tpnet.kernel.confined import main; main(*sys.argv[1:])"
    )
    return [sys.executable, "-I", "-S", "-c", code, profile, str(user), *words]


def confine(profile: Profile, user: int, argument: str) -> None:
    """Give up what the profile does not keep, and become ``user``, who is 0 where the profile keeps something.

    ``argument``: the program's last one. Raises ``OSError``.
    """
    die_with_parent(profile.end)
    if profile.watches:
        namespaces.own_run(Path(profile.watches.format(argument)).relative_to("/var/run"))
    namespaces.leave_names(network=not profile.network)
    kept = next((one for one in profile.capabilities if capabilities.held() >> one[0] & 1), ())
    capabilities.bound_to(kept)
    if user:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    capabilities.keep(kept)
    die_with_parent(profile.end)  # again: the kernel has forgotten it
    capabilities.no_new_privileges()
    limits.forbid_files(profile.most_bytes)
    landlock.forbid_changes()
    calls = (*NEVER, *profile.calls)
    seccomp.install(seccomp.assemble(calls, seccomp.machine(), otherwise=seccomp.RET_ALLOW))


def main(name: str, user: str, program: str, *arguments: str) -> None:
    """Become the program. Does not return; on failure one sentence on standard error."""
    try:
        program = os.path.realpath(program)  # which may lead through /run
        confine(PROFILES[name], int(user), arguments[-1])
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python's own start has it ignored
        os.execv(program, [program, *arguments])  # noqa: S606 - that is what it is for
    except (OSError, ValueError) as error:
        sys.exit(f"{Path(program).name} cannot be confined: {error}")
