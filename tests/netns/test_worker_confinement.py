"""What can be done in the worker's place: a child that confines itself as the worker does, and tries every way out."""

import ast
import errno
import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from worker_lab import UID, WorkerLab, until

import tpnet
from tpnet.kernel.libc import LIBC, mount
from tpnet.kernel.namespaces import child_apart

ESCAPES = Path(__file__).parent.parent / "shared" / "escapes.py"


NO_PIVOT = """
from tpnet.kernel import seccomp
number = 155 if seccomp.machine().column == 0 else 41
allow = [[0x20, 0, 0, 0], [0x15, 0, 1, number], [0x06, 0, 0, seccomp.RET_EPERM], [0x06, 0, 0, seccomp.RET_ALLOW]]
seccomp.install(b"".join(seccomp._INSTRUCTION.pack(*one) for one in allow))
"""
NO_FILTER = """
from tpnet.kernel import seccomp
seccomp.install = lambda program: None
TRIES.clear()
"""


def confined(before="", reach=()):
    """What ``escapes.py`` finds once it is confined."""
    with child_apart():
        done = subprocess.run(
            [sys.executable, str(ESCAPES), str(UID), before],
            env={**os.environ, "ESCAPE_TO": ",".join(reach)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def open_ways(found):
    return {name: said for name, said in found["tries"].items() if said != errno.EPERM}


@pytest.mark.parametrize("pivot", [NO_PIVOT, ""], ids=["pivot_root forbidden", "pivot_root allowed"])
def test_no_way_out_of_the_worker_works(pivot):
    found = confined(pivot)
    assert len(found["tries"]) > 70
    assert open_ways(found) == {}
    assert found["files"] == []
    assert found["pid"] == 1


def test_what_the_worker_is_handed_works_there():
    assert confined()["works"] == ["accepted", "answered", "epoll", "spliced"]


@pytest.mark.parametrize("pivot", [NO_PIVOT, ""], ids=["pivot_root forbidden", "pivot_root allowed"])
def test_without_the_filter_there_is_still_no_file_and_no_network(pivot):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        found = confined(pivot + NO_FILTER, [address])
    assert found["before"] == [address]
    assert found["after"] == []
    assert found["root"] == []
    assert set(found["files"]) == {"/", ".", ".."}, "the folder itself, to look at"
    assert found["files"].count("/") == 2, "not to write to"
    assert found["works"] == ["accepted", "answered", "epoll", "spliced"]


@pytest.mark.parametrize("instruction", ["int 0x80", "x32"])
def test_calls_of_another_machine_end_the_process(instruction):
    if os.uname().machine != "x86_64":
        pytest.skip("only x86-64 has other machines' calls")
    call = "int80()" if instruction == "int 0x80" else "LIBC['syscall'](0x40000000 + 39)"
    script = f"""
import ctypes, mmap
from tpnet.kernel import capabilities, seccomp
from tpnet.kernel.libc import LIBC
from tpnet.proxy.confinement import CALLS
memory = mmap.mmap(-1, 4096, prot=7)
memory.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (i386's getpid); int 0x80; ret
int80 = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
capabilities.no_new_privileges()
seccomp.install(seccomp.assemble(CALLS, seccomp.machine()))
{call}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -31, done.stderr  # SIGSYS


def test_a_worker_that_cannot_be_confined_does_not_serve():
    script = f"""
from tpnet.kernel import capabilities
from tpnet.proxy.confinement import confine
capabilities.bound_to((7, 6, 8))
capabilities.keep((7, 6, 8))  # SETUID, SETGID, SETPCAP, and no SYS_ADMIN
confine({UID}, lambda: None)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot leave the node's file system" in done.stderr


MS_REC, MS_PRIVATE, MS_SHARED = 16384, 1 << 18, 1 << 20  # linux/mount.h
CLONE_NEWNS = 0x20000  # linux/sched.h
SEEN = ("mount", "-t", "tmpfs", "none", "/mnt")


@pytest.fixture
def mounts():
    """``mounts(function)`` runs it in a thread with mounts of its own, shared with what it starts alone: others mount
    on this machine meanwhile. Others' mounts may go even so: with the file that they are on (``ip netns delete``)."""

    def share():
        assert LIBC.unshare(CLONE_NEWNS) == 0
        mount(None, "/", MS_REC | MS_PRIVATE)
        mount(None, "/", MS_REC | MS_SHARED)

    with ThreadPoolExecutor(1, initializer=share) as thread:
        yield lambda function: thread.submit(function).result()


def mounted():
    return set(Path("/proc/thread-self/mountinfo").read_text().splitlines())


def test_another_process_sees_nothing_of_what_the_worker_mounts(mounts):
    before = mounts(mounted)
    lab = mounts(WorkerLab)
    try:
        assert mounts(mounted) - before == set()
        assert Path(f"/proc/{lab.pid}/mountinfo").read_text().count("\n") <= 1
        assert list(Path(f"/proc/{lab.pid}/root").iterdir()) == []
        said = Path(f"/proc/{lab.pid}/limits").read_text().splitlines()
        limits = {line[:26].strip(): line[26:].split()[:2] for line in said}
        for name in ("Max processes", "Max file size", "Max core file size"):
            assert limits[name] == ["0", "0"], name
        for kind in ("mnt", "net", "ipc", "uts"):
            ours, theirs = (Path(f"/proc/{pid}/ns/{kind}").stat().st_ino for pid in ("self", lab.pid))
            assert ours != theirs, kind
        mounts(lambda: subprocess.run(["unshare", "-m", "--propagation=unchanged", *SEEN], check=True))
        assert len(mounts(mounted) - before) == 1, "what is shared would be seen"
    finally:
        lab.close()


def test_a_child_apart_is_the_only_one_and_dies_with_its_parent():
    script = """
import subprocess
from tpnet.kernel.namespaces import child_apart
for _ in range(3):
    with child_apart():
        child = subprocess.Popen(["sh", "-c", "echo $$; exec setpriv --pdeathsig KILL sleep 30"], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "1\\n"
print(child.pid, subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True).stdout.strip())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    child, other = map(int, done.stdout.split())
    assert other > 1
    until(lambda: not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text(), 20)


def test_an_error_with_everything_out_of_reach_is_told_in_full():
    script = f"""
import sys
from tpnet.log import to_stderr
from tpnet.proxy.confinement import confine
from tpnet.proxy.loop import report
from tpnet.proxy.worker import warm_up
with to_stderr() as outlet:
    warm_up()
    confine({UID}, outlet.begin)
    try:
        "\\xff".encode("ascii")
    except UnicodeEncodeError as error:
        report(error)
    print("\\u2028 and \\udcff", file=sys.stderr)
raise ValueError("at last")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    first, *rest = done.stderr.splitlines()
    assert first.startswith("tpnet worker: UnicodeEncodeError at <string>:")
    assert rest[-1] == "ValueError: at last"
    assert done.returncode == 1


def test_the_worker_imports_nothing_late():
    """Each import inside a function, of all modules that the worker has, is of what it has by then."""
    script = """
import sys
from tpnet.proxy import worker
worker.warm_up()
print("\\n".join(f"{name} {getattr(module, '__file__', '')}" for name, module in sys.modules.items()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    home = Path(tpnet.__file__).parent
    looked_at = 0
    for name, file in loaded.items():
        if not name.startswith("tpnet.") or not file.startswith(str(home)):
            continue
        looked_at += 1
        for function in ast.walk(ast.parse(Path(file).read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for one in ast.walk(function):
                    if isinstance(one, ast.Import):
                        assert all(alias.name in loaded for alias in one.names), (name, one.lineno)
                    elif isinstance(one, ast.ImportFrom):
                        assert one.module in loaded, (name, one.lineno)
    assert looked_at > 30
