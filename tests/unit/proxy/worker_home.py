"""A target without a supervisor: its connections, in a loop that the test turns by hand, over loopback TCP.

The parts are the real ones. What only privileges can do is left out: no redirect, no bypass map, clients keep no address
unless they come from 127.0.0.0/8, which any process may bind.
"""

import contextlib
import os
import socket
import struct
import time

from tpnet.model import HeaderRule, Intercept, OnFailure
from tpnet.proxy.channel import AddTarget, NeedSockets, Purpose
from tpnet.proxy.connection import Connection
from tpnet.proxy.context import Context
from tpnet.proxy.counters import TargetCount
from tpnet.proxy.dialler import AppDialler, Peer
from tpnet.proxy.router import Router
from tpnet.proxy.sessions import SessionState
from tpnet.proxy.transport import Socket

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
MINE = b"GET / HTTP/1.1\r\nHost: a\r\nX-Me: me\r\n\r\n"
POST_MINE = b"POST / HTTP/1.1\r\nHost: a\r\nX-Me: me\r\nContent-Length: 3\r\n\r\nabc"
SESSION = "ann-laptop"
QUIET = 0.03 if os.getloadavg()[0] < 2 * (os.cpu_count() or 1) else 0.15
"""Seconds without an event after which all that is to happen has happened. Loopback delivers at once, but not always where
the kernel has put it off (ksoftirqd) and others run."""


def response(text):
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)


def reset(sock):
    """Close with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def tcp_pair():
    """Both ends of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    for end in (near, far):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


class Far:
    """The far end of something: a client, the app, a handler. Reads what has come; never waits long."""

    def __init__(self, sock):
        self.sock = sock
        sock.settimeout(5)

    def send(self, data):
        self.sock.sendall(data)

    def got(self, size=1 << 20):
        """What has come by now; ``None`` for nothing, ``b""`` at the end, ``"reset"``."""
        self.sock.setblocking(False)
        try:
            return self.sock.recv(size)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            return "reset"
        finally:
            self.sock.settimeout(5)

    def shut(self):
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self):
        reset(self.sock)

    def close(self):
        self.sock.close()


class Listener:
    """The app, or a session's end: accepts when it is asked to."""

    def __init__(self, address, family, backlog=64):
        self.sock = socket.create_server((address, 0), family=family, backlog=backlog)
        self.sock.setblocking(False)
        self.port = self.sock.getsockname()[1]
        self.accepted = []

    def accept(self):
        """The next connection; ``None`` if there is none."""
        try:
            sock, self.peer = self.sock.accept()
        except BlockingIOError:
            return None
        self.accepted.append(Far(sock))
        return self.accepted[-1]

    def close(self):
        self.sock.close()
        for end in self.accepted:
            end.close()


class WorkerHome:
    """What ``tpnet.proxy.connection.Home`` says, and the world around it."""

    def __init__(self, *, keep_source=False, file_limit=4096):
        self.told = []
        self._asked = []
        self.prepare = True
        self.context = Context(self.tell, file_limit)
        self.loop = self.context.loop
        self.count = TargetCount()
        self.app = Listener("127.0.0.1", socket.AF_INET)
        self.session = Listener("::1", socket.AF_INET6)
        message = AddTarget(1, "t", self.app.port, keep_source)
        self.dialler = AppDialler(self.context, message, None, self.count)
        self.router = Router(self.context, self.count)
        self.closing = set()
        self.connections = set()
        self._clients = []
        self.dialler.refill()
        self.supply()

    def gone(self, connection):
        self.connections.discard(connection)

    def tell(self, message):
        self.told.append(message)
        if isinstance(message, NeedSockets):
            self._asked.append(message)

    def supply(self):
        """Give what was asked for, if ``prepare``."""
        while self.prepare and self._asked:
            message = self._asked.pop(0)
            self.give(message.purpose, message.count)

    def give(self, purpose, count=1):
        """What the supervisor does when sockets are asked for."""
        family = socket.AF_INET if purpose is Purpose.APP4 else socket.AF_INET6
        socks = []
        for _ in range(count):
            sock = Socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            socks.append(sock)
        if purpose is Purpose.SESSION:
            self.context.session_pool.add(socks)
        else:
            self.dialler.add_sockets(purpose, socks)

    def rules(self, *, on_failure="app", name="i1", connect_timeout=10):
        """One intercept: what has ``X-Me: me`` goes to the session."""
        self.router.set_rules(
            [
                Intercept(
                    name, "ann", SESSION, "t", ("t",), self.app.port, (HeaderRule("x-me", "me"),),
                    tunnel_port=self.session.port, on_failure=OnFailure(on_failure), connect_timeout=connect_timeout,
                )
            ]
        )  # fmt: skip

    def set_session(self, *, up=True, ports=None, address="::1"):
        """What the supervisor tells of the session."""
        ports = frozenset({self.session.port} if ports is None else ports)
        self.context.sessions[SESSION] = SessionState(address, up, ports, set())

    @property
    def state(self):
        return self.context.sessions[SESSION]

    def reasons(self, name="i1"):
        """Why requests that matched did not go to the session."""
        return dict(self.context.book.intercepts[name].reasons)

    def client(self, source="127.0.0.1"):
        """A client that has just been accepted, and its connection."""
        near, far = tcp_pair()
        connection = Connection(self, Peer(True, (source, 0), ("127.0.0.1", self.app.port)))
        self.connections.add(connection)
        connection.start(Socket(fileno=near.detach()))
        end = Far(far)
        self._clients.append(end)
        return end, connection

    def spin(self, quiet=QUIET):
        """Turn the loop until nothing happens any more."""
        self.supply()
        while events := self.loop.epoll.poll(quiet):
            for fd, mask in events:
                if (handler := self.loop.handlers.get(fd)) is not None:
                    handler(mask)
            self.supply()

    def later(self, seconds):
        """Let that much time pass, which stands still otherwise, for the deadlines."""
        self.loop.now += seconds
        for deadlines in list(self.loop.deadlines):
            deadlines.run(self.loop.now)
        self.spin()

    def close(self):
        for connection in list(self.connections):
            connection.abort()
        for closing in list(self.closing):
            closing.finish()
        self.dialler.close()
        self.context.session_pool.close()
        self.loop.epoll.close()
        for end in (self.app, self.session, *self._clients):
            with contextlib.suppress(OSError):
                end.close()
        self.context.pipes.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def handler_of(home):
    """The session's end of the newest connection, which has said that the handler is reached."""
    handler = home.session.accept()
    handler.send(b"\0")
    home.spin()
    return handler


def kept_session(home):
    """A client with a kept connection to its session, and that one's far end."""
    client, _ = home.client()
    client.send(MINE)
    home.spin()
    handler = handler_of(home)
    handler.got()
    handler.send(response(b"1"))
    home.spin()
    assert client.got() == response(b"1")
    return client, handler


class Signs:
    """In the place of ``tpnet.kernel.signs.Signs``, which only root can make."""

    def __init__(self):
        self.alive = False

    def last(self, _who):
        return time.monotonic() if self.alive else 0.0
