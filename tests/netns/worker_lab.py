"""A worker process, commanded by the test in the supervisor's place; a fake session; raw servers.

The redirect, its bypass map and the prepared sockets are the real ones (``tpnet.datapath``).
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

from tpnet.datapath.redirect import KEEPALIVE, EbpfRedirect
from tpnet.datapath.source_address import SourceAddress, app_sockets
from tpnet.kernel.signs import SUPERVISOR, Level, Signs
from tpnet.model import HeaderRule, Intercept, OnFailure, codec
from tpnet.proxy import channel
from tpnet.proxy.channel import (
    AddTarget,
    AppRefused,
    Counters,
    Drained,
    Finish,
    Full,
    NeedSockets,
    Purpose,
    Ready,
    RemoveTarget,
    SetNode,
    SetRules,
    SetSession,
    Sockets,
    TakeSigns,
)

UID = 64999
FAMILY = {Purpose.APP4: socket.AF_INET, Purpose.APP6: socket.AF_INET6}


class Server:
    """A listening socket in a namespace; ``serve(sock)`` runs in a thread per connection."""

    def __init__(self, netns, port, serve, address="::", backlog=512):
        self.port = port
        self.accepted = []
        self._serve = serve
        self.socket = netns.socket(socket.AF_INET6, socket.SOCK_STREAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.bind((address, port))
        self.socket.listen(backlog)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                sock, peer = self.socket.accept()
            except OSError:
                return
            self.accepted.append((sock, peer[0].removeprefix("::ffff:")))
            threading.Thread(target=self._run, args=(sock,), daemon=True).start()

    def _run(self, sock):
        with contextlib.suppress(OSError):
            self._serve(sock)

    def close(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for sock, _ in self.accepted:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


def read_request(sock):
    """One request off ``sock``: its head and body; ``None`` at the end."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line[15:])
    while len(body) < length:
        more = sock.recv(65536)
        if not more:
            return None
        body += more
    return head, body


def answering(name, log=None):
    """An HTTP/1.1 server's connection: answers each request with ``name`` and the number of body bytes."""

    def serve(sock):
        while (request := read_request(sock)) is not None:
            if log is not None:
                log.append(request)
            text = f"{name} {len(request[1])}".encode()
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
        sock.close()

    return serve


class Bulk:
    """A body of ``size`` bytes each way, and whether it arrives whole: ``serve`` at one end, ``ask`` at the other.

    ``field`` frames it in a request's head. No two of its parts are alike, so that none can be missing or misplaced
    unseen; chunk by chunk when it is ``chunked``.
    """

    _PART = 1 << 20

    def __init__(self, size=1 << 30, *, chunked=False):
        self.size, self.chunked = size, chunked
        self.field = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
        self._noise = {way: random.Random(way).randbytes(2 * self._PART) for way in ("up", "down")}
        self._arrived = False

    def serve(self, sock):
        """A server's connection: takes a body, then sends one."""
        read_head(sock)
        self._arrived = self._receive(sock, "up")
        sock.sendall(b"HTTP/1.1 200 OK\r\n%s\r\n\r\n" % self.field)
        self._send(sock, "down")

    def ask(self, sock, head):
        """A client's connection."""
        sock.sendall(head)
        self._send(sock, "up")
        assert read_head(sock).startswith(b"HTTP/1.1 200 ")
        assert self._receive(sock, "down")
        assert self._arrived

    def _parts(self, way):
        """The body as it stands on the wire."""
        for number in range(self.size // self._PART):
            at = number * 4099 % self._PART
            part = self._noise[way][at : at + self._PART]
            yield b"%x\r\n%s\r\n" % (self._PART, part) if self.chunked else part
        if self.chunked:
            yield b"0\r\n\r\n"

    def _send(self, sock, way):
        for part in self._parts(way):
            sock.sendall(part)

    def _receive(self, sock, way):
        for part in self._parts(way):
            buffer = bytearray(len(part))
            view, got = memoryview(buffer), 0
            while got < len(part):
                more = sock.recv_into(view[got:])
                assert more, "the connection ended within a body"
                got += more
            if buffer != part:
                return False
        return True


def behind_tunnel(serve):
    """``serve`` as the developer's end offers it: a status byte first."""

    def run(sock):
        sock.sendall(b"\0")
        serve(sock)

    return run


def read(sock, done):
    """What comes until it is ``done``. Fails when the connection ends before."""
    data = bytearray()
    while not done(data):
        more = sock.recv(65536)
        assert more, f"the connection ended after {bytes(data[-100:])!r}"
        data += more
    return bytes(data)


def exactly(sock, count):
    """So many bytes. With a timeout MSG_WAITALL would be satisfied with fewer (recv(2))."""
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        assert more, f"the connection ended after {data!r}"
        data += more
    return data


def read_head(sock):
    """What comes until an empty line, and nothing of what follows."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        assert byte, f"the connection ended after {head!r}"
        head += byte
    return head


def read_all(sock):
    """What comes until the end."""
    data = bytearray()
    while more := sock.recv(65536):
        data += more
    return bytes(data)


def answer(sock):
    """One answer with a Content-Length: status and body."""
    head, _, body = read(sock, lambda data: b"\r\n\r\n" in data).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    length = next(int(line[15:]) for line in lines if line.lower().startswith(b"content-length:"))
    missing = length - len(body)
    body += read(sock, lambda data: len(data) >= missing)
    return int(lines[0].split()[1]), body.decode()


def peak(pid):
    """The most memory that a process has ever had resident, in KiB."""
    return _memory(pid, "VmHWM")


def _memory(pid, name):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(f"{name}:"))


def intercept(port, tunnel_port, *, on_failure="app", name="i1", value="me", connect_timeout=10):
    return Intercept(
        name, "ann", "ann-laptop", "t", ("t",), port, (HeaderRule("x-me", value),),
        tunnel_port=tunnel_port, on_failure=OnFailure(on_failure), connect_timeout=connect_timeout,
    )  # fmt: skip


def reset(sock):
    """Close with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def until(condition, seconds=20.0):
    """Wait for it, on a machine that may have much else to do."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not come true in time"
        time.sleep(0.01)


class WorkerLab:
    """A worker, and what a supervisor does for it, in a thread."""

    def __init__(self, limit=None):
        self.ready = threading.Event()
        self.counters = Counters()
        self.refused = []
        self.drained_times = []
        self.drained = threading.Event()
        self.full = []
        self.prepare = True
        self.stopped = False  # whether it gives no signs of life
        self._netns = {}
        self._redirects = []
        self._sources = []
        self._closed = False
        ours, theirs = channel.pair()
        self.end = ours
        self.signs = Signs.create()
        command = [
            sys.executable,
            "-m",
            "tpnet.proxy.worker",
            "--channel",
            str(theirs.fileno()),
            "--uid",
            str(UID),
        ]
        if limit:
            command = ["prlimit", f"--nofile={limit}:{limit}", *command]
        self.process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True
        )
        theirs.close()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self.ready.wait(20), self.process.stderr.read()

    @property
    def pid(self):
        return self.process.pid

    @property
    def target(self):
        """Counters of target 1."""
        return self.counters.targets.get("1", {"accepted": 0, "open": 0})

    def send(self, message, fds=()):
        while True:
            try:
                with self._lock:
                    channel.send(self.end, message, fds)
            except BlockingIOError:
                select.select([], [self.end], [])
            else:
                return

    def _serve(self):
        while True:
            select.select([self.end], [], [], 0.1)
            if not self.stopped:
                self.signs.beat(SUPERVISOR)
            try:
                received = channel.receive(self.end)
            except BlockingIOError:
                continue
            except OSError:
                return
            if received is None:
                return
            self._take(received[0])

    def _take(self, message):
        """What the worker says."""
        if isinstance(message, Ready):
            self.send(TakeSigns(), [self.signs.fd])
            self.ready.set()
        elif isinstance(message, NeedSockets):
            with contextlib.suppress(OSError):
                self.give(message.purpose, message.count if self.prepare else 0, message.target)
        elif isinstance(message, AppRefused):
            self.refused.append(message.target)
        elif isinstance(message, Full):
            self.full.append(message.full)
            for redirect, port in self._redirects:
                redirect.disable(port) if message.full else redirect.enable(port)
        elif isinstance(message, Drained):
            self.drained_times.append(message.times)
            self.drained.set()
        elif isinstance(message, Counters):
            self.counters = message

    def give(self, purpose, count, target=0):
        while count > 0:
            some = min(count, 200)
            count -= some
            netns = self._netns[target]
            if purpose == Purpose.SESSION:
                socks = [
                    netns.socket(socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                    for _ in range(some)
                ]
            else:
                socks = app_sockets(netns, FAMILY[purpose], some)
            try:
                self.send(Sockets(purpose, target), [sock.fileno() for sock in socks])
            finally:
                for sock in socks:
                    sock.close()

    def add_target(self, netns, port, program, target=1, *, keep_source=True, intercepts=(), keepalive=None):
        """``keepalive``: seconds idle, seconds between probes, probes; other than those of every redirect.

        Returns when the worker serves: the kernel passes clients by that come before.
        """
        self._netns[target] = netns
        redirect = EbpfRedirect(netns, program, self.signs)
        source = SourceAddress(netns)
        source.apply()
        self._sources.append(source)
        listener = redirect.add(port)
        for option, value in zip(KEEPALIVE, keepalive or (), strict=False):
            listener.setsockopt(socket.IPPROTO_TCP, option, value)
        place = redirect.entrust(port)
        self.send(AddTarget(target, "t", port, keep_source, place), [listener.fileno(), redirect.bypass_fd])
        self._redirects.append((redirect, port))
        self.rules(*intercepts, target=target)
        redirect.enable(port)
        self.serves(place)
        return redirect

    def serves(self, place):
        """Wait until nobody is passed by for want of prepared sockets."""
        until(lambda: all(self.signs.level(place, v4=v4) is Level.SERVES for v4 in (True, False)), 20)

    def hand_over(self, redirect, netns, port, target):
        """Another target at a redirect whose port was removed; numbers are never used twice."""
        self._netns[target] = netns
        listener = redirect.add(port)
        place = redirect.entrust(port)
        self.send(AddTarget(target, "t", port, place=place), [listener.fileno(), redirect.bypass_fd])
        redirect.enable(port)
        self.serves(place)

    def add_plain_target(self, netns, port, listener, target=1):
        """A target without a redirect: ``listener`` is the test's own."""
        self._netns[target] = netns
        self.send(AddTarget(target, "t", port, keep_source=False), [listener.fileno()])

    def rules(self, *intercepts, target=1, probes=()):
        self.send(SetRules(target, [codec.encode(one) for one in intercepts], list(probes)))

    def node(self, *addresses):
        self.send(SetNode(list(addresses)))

    def session(self, netns, ports, *, up=True, quiet=False, address="::1", name="ann-laptop"):
        self._netns[0] = netns
        self.send(SetSession(name, address, up, list(ports), quiet))

    def remove(self, target=1, times=1):
        self.send(RemoveTarget(target, times))

    def finish(self, seconds, *, mark=True):
        self.send(Finish(seconds, mark))

    def rss(self):
        """KiB."""
        return _memory(self.pid, "VmRSS")

    def cpu(self):
        """Seconds."""
        with open(f"/proc/{self.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rests(self, most, do):
        """Whether ``do()`` costs less than ``most`` seconds of CPU; in the end, since it may be late with earlier work."""
        for _ in range(20):
            before = self.cpu()
            do()
            if self.cpu() - before < most:
                return True
        return False

    def fds(self):
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def counted(self, reason, times, intercept="i1", seconds=10.0):
        """Whether a reason comes to be counted so many times."""
        ends = time.monotonic() + seconds
        while True:
            found = self.counters.intercepts.get(intercept, {}).get("reasons", {}).get(reason, 0)
            if found >= times or time.monotonic() > ends:
                return found == times
            time.sleep(0.05)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self):
        """End it. Returns what it wrote to stderr."""
        if self._closed:
            return ""
        self._closed = True
        for redirect, _ in self._redirects:
            redirect.close()
        with contextlib.suppress(OSError):
            self.end.shutdown(socket.SHUT_RDWR)
        self._thread.join(20)
        self.end.close()
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
        for source in self._sources:
            source.undo()
        self.signs.close()
        with self.process.stderr as stderr:
            return stderr.read()
