"""What the programs of others are held to that an agent starts: its tunnel's device, its compiler."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tunnel_lab import Lab
from worker_lab import until

from tpnet.datapath.program import compile_program
from tpnet.kernel import confined
from tpnet.kernel.uids import WORKER_UIDS
from tpnet.tunnel.wireguard_go import WireGuardGo

SHARED = Path(__file__).parent.parent / "shared"
EVERY = (
    "unshare user", "unshare user and net", "unshare mount", "setns", "mount", "umount", "fsopen", "open_tree", "pivot_root",
    "chroot", "io_uring_setup", "io_uring_enter", "io_uring_register", "ptrace", "process_vm_readv", "process_vm_writev",
    "perf_event_open", "keyctl", "add_key", "userfaultfd", "bpf program", "bpf lookup", "bpf object", "bpf link",
    "open for writing", "memfd_secret", "kill", "pidfd_open", "pidfd_getfd", "clone with namespaces", "init_module", "reboot",
    "syslog", "name_to_handle_at", "open_by_handle_at", "fanotify_init", "swapon", "personality", "socket raw",
    "socket packet", "socket alg", "socket vsock",
)  # fmt: skip
REFUSED = {
    "device": (*EVERY, "bpf map"),
    "compiler": (
        *EVERY, "socket tcp", "socket tcp6", "socket udp", "socket unix", "socket netlink", "socketpair", "mkdirat", "mknodat",
        "symlinkat", "renameat2", "unlinkat",
    ),
}  # fmt: skip
PROBE = """
import json, sys
import escapes
found = {name: escapes.tried(escapes.TRIES[name][0 if escapes.X86 else 1], escapes.TRIES[name][2]) for name in sys.argv[1:]}
print(json.dumps(found))
"""


def fields(pid):
    return dict(re.findall(r"^(\w+):[ \t]*(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE))


@pytest.mark.parametrize("profile", REFUSED)
def test_no_way_out_works_from_there(profile):
    done = subprocess.run(
        confined.command(profile, sys.executable, "-c", PROBE, *REFUSED[profile], "clone3", "openat2"),
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(SHARED)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {found.pop(name) for name in ("clone3", "openat2")} == {errno.ENOSYS}
    assert {name: said for name, said in found.items() if said != errno.EPERM} == {}


@pytest.mark.parametrize("profile", REFUSED)
def test_what_cannot_be_confined_does_not_run(profile):
    without = "from tpnet.kernel import seccomp; seccomp.MACHINES.clear()"
    command = confined.command(profile, "/bin/echo", "it ran")
    command[4] = f"{command[4].partition('; from')[0]}; {without}; from{command[4].partition('; from')[2]}"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "echo cannot be confined" in done.stderr


def test_the_device_is_nobody_and_has_no_capability():
    lab = Lab()
    try:
        with lab.ns("birth").entered():
            device = lab.keep(WireGuardGo())
        status = fields(device.pid)
        assert status["Name"] == "wireguard-go"
        users = {*status["Uid"].split(), *status["Gid"].split()}
        assert len(users) == 1
        assert int(users.pop()) in WORKER_UIDS
        assert status["Groups"].split() == []
        assert {int(status[f"Cap{kind}"], 16) for kind in ("Prm", "Eff", "Bnd", "Amb", "Inh")} == {0}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        limits = Path(f"/proc/{device.pid}/limits").read_text()
        assert re.search(r"^Max core file size\s+0\s+0\s", limits, re.MULTILINE)
    finally:
        lab.close()


def test_a_confined_child_dies_with_its_parent_and_has_its_signals():
    script = """
import subprocess, sys
from tpnet.kernel import confined
child = subprocess.Popen(confined.command("device", "/bin/sh", "-c", "echo; grep SigIgn /proc/self/status; exec sleep 30"),
                         stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, child.stdout.readline().split()[1])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    pid, ignored = done.stdout.split()
    assert not int(ignored, 16) & 1 << signal.SIGPIPE - 1
    until(lambda: not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text())


def test_the_compiler_is_started_confined(monkeypatch):
    seen = []
    run = subprocess.run

    def watched(command, **options):
        seen.append(command)
        return run(command, **options)

    monkeypatch.setattr("tpnet.datapath.program.subprocess.run", watched)
    assert len(compile_program().code) > 500
    before = len(confined.command("compiler"))
    assert seen[0][:before] == confined.command("compiler")


WRITES = """
import json, os, socket, sys
said = {}
def tried(name, act):
    try:
        act()
        said[name] = "done"
    except OSError as error:
        said[name] = os.strerror(error.errno)
file, folder = sys.argv[1:]
tried("open a file", lambda: os.close(os.open(file, os.O_RDWR)))
tried("truncate a file", lambda: os.truncate(file, 0))
tried("remove a file", lambda: os.unlink(file))
tried("make a folder", lambda: os.mkdir(folder + "/x"))
tried("link a file", lambda: os.symlink(file, folder + "/x"))
tried("rename a file", lambda: os.rename(file, folder + "/x"))
tried("bind a socket", lambda: socket.socket(socket.AF_UNIX).bind(folder + "/x"))
tried("read a file", lambda: os.close(os.open(file, os.O_RDONLY)))
tried("open /dev/net/tun", lambda: os.close(os.open("/dev/net/tun", os.O_RDWR)))
tried("bind where wireguard-go does", lambda: socket.socket(socket.AF_UNIX).bind("/var/run/wireguard/x.sock"))
tried("signal its parent", lambda: os.kill(os.getppid(), 0))
print(json.dumps(said))
"""


def test_what_root_has_the_device_neither_reads_nor_changes(tmp_path):
    """Among that: the token by which an agent speaks to the API server."""
    tmp_path.chmod(0o777)
    file = tmp_path / "file"
    file.write_text("precious")
    file.chmod(0o600)
    done = subprocess.run(
        confined.command("device", sys.executable, "-c", WRITES, str(file), str(tmp_path), user=WORKER_UIDS[-1]),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert len(said) == 11
    assert set(said.values()) <= {"Permission denied", "Operation not permitted", "Read-only file system"}, (
        said
    )
    assert file.read_text() == "precious"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_that_it_sets_the_mtu_the_device_only_thinks():
    """It ends when it cannot."""
    script = """
import fcntl, socket, struct
with socket.socket() as sock:
    fcntl.ioctl(sock, 0x8922, struct.pack("16si", b"lo", 1000).ljust(40, b"\\0"))
    print(struct.unpack("16si", fcntl.ioctl(sock, 0x8921, b"lo".ljust(40, b"\\0"))[:20])[1])
"""
    before = int(Path("/sys/class/net/lo/mtu").read_text())
    command = confined.command("device", sys.executable, "-c", script, user=WORKER_UIDS[-1])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [str(before)], done.stderr
