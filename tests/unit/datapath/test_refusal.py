import errno
import re

import pytest

from tpnet.datapath.refusal import Machine, explain_refusal
from tpnet.kernel.bpf import LoadError
from tpnet.model import Refused

ALL = (1 << 41) - 1
NET_ADMIN, SYS_ADMIN, BPF = 1 << 12, 1 << 21, 1 << 39


def machine(release="6.1.0-49-amd64", capabilities=ALL, seccomp=False, lockdown="", user_namespace=False):
    return Machine(release, capabilities, seccomp, lockdown, user_namespace)


LOG = """0: (b7) r0 = 1
1: (61) r1 = *(u32 *)(r1 +99)
invalid bpf_context access off=99 size=4
processed 2 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
"""

TABLE = {
    "no capabilities": (OSError(errno.EPERM, ""), "map", machine(capabilities=0), "no CAP_BPF and no CAP_NET_ADMIN", "root"),
    "no CAP_BPF": (OSError(errno.EPERM, ""), "load", machine(capabilities=NET_ADMIN), "has no CAP_BPF.", "root"),
    "CAP_SYS_ADMIN has CAP_BPF in it": (
        OSError(errno.EPERM, ""), "load", machine(capabilities=SYS_ADMIN), "has no CAP_NET_ADMIN.", "root",
    ),
    "no CAP_NET_ADMIN for the link": (
        OSError(errno.EPERM, ""), "link", machine(capabilities=BPF), "attach the redirect.*has no CAP_NET_ADMIN.", "root",
    ),
    "user namespace": (OSError(errno.EPERM, ""), "map", machine(user_namespace=True), "user namespace", "machine's root"),
    "lockdown": (OSError(errno.EPERM, ""), "load", machine(lockdown="confidentiality"), "lockdown", "integrity"),
    "seccomp": (OSError(errno.EPERM, ""), "map", machine(seccomp=True), "seccomp", "Unconfined"),
    "security module": (OSError(errno.EACCES, ""), "map", machine(), "SELinux", "ausearch"),
    "no bpf at all": (OSError(errno.ENOSYS, ""), "map", machine(), "no bpf system call", "CONFIG_BPF_SYSCALL"),
    "old kernel": (
        LoadError(errno.EINVAL, ""), "load", machine("5.4.0-150-generic"), "need Linux 5.9, this is 5.4.0-150-generic", "newer",
    ),
    "an old major": (LoadError(errno.EINVAL, ""), "load", machine("4.19.0"), "need Linux 5.9", "newer"),
    "the first kernel": (LoadError(errno.EINVAL, ""), "load", machine("5.9.0"), "knows no sk_lookup", "CONFIG_INET"),
    "two digits": (LoadError(errno.EINVAL, ""), "load", machine("5.10.223"), "knows no sk_lookup", "really Linux"),
    "verifier": (LoadError(errno.EACCES, LOG), "load", machine(), "invalid bpf_context access off=99 size=4", "6.1.0-49"),
    "64 programs": (OSError(errno.E2BIG, ""), "link", machine(), "64 sk_lookup programs", "bpftool"),
    "out of descriptors": (OSError(errno.EMFILE, "Too many open files"), "map", machine(), "EMFILE.*too many open", ""),
}  # fmt: skip


@pytest.mark.parametrize("row", TABLE)
def test_the_message_names_what_is_missing(row):
    error, doing, where, words, hint = TABLE[row]
    refused = explain_refusal(error, doing, where)
    assert isinstance(refused, Refused)
    assert re.search(words, refused.message), refused.message
    assert hint in refused.hint
    assert refused.message.endswith(".")
    assert not refused.message.endswith("..")
    assert errno.errorcode[error.errno] in refused.message


def test_the_machine_can_be_looked_at_by_anybody():
    found = Machine.look()
    assert found.release
    assert found.capabilities >= 0
