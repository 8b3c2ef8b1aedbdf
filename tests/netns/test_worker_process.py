import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from worker_lab import UID, Server, WorkerLab, answer, answering, read, read_head, until

from tpnet.kernel.signs import Level

PORT = 8080
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def make_lab():
    made = []

    def make(**options):
        made.append(WorkerLab(**options))
        return made[-1]

    yield make
    for lab in made:
        lab.close()


@pytest.fixture
def app(net):
    server = Server(net.pod.netns, PORT, answering("app"), backlog=4096)
    yield server
    server.close()


def status(pid):
    with open(f"/proc/{pid}/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def test_the_worker_has_no_privileges_left(make_lab):
    fields = status(make_lab().pid)
    assert fields["Uid"].split() == fields["Gid"].split() == [str(UID)] * 4
    assert fields["Groups"].strip() == ""
    assert {fields[f"Cap{which}"] for which in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert fields["NoNewPrivs"] == "1"


def test_a_process_that_dropped_its_privileges_can_do_nothing_with_them():
    script = f"""
import ctypes, os, tempfile
from tpnet.proxy import privileges
netns = os.open("/proc/self/ns/net", os.O_RDONLY)
privileges.drop({UID})
libc = ctypes.CDLL(None, use_errno=True)
def errno(*call):
    ctypes.set_errno(0)
    result = libc[call[0]](*call[1:])
    return ctypes.get_errno() if result < 0 else 0
attr = ctypes.create_string_buffer(128)
tries = dict(
    setns=errno("setns", netns, 0x40000000),
    bpf=errno("syscall", 321 if os.uname().machine == "x86_64" else 280, 5, attr, 128),
    mount=errno("mount", b"none", b"/mnt", b"tmpfs", 0, None),
    ptrace=errno("ptrace", 16, {os.getpid()}, 0, 0),
    setuid=errno("setuid", 0),
    raw=errno("socket", 2, 3, 6),
    unshare=errno("unshare", 0x40000000),
)
print(tries, libc.prctl(3, 0, 0, 0, 0))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    tries, _, dumpable = done.stdout.strip().rpartition(" ")
    assert eval(tries) == dict.fromkeys(("setns", "bpf", "mount", "ptrace", "setuid", "raw", "unshare"), 1)
    assert dumpable == "0"


def test_others_of_its_uid_cannot_read_its_memory(make_lab):
    lab = make_lab()
    done = subprocess.run(
        ["setpriv", "--reuid", str(UID), "--clear-groups", "cat", f"/proc/{lab.pid}/maps"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Permission denied" in done.stderr


def test_the_worker_ends_with_its_channel(make_lab):
    lab = make_lab()
    assert lab.close() == ""
    assert lab.process.returncode == 0


def test_the_worker_dies_with_its_parent():
    script = """
import os, subprocess, sys, time
from tpnet.proxy import channel
ours, theirs = channel.pair()
child = subprocess.Popen([sys.executable, "-m", "tpnet.proxy.worker", "--channel", str(theirs.fileno()), "--uid", "64999"],
                         pass_fds=[theirs.fileno()])
ours.setblocking(True)
channel.receive(ours)
os.set_inheritable(ours.fileno(), True)
keeper = subprocess.Popen(["sleep", "20"], pass_fds=[ours.fileno()], stdout=subprocess.DEVNULL)  # the channel outlives the parent
print(child.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=False)
    pid = int(done.stdout)

    def gone():
        with contextlib.suppress(OSError):
            return status(pid)["State"].startswith("Z")
        return True

    until(gone, 15)


def test_a_killed_worker_resets_its_connections_and_new_ones_reach_the_app(net, make_lab, program, app):
    lab = make_lab()
    redirect = lab.add_target(net.pod.netns, PORT, program)
    open_ = []
    for _ in range(20):
        sock = net.connect(PORT)
        sock.sendall(GET)
        assert answer(sock) == (200, "app 0")
        open_.append(sock)
    lab.process.send_signal(signal.SIGKILL)
    redirect.disable(PORT)
    for sock in open_:
        with pytest.raises(ConnectionResetError):
            sock.recv(10)
        sock.close()
    with net.connect(PORT) as sock:
        sock.sendall(GET)
        assert answer(sock) == (200, "app 0")
        assert app.accepted[-1][1] == net.pod.client_address[4]


def test_an_error_of_ours_ends_one_connection_and_not_the_worker(net, make_lab, program, app):
    lab = make_lab()
    lab.add_target(net.pod.netns, PORT, program)
    broken = {"name": "i1", "user": "u"}  # rules that do not decode
    from tpnet.proxy.channel import SetRules

    lab.send(SetRules(1, [broken]))
    with net.connect(PORT) as sock:
        sock.sendall(GET)
        assert answer(sock) == (200, "app 0")
    assert lab.close().startswith("tpnet worker: KeyError at channel.py:")


@pytest.fixture
def many_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("at_once", [1, 30])
def test_when_descriptors_run_out_all_are_served_and_it_recovers(
    net, make_lab, program, app, many_files, at_once
):
    lab = make_lab(limit=1000)
    lab.add_target(net.pod.netns, PORT, program)
    open_ = []
    while len(open_) < 450:  # two descriptors each
        some = [net.connect(PORT) for _ in range(at_once)]
        open_ += some
        for sock in some:
            sock.settimeout(3)
            sock.sendall(GET)
            assert answer(sock) == (200, "app 0")
    until(lambda: lab.target["accepted"] > 20)
    assert lab.target["accepted"] < 250, "one address has a share, and the others went to the app"
    assert lab.full == []
    open_[0].settimeout(5)

    def ask_now_and_then():
        for _ in range(20):
            open_[0].sendall(GET)
            assert answer(open_[0]) == (200, "app 0")
            time.sleep(0.05)

    assert lab.rests(0.3, ask_now_and_then)
    for sock in open_:
        sock.close()
    until(lambda: lab.target["open"] == 0)
    before = lab.target["accepted"]

    def comes_by_again():
        with net.connect(PORT) as sock:
            sock.sendall(GET)
            assert answer(sock) == (200, "app 0")
        time.sleep(1.1)
        return lab.target["accepted"] > before

    until(comes_by_again, 15)


@pytest.mark.slow
def test_without_prepared_sockets_new_clients_are_the_apps_and_who_was_accepted_is_served_when_there_are_some(
    net, make_lab, program, app
):
    lab = make_lab()
    lab.add_target(net.pod.netns, PORT, program)
    with contextlib.ExitStack() as clients:
        first = clients.enter_context(net.connect(PORT))
        first.sendall(GET)
        assert answer(first) == (200, "app 0")
        lab.prepare = False
        waiting = []
        for _ in range(100):  # more than there are in stock
            sock = clients.enter_context(net.connect(PORT))
            sock.sendall(GET)
            sock.settimeout(1)
            try:
                assert answer(sock) == (200, "app 0")
            except TimeoutError:
                waiting.append(sock)
        assert len(waiting) < 20, "the others were the app's at once"
        for sock in waiting:
            sock.settimeout(6)  # nobody is reset, however long it takes
        if waiting:  # a calm machine passes all by in time
            with pytest.raises(TimeoutError):
                waiting[0].recv(1)
        for _ in range(20):
            with net.connect(PORT) as sock:
                sock.sendall(GET)
                assert answer(sock) == (200, "app 0")
        lab.prepare = True
        for sock in waiting:
            assert answer(sock) == (200, "app 0")
        before = lab.target["accepted"]

        def taken_again():
            with net.connect(PORT) as sock:
                sock.sendall(GET)
                assert answer(sock) == (200, "app 0")
            return lab.target["accepted"] > before

        until(taken_again)


class QuietApp:
    """Accepts in one thread and sends every connection the same, at once."""

    def __init__(self, netns, data):
        self.socket = netns.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(("0.0.0.0", PORT))
        self.socket.listen(4096)
        self.open = []
        self.data = data
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.socket.accept()
                self.open.append(sock)
                sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while self.data:
                        sock.send(self.data)

    def close(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for sock in self.open:
            sock.close()


@pytest.mark.parametrize(
    ("request_", "flood", "most"),
    [
        (b"", b"", 8),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 2000, b"", 16),
        (b"POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\nslow", b"", 16),
        (b"\xff", b"x" * 100_000, 72),
    ],
    ids=["idle", "slow head", "slow body", "slow reader"],
)
def test_a_thousand_connections_cost_little_and_leave_nothing(
    net, make_lab, program, many_files, request_, flood, most
):
    lab = make_lab()
    app = QuietApp(net.pod.netns, flood)
    redirect = lab.add_target(net.pod.netns, PORT, program)
    time.sleep(0.3)
    files, before = lab.fds(), lab.rss()
    open_ = []
    try:
        for _ in range(1000):
            # Of a thousand in a moment the kernel passes some by, while sockets are prepared for the rest.
            until(lambda: redirect.level(PORT) is Level.SERVES, 15)
            sock = net.client.socket(socket.AF_INET, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect((net.pod.address[4], PORT))
            sock.sendall(request_)
            open_.append(sock)
        until(lambda: lab.target["open"] >= 900, 30)
        assert lab.rests(0.2, lambda: time.sleep(1))
        assert (lab.rss() - before) / lab.target["open"] < most
        for sock in open_:
            sock.close()
        app.close()
        until(lambda: lab.target["open"] == 0, 30)
        until(lambda: lab.fds() < files + 600, 30)  # of the stock, which has grown
    finally:
        for sock in open_:
            sock.close()
        app.close()


def test_connections_of_a_removed_target_live_until_one_of_their_ends_closes(net, make_lab, program, app):
    lab = make_lab()
    redirect = lab.add_target(net.pod.netns, PORT, program)
    idle, piped, ended = (net.connect(PORT) for _ in range(3))
    for sock in (idle, ended):
        sock.sendall(GET)
        assert answer(sock) == (200, "app 0")
    piped.sendall(b"\xff")
    redirect.disable(PORT)
    lab.remove()
    ended.close()
    assert not lab.drained.wait(4)
    idle.sendall(GET)
    assert answer(idle) == (200, "app 0")
    idle.close()
    assert not lab.drained.wait(2)
    piped.close()
    assert lab.drained.wait(20)


def test_a_removed_target_is_taken_up_again_with_its_connections(net, make_lab, program, app):
    lab = make_lab()
    redirect = lab.add_target(net.pod.netns, PORT, program)
    with net.connect(PORT) as kept:
        for times in (1, 2, 3):
            kept.sendall(GET)
            assert answer(kept) == (200, "app 0")
            redirect.disable(PORT)
            lab.remove(times=times)
            redirect.remove(PORT)
            kept.sendall(GET)
            assert answer(kept) == (200, "app 0")
            lab.hand_over(redirect, net.pod.netns, PORT, target=1)
            with net.connect(PORT) as sock:
                sock.sendall(GET)
                assert answer(sock) == (200, "app 0")
            until(lambda times=times: lab.target["accepted"] == times + 1)
        assert not lab.drained.is_set()
        redirect.disable(PORT)
        lab.remove(times=4)
    assert lab.drained.wait(20)
    assert lab.drained_times == [4]


@pytest.mark.parametrize("mark", [True, False])
def test_told_to_finish_it_ends_each_connection_with_its_next_response(net, make_lab, program, app, mark):
    lab = make_lab()
    redirect = lab.add_target(net.pod.netns, PORT, program)
    first, silent, piped = (net.connect(PORT) for _ in range(3))
    for sock in (first, silent):
        sock.sendall(GET)
        assert answer(sock) == (200, "app 0")
    piped.sendall(b"\xff")
    redirect.disable(PORT)
    lab.finish(4.0, mark=mark)
    begun = time.monotonic()
    with net.connect(PORT) as fresh:  # the app's own
        fresh.sendall(GET)
        assert answer(fresh) == (200, "app 0")
    lab.remove()
    first.settimeout(3)
    first.sendall(GET)
    head = read_head(first)
    assert (b"\r\nconnection: close\r\n" in head.lower()) is mark
    assert read(first, lambda data: data == b"app 0") == b"app 0"
    assert first.recv(10) == b""
    silent.settimeout(20)
    assert silent.recv(10) == b""  # FIN, not a reset
    assert 3.9 < time.monotonic() - begun < 20
    piped.settimeout(20)
    with pytest.raises(ConnectionResetError):
        while piped.recv(10):
            pass
    for sock in (first, silent, piped):
        sock.close()
    assert lab.drained.wait(20)


@pytest.mark.parametrize("v4", [True, False], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("everywhere", [True, False], ids=["app on all addresses", "app on one address"])
def test_a_client_may_come_from_any_port(net, make_lab, program, v4, everywhere):
    pod = net.pod
    address = pod.address[4 if v4 else 6]
    local = "::" if everywhere else f"::ffff:{address}" if v4 else address
    server = Server(pod.netns, PORT, answering("app"), address=local)
    lab = make_lab()
    lab.add_target(pod.netns, PORT, program)
    open_ = []
    try:
        for _ in range(12):
            open_.append(net.connect(PORT, 4 if v4 else 6))
            open_[-1].sendall(GET)
            assert answer(open_[-1]) == (200, "app 0")
        assert {peer for _, peer in server.accepted} == {pod.client_address[4 if v4 else 6]}
        # A machine that is busy elsewhere may have the kernel pass some by, from ports of their own.
        taken = [port for sock, _ in server.accepted if (port := sock.getpeername()[1]) <= 32_767]
        assert taken
        for port in taken if everywhere else [taken[0] + 20_000]:
            sock = net.client.socket(socket.AF_INET if v4 else socket.AF_INET6, socket.SOCK_STREAM)
            open_.append(sock)
            sock.settimeout(3)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((pod.client_address[4 if v4 else 6], port))
            sock.connect((address, PORT))
            sock.sendall(GET)
            assert answer(sock) == (200, "app 0")
        for sock in open_:
            sock.sendall(GET)
            assert answer(sock) == (200, "app 0")
    finally:
        for sock in open_:
            sock.close()
        server.close()


def test_a_removed_target_leaves_no_descriptor(net, make_lab, program, app):
    lab = make_lab()
    redirect = lab.add_target(net.pod.netns, PORT, program)
    counts = []
    for number in range(1, 5):
        with net.connect(PORT) as sock:
            sock.sendall(GET)
            assert answer(sock) == (200, "app 0")
        redirect.disable(PORT)
        lab.drained.clear()
        lab.remove(target=number)
        assert lab.drained.wait(15)
        counts.append(lab.fds())
        redirect.remove(PORT)
        lab.hand_over(redirect, net.pod.netns, PORT, target=number + 1)
    assert len(set(counts)) == 1, counts
