import subprocess
import sys

READ_ONLY = """
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro,nosuid,nodev,noexec /proc/sys
exec "$@"
"""
ASK = """
import ctypes, os
from pathlib import Path
from tpnet.datapath.sysctl import make_net_sysctls_writable
print(make_net_sysctls_writable(), make_net_sysctls_writable())
assert ctypes.CDLL(None).unshare(0x40000000) == 0  # CLONE_NEWNET
Path("/proc/sys/net/ipv4/tcp_fwmark_accept").write_text("1")
print(Path("/proc/sys/net/ipv4/tcp_fwmark_accept").read_text().strip())
flags = os.statvfs("/proc/sys/net").f_flag
print(all(flags & flag for flag in (os.ST_NOSUID, os.ST_NODEV, os.ST_NOEXEC)))
try:
    Path("/proc/sys/kernel/hostname").write_text("changed")
except OSError as error:
    print(error.strerror)
"""


def ask(*through, code=ASK):
    command = ["unshare", "--mount", "--propagation", "private", *through, sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


def mounts_on_proc():
    mounts = subprocess.run(["cat", "/proc/mounts"], capture_output=True, check=True, text=True).stdout
    return [line for line in mounts.splitlines() if line.split()[1].startswith("/proc")]


def test_only_the_networks_part_becomes_writable_and_only_for_this_mount_namespace():
    before = mounts_on_proc()
    answer = ask("sh", "-euc", READ_ONLY, "sh")
    assert answer.stdout.split("\n")[:4] == ["True False", "1", "True", "Read-only file system"], (
        answer.stderr
    )
    assert mounts_on_proc() == before


def test_where_it_is_writable_nothing_is_done():
    answer = ask(code="from tpnet.datapath.sysctl import make_net_sysctls_writable as f; print(f())")
    assert answer.stdout == "False\n"


def test_without_the_right_it_says_what_is_missing():
    code = "from tpnet.datapath.sysctl import make_net_sysctls_writable as f\ntry: f()\nexcept Exception as e: print(e, e.hint)"
    answer = ask(
        "sh", "-euc", READ_ONLY, "sh", "setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all", code=code
    )
    assert answer.stdout.startswith(
        "/proc/sys/net is read-only, and cannot be made writable: Operation not permitted."
    )
    assert "CAP_SYS_ADMIN" in answer.stdout
