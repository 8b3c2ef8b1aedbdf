import errno
import os
import socket
import subprocess
import sys
import time
import uuid

import pytest

from tpnet.kernel import libc
from tpnet.kernel.lock import holder, take_name
from tpnet.kernel.peercred import peer_credentials


def unix_socket():
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)


def run(script):
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout


def test_the_peer_of_a_unix_socket_is_who_made_it():
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert peer_credentials(ours) == (os.getpid(), os.getuid(), os.getgid())


def test_the_limit_of_open_files_is_raised_to_the_hard_one():
    script = (
        "import resource as r; from tpnet.kernel.limits import raise_file_limit\n"
        "r.setrlimit(r.RLIMIT_NOFILE, (100, 300)); print(raise_file_limit(), r.getrlimit(r.RLIMIT_NOFILE))"
    )
    assert run(script) == "300 (300, 300)\n"


def test_a_limit_of_locked_memory_is_lifted_or_stays_where_the_kernel_refuses():
    script = (
        "import resource as r; from tpnet.kernel.limits import raise_memlock_limit as lift\n"
        "r.setrlimit(r.RLIMIT_MEMLOCK, (4096, r.getrlimit(r.RLIMIT_MEMLOCK)[1]))\n"
        "had = lift(); soft = r.getrlimit(r.RLIMIT_MEMLOCK)[0]\n"
        "print(had, soft in {4096, r.RLIM_INFINITY}, lift() == (soft != r.RLIM_INFINITY))"
    )
    assert run(script) == "True True True\n"


def test_a_name_is_held_by_one_and_free_when_it_lets_go():
    name = f"tpnet-test-{uuid.uuid4().hex}"
    assert holder(name) is None
    with take_name(name, unix_socket):
        for _ in range(5):
            assert holder(name)[:2] == (os.getpid(), os.getuid())
        with pytest.raises(OSError) as caught:
            take_name(name, unix_socket)
        assert caught.value.errno == errno.EADDRINUSE
    with take_name(name, unix_socket):
        pass


def test_a_call_that_fails_says_why():
    with open(os.devnull) as other, pytest.raises(OSError) as caught:
        libc.enter_netns(other.fileno())
    assert caught.value.errno in {errno.EINVAL, errno.EPERM}
    with pytest.raises(OSError) as caught:
        libc.mount("/nowhere", "/nowhere/at/all", libc.MS_BIND)
    assert caught.value.errno in {errno.ENOENT, errno.EPERM}


def test_a_child_dies_with_its_parent():
    child = "import time; from tpnet.kernel.libc import die_with_parent as f; f(); print(1, flush=True); time.sleep(60)"
    parent = (
        "import subprocess as s, sys\n"
        f"child = s.Popen([sys.executable, '-c', {child!r}], stdout=s.PIPE)\n"
        "child.stdout.readline(); print(child.pid)"
    )
    pid = int(run(parent))
    # It has been killed by then, and init, or nobody yet, has waited for it.
    state = f"/proc/{pid}/stat"
    for _ in range(500):
        try:
            with open(state) as text:
                if text.read().rpartition(")")[2].split()[0] in {"Z", "X"}:
                    return
        except OSError:
            return
        time.sleep(0.01)
    raise AssertionError("the child lives on")
