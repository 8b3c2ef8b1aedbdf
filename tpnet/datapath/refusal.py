"""Why the kernel refused BPF, in words. Called where bpf(2) failed; reads, never changes, the machine."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tpnet.kernel.bpf import LoadError
from tpnet.model import Refused

if TYPE_CHECKING:
    from typing import Literal

_CAP_NET_ADMIN = 12
_CAP_SYS_ADMIN = 21
_CAP_BPF = 39
_FIRST_KERNEL = (5, 9)


@dataclass(frozen=True, slots=True)
class Machine:
    """What bears on BPF: ``capabilities`` the effective mask, ``lockdown`` its mode, empty for none."""

    release: str
    capabilities: int
    seccomp: bool
    lockdown: str
    user_namespace: bool

    @staticmethod
    def look() -> Machine:
        """This machine and process, now."""
        status = _read("/proc/self/status")
        lockdown = re.search(r"\[(\w+)\]", _read("/sys/kernel/security/lockdown"))
        return Machine(
            release=os.uname().release,
            capabilities=int((re.search(r"^CapEff:\s*(\w+)", status, re.M) or ["", "0"])[1], 16),
            seccomp=bool(re.search(r"^Seccomp:\s*[12]", status, re.M)),
            lockdown="" if lockdown is None or lockdown[1] == "none" else lockdown[1],
            user_namespace=_read("/proc/self/uid_map").split() != ["0", "0", "4294967295"],
        )

    def has(self, capability: int) -> bool:
        """Whether the process has it."""
        return bool(self.capabilities >> capability & 1)


def explain_refusal(
    error: OSError, doing: Literal["map", "load", "link"], machine: Machine | None = None
) -> Refused:
    """The error for a user: what was refused, what is missing, what to try."""
    machine = machine or Machine.look()
    what = {
        "map": "The kernel refuses to make a BPF map",
        "load": "The kernel refuses the redirect's BPF program",
        "link": "The kernel refuses to attach the redirect to the target's network namespace",
    }[doing]
    reason, hint = _reason(error, doing, machine)
    return Refused(f"{what} ({errno.errorcode.get(error.errno or 0, error.errno)}): {reason}.", hint)


def _reason(error: OSError, doing: str, machine: Machine) -> tuple[str, str]:
    if error.errno in {errno.EPERM, errno.EACCES} and not _log(error):
        return _no_permission(doing, machine)
    if error.errno == errno.ENOSYS:
        return (
            "it has no bpf system call",
            "A kernel with CONFIG_BPF_SYSCALL=y is needed.",
        )
    version = tuple(int(part) for part in re.findall(r"\d+", machine.release)[:2])
    if version < _FIRST_KERNEL:
        return (
            f"sk_lookup programs need Linux 5.9, this is {machine.release}",
            "Use a node with a newer kernel.",
        )
    if doing == "link" and error.errno == errno.E2BIG:
        return "64 sk_lookup programs are attached there already", "Remove other programs: bpftool link show."
    if log := _log(error):
        return (
            f"its verifier says: {log}",
            f"Please report this with the kernel's version, {machine.release}.",
        )
    if error.errno == errno.EINVAL:
        return (
            f"it knows no sk_lookup programs, though its version, {machine.release}, should",
            "A kernel with CONFIG_BPF_SYSCALL=y and CONFIG_INET=y is needed, and one that is really Linux.",
        )
    return (error.strerror or "no reason given").lower(), ""


def _no_permission(doing: str, machine: Machine) -> tuple[str, str]:
    needed = (
        [(_CAP_NET_ADMIN, "CAP_NET_ADMIN")]
        if doing == "link"
        else [(_CAP_BPF, "CAP_BPF"), (_CAP_NET_ADMIN, "CAP_NET_ADMIN")]
    )
    missing = [name for capability, name in needed if not machine.has(capability)]
    if machine.has(_CAP_SYS_ADMIN):  # which includes CAP_BPF, and was what kernels before 5.8 asked for
        missing = [name for name in missing if name != "CAP_BPF"]
    if machine.user_namespace:
        return (
            "this process is root in a user namespace only",
            "Run the agent as the machine's root, or as a privileged container without user namespace.",
        )
    if missing:
        return (
            f"this process has no {' and no '.join(missing)}",
            "Run the agent as root; in a container, with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN.",
        )
    if machine.lockdown == "confidentiality":
        return (
            "kernel lockdown is in mode confidentiality",
            "Use lockdown=integrity (or none) on the kernel's command line.",
        )
    if machine.seccomp:
        return (
            "a seccomp filter forbids the bpf system call",
            "Run the agent's container with seccomp profile Unconfined.",
        )
    return (
        "a security module (SELinux, AppArmor or the like) forbids it",
        "Its log says which rule: journalctl -k, or ausearch -m avc.",
    )


def _log(error: OSError) -> str:
    """The line of the verifier's log that says what is wrong: the last one before its statistics."""
    if not isinstance(error, LoadError):
        return ""
    lines = [
        line.strip()
        for line in error.log.splitlines()
        if line.strip() and not re.match(r"processed \d+ insns|verification time|stack depth", line)
    ]
    return lines[-1] if lines else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
