"""A client and pods, each a network namespace, joined by veth with IPv4 and IPv6; and apps that know nothing of tpnet.

Tests ask for it through the fixtures of conftest.py. An app is a listening socket made inside a pod and served by
threads of the test itself, so it costs next to nothing and ends with the test.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from pathlib import Path
from uuid import uuid4

from tpnet.datapath.netns import NetNs

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
ANY = {4: "0.0.0.0", 6: "::"}


class App:
    """A server in a pod: ``http`` answers every head with its name, ``echo`` sends back what comes.

    ``peers`` has the addresses that it saw, in order, as plain IPv4 or IPv6 text.
    """

    def __init__(self, netns, port, name, kind, address):
        self.name, self.port, self.kind = name, port, kind
        self.peers: list[tuple[str, int]] = []
        self._open: list[socket.socket] = []
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.socket = netns.socket(family, socket.SOCK_STREAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.bind((address, port))
        self.socket.listen(512)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                sock, peer = self.socket.accept()
            except OSError:
                return
            self.peers.append((peer[0].removeprefix("::ffff:"), peer[1]))
            self._open.append(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        with contextlib.suppress(OSError), sock:
            if self.kind == "echo":
                while data := sock.recv(65536):
                    sock.sendall(data)
                return
            buffer = b""
            while data := sock.recv(65536):
                buffer += data
                while b"\r\n\r\n" in buffer:
                    buffer = buffer.partition(b"\r\n\r\n")[2]
                    body = self.name.encode()
                    sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))

    def close(self):
        """Stop listening, and end the connections that are open."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept
        self.socket.close()
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class Pod:
    """A pod's namespace: ``name`` as ``ip netns`` knows it, ``netns``, and its addresses by family, 4 and 6."""

    def __init__(self, name, number):
        self.name = name
        self.netns = NetNs.from_name(name)
        self.address = {4: f"10.77.{number}.2", 6: f"fd77:{number}::2"}
        self.client_address = {4: f"10.77.{number}.1", 6: f"fd77:{number}::1"}
        self._apps: list[App] = []

    def app(self, port, name="app", kind="http", address="::"):
        """Start an app; ``::`` serves both families."""
        app = App(self.netns, port, name, kind, address)
        self._apps.append(app)
        return app

    def close(self):
        for app in self._apps:
            app.close()
        self.netns.close()


class PodNet:
    """``client``, a namespace, and ``pods``. ``pod`` is the first one."""

    def __init__(self, pods=1):
        tag = uuid4().hex[:6]
        self.tag = tag
        self.client_name = f"tpn-{tag}-client"
        self.names = [self.client_name] + [f"tpn-{tag}-pod{number}" for number in range(1, pods + 1)]
        self.pods: list[Pod] = []
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self):
        _ip("\n".join(f"netns add {name}" for name in self.names))
        for name in self.names:
            # No second in which link-local addresses and their routes are still to come.
            with contextlib.closing(NetNs.from_name(name)) as netns:
                netns.run(lambda: Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0"))
        for number, name in enumerate(self.names[1:], start=1):
            link = f"pod{number}"
            _ip(f"link add {link} netns {self.client_name} type veth peer name eth0 netns {name}")
            for where, device, end in ((self.client_name, link, 1), (name, "eth0", 2)):
                _ip(
                    f"link set lo up\nlink set {device} up\n"
                    f"addr add 10.77.{number}.{end}/24 dev {device}\n"
                    f"addr add fd77:{number}::{end}/64 dev {device} nodad",
                    where,
                )
            _ip(f"route add default via 10.77.{number}.1", name)
            _ip(f"route add default via fd77:{number}::1", name, "-6")
            self.pods.append(Pod(name, number))
        self.client = NetNs.from_name(self.client_name)

    @property
    def pod(self):
        return self.pods[0]

    def connect(self, port, family=4, pod=None, address=None, timeout=20.0):
        """A connection from the client to a pod's port."""
        sock = self.client.socket(FAMILIES[family], socket.SOCK_STREAM)
        sock.settimeout(timeout)
        try:
            sock.connect((address or (pod or self.pod).address[family], port))
        except BaseException:
            sock.close()
            raise
        return sock

    def get(self, port, family=4, pod=None, timeout=20.0):
        """The body of one answer over a connection of its own; empty when it closes without one."""
        with self.connect(port, family, pod, timeout=timeout) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nhost: app\r\n\r\n")
            return sock.recv(65536).partition(b"\r\n\r\n")[2].decode()

    def close(self):
        for pod in self.pods:
            pod.close()
        if client := getattr(self, "client", None):
            client.close()
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _ip(commands, netns=None, *options):
    where = ["-netns", netns] if netns else []
    done = subprocess.run(
        ["ip", *where, *options, "-batch", "-"], input=commands, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, f"{commands}\n{done.stderr}"
