"""Developers for a whole agent's tests: laptops joined to the agent's node, their session daemons, their handlers.

Everything between a client and a handler is the real thing here: worker, tunnel, session daemon.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from uuid import uuid4

from agent_lab import GET, AgentLab, wait_until
from books import Books, reads
from ledger import Ledger
from networks import TABLE, nft
from podnet import App
from tunnel_lab import Lab, default_route
from worker_lab import Server, answering, read_head

from tpnet.datapath.netns import NetNs
from tpnet.model import HeaderRule, TpnetError
from tpnet.session.client import SessionClient, ensure_session


class Laptops:
    """Laptops, each joined to the agent's node, and their users' session daemons."""

    def __init__(self, agent):
        self.agent = agent
        self._lab = Lab()
        self._node = self._lab.keep(NetNs.from_name(agent.node))
        self._users = []

    def user(self, name, **more):
        user = User(self, name, **more)
        self._users.append(user)
        return user

    def connect(self, laptop, *, nat=False):
        """``nat``: behind a router that lets in only what answers, address and port, what was sent from behind it."""
        if not nat:
            self._lab.join(self._node, laptop)
            return
        router = self._lab.ns("router")
        self._lab.join(self._node, router)
        gateway, _ = self._lab.join(router, laptop)
        laptop.run(lambda: default_route(gateway))
        router.run(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
        nft(
            router,
            f"table ip {TABLE} {{\nchain out {{ type nat hook postrouting priority 100; masquerade\n}}\n}}\n",
        )

    def ns(self, label):
        return self._lab.ns(label)

    @property
    def node(self):
        """The agent's namespace."""
        return self._node

    def close(self):
        for user in self._users:
            user.close()
        self._lab.close()


class User:
    """A developer with a laptop, a handler on its port 8080, and a session."""

    def __init__(self, laptops, name, *, nat=False):
        self.name = f"{name}{uuid4().hex[:4]}"
        self.header = b"coder: %s\r\n" % self.name.encode()
        self.laptop = laptops.ns(self.name)
        laptops.connect(self.laptop, nat=nat)
        self._run_dir = laptops.agent.run_dir
        self._servers = contextlib.ExitStack()
        self.start_handler()
        self.start_session()

    def start_session(self):
        """A session, made if there is none."""
        with self.laptop.entered():
            self.client = ensure_session(self._run_dir, self.name, name=f"{self.name}@laptop")

    def start_handler(self):
        self.handler = self.keep(App(self.laptop, 8080, self.name, "http", "127.0.0.1"))

    def serve(self, serve):
        """Another handler in its place: ``serve(sock)`` runs in a thread per connection."""
        self.handler.close()
        self.handler = self.keep(Server(self.laptop, 8080, serve, "::ffff:127.0.0.1"))
        return self.handler

    def keep(self, server):
        self._servers.callback(server.close)
        return server

    def draft(self, lab, name, **more):
        base = lab.intercept(f"{name}-{self.name}", self.name, handler="127.0.0.1:8080")
        return replace(base, session="", **more)

    def add(self, lab, name="orders", **more):
        return self.client.add(self.draft(lab, name, **more))

    def remove(self, name="orders"):
        return self.client.remove(f"{name}-{self.name}")

    def matched(self):
        return GET % self.header

    def close(self):
        with contextlib.suppress(TpnetError):
            SessionClient(self._run_dir, self.name).quit()
        self._servers.close()


class Scene:
    """One pod, and one developer, ``bob``, for a shared agent. An app is started by the test, then ``intercept``.

    ``bob``: what ``User`` takes.
    """

    def __init__(self, agent, **bob):
        self._stack = contextlib.ExitStack()
        try:
            self.lab = self.keep(AgentLab(agent))
            self.net, self.pod, self.control = self.lab.net, self.lab.pod, self.lab.control
            self.laptops = self.keep(Laptops(agent))
            self.bob = self.laptops.user("bob", **bob)
        except BaseException:
            self.close()
            raise

    def keep(self, thing):
        self._stack.callback(thing.close)
        return thing

    @property
    def path(self):
        """The ends of the way that the tunnel's packets take: laptop and node."""
        return self.bob.laptop, self.laptops.node

    def app(self, serve):
        """An app on the pod's port 8080; ``serve(sock)`` runs in a thread per connection."""
        return self.keep(Server(self.pod.netns, 8080, serve))

    def intercept(self, **more):
        """Bob takes the requests with his header."""
        status = self.bob.add(self.lab, **more)
        assert (status.ready, status.session_up) == (1, True), status
        wait_until(lambda: self.control.status().targets[0].ready)
        return status

    def connect(self, timeout=20.0, family=4):
        """A client's connection to the pod's port."""
        return self.net.connect(8080, family, timeout=timeout)

    def matched(self, method=b"GET", more=b"", body=b"", path=b"/"):
        """A request that is bob's."""
        return request(method, self.bob.header + more, body, path)

    def close(self):
        self._stack.close()


class Stage(Scene):
    """A scene for many tests, intercepted already: ``plays`` says what app and handler do with each connection."""

    def __init__(self, agent, **bob):
        super().__init__(agent, **bob)
        try:
            self.agent = agent
            self.ending = []  # processes of earlier agents, which wait for what is under way
            self._stack.callback(self._end)
            self._plays = {}
            self.app(partial(self._play, "app"))
            self.serve()
            self.plays(app=None, bob=None)
            self.intercept()
        except BaseException:
            self.close()
            raise

    def serve(self):
        """Bob's handler, anew."""
        self.bob.serve(partial(self._play, "bob"))

    def headers(self, value):
        """The rule of another intercept of the same port."""
        return (HeaderRule("coder", value),)

    def plays(self, app=None, bob=None):
        """``serve(sock)`` for each connection from now on; who has none answers with its name."""
        self._plays = {"app": app or answering("app"), "bob": bob or answering("bob")}

    def load(self, **more):
        """A ledger's load on the pod, a third of it bob's; app and handler keep ``books``."""
        self.books = Books()
        self.plays(self.books.server("app"), self.books.server(self.bob.name))
        addresses = [(self.pod.address[family], 8080) for family in (4, 6)]
        values = {"host": "shop", "header": "coder", "posts": True, "reads": reads, **more}
        return Ledger(self.net.client, addresses, ("", self.bob.name), **values)

    def _end(self):
        for old in self.ending:
            old.kill()
            old.wait()

    def _play(self, side, sock):
        self._plays[side](sock)


def head_of(sock):
    """One head, byte by byte so that nothing of what follows is taken; empty at the end.

    A session daemon tries a handler by connecting to it, so that one without a request is nothing wrong.
    """
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte:
            return b""
        head += byte
    return head


def answer(sock):
    """One response with a Content-Length, and nothing of what follows it: status and body."""
    head = read_head(sock)
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    assert length, head
    body = b""
    while len(body) < int(length[1]):
        more = sock.recv(int(length[1]) - len(body))
        assert more, f"the connection ended in a body: {head!r}"
        body += more
    return int(head.split()[1]), body.decode()


def request(method=b"GET", more=b"", body=b"", path=b"/"):
    """A request's bytes; ``more`` are field lines."""
    if body:
        more += b"content-length: %d\r\n" % len(body)
    return b"%s %s HTTP/1.1\r\nhost: shop\r\n%s\r\n%s" % (method, path, more, body)
