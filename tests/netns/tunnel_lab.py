"""Namespaces joined by veth pairs, without names, so that nothing is left whatever happens. For the tunnel's tests."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from uuid import uuid4

from pyroute2 import IPRoute

from tpnet.datapath.netns import NetNs
from tpnet.tunnel import KeyPair, TunnelEnd
from tpnet.tunnel.wireguard_go import WireGuardGo

IFA_F_NODAD = 0x02  # linux/if_addr.h
SUBNETS = itertools.cycle(range(1, 255))
"""Each joint has one of its own: several labs may join links to one namespace."""


class Lab:
    """Namespaces, links and tunnel ends that close together."""

    def __init__(self):
        self._stack = contextlib.ExitStack()

    def keep(self, thing):
        self._stack.callback(thing.close)
        return thing

    def ns(self, label):
        ns = self.keep(NetNs.anonymous(label))
        ns.run(lambda: link_up("lo"))
        return ns

    def join(self, a, b, mtu=1500):
        """A veth pair; returns both ends' IPv4 addresses, a's then b's."""
        subnet = next(SUBNETS)
        tag = uuid4().hex[:6]
        ours, theirs = f"v{tag}a", f"v{tag}b"
        addresses = f"10.99.{subnet}.1", f"10.99.{subnet}.2"

        def make():
            with IPRoute() as route:
                route.link(
                    "add",
                    ifname=ours,
                    kind="veth",
                    mtu=mtu,
                    peer={"ifname": theirs, "net_ns_fd": b.fd, "mtu": mtu},
                )

        a.run(make)
        a.run(lambda: link_up(ours, addresses[0], 24))
        b.run(lambda: link_up(theirs, addresses[1], 24))
        return addresses

    def end(self, ns, port=0, **more):
        with ns.entered():
            return self.keep(TunnelEnd.open(KeyPair(), port=port, **more))

    def close(self):
        self._stack.close()


class Pair:
    """An agent's end on a node and a session's end on a laptop, joined."""

    def __init__(self, lab, mtu=1500):
        self.node, self.laptop = lab.ns("node"), lab.ns("laptop")
        self.node_ip, self.laptop_ip = lab.join(self.node, self.laptop, mtu)
        self.agent, self.session = lab.end(self.node, port=21820), lab.end(self.laptop)
        self.agent.add_peer(self.session.keys.public)
        self.session.add_peer(self.agent.keys.public, endpoint=(self.node_ip, 21820), keepalive=25)


def link_up(name, address=None, prefixlen=None):
    with IPRoute() as route:
        (index,) = route.link_lookup(ifname=name)
        if address:
            # IPv6 at once: the kernel finds out in its own time that nobody else can have the address.
            more = {"flags": IFA_F_NODAD} if ":" in address else {}
            route.addr("add", index=index, address=address, prefixlen=prefixlen, **more)
        route.link("set", index=index, state="up")


def default_route(gateway):
    with IPRoute() as route:
        route.route("add", dst="default", gateway=gateway)


def change_address(name, old, new):
    """Another IPv4 address, as on another network."""
    with IPRoute() as route:
        (index,) = route.link_lookup(ifname=name)
        route.addr("del", index=index, address=old, prefixlen=24)
    link_up(name, new, 24)


def listen(end, port=20000):
    """A TCP listener at a tunnel end's address."""
    sock = end.socket()
    sock.bind((str(end.address), port))
    sock.listen()
    return sock


def connect(end, address, port=20000, timeout=20.0):
    sock = end.socket()
    sock.settimeout(timeout)
    try:
        sock.connect((str(address), port))
    except BaseException:
        sock.close()
        raise
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def stream(src, dst, port=20000):
    """A TCP connection from one end to the other: (the dialler's socket, the listener's)."""
    with listen(dst, port) as listener:
        ours = connect(src, dst.address, port)
        listener.settimeout(20)
        theirs, _ = listener.accept()
    theirs.settimeout(20)
    theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours, theirs


def touch(src, dst, port=20000):
    """Prove that a connection can be made."""
    ours, theirs = stream(src, dst, port)
    ours.close()
    theirs.close()


def receive(sock, count):
    data = b""
    while len(data) < count:
        chunk = sock.recv(count - len(data))
        if not chunk:
            break
        data += chunk
    return data


def wait_until(condition, seconds=20.0):
    """Whether the condition comes true in time; how long it took is what the caller measures."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "Z"


def let_everything_out(device, public_key):
    """What a hostile laptop does to its own end: send any packet to the agent, whatever its addresses."""
    if isinstance(device, WireGuardGo):
        key = next(value for name, value in device._get() if name == "public_key")
        device._set([f"public_key={key}", "update_only=true", "allowed_ip=::/0", "allowed_ip=0.0.0.0/0"])
    else:
        device._set(
            peer={"public_key": public_key, "update_only": True, "allowed_ips": ["::/0", "0.0.0.0/0"]}
        )
