"""T06: what a hostile laptop reaches through the tunnel. Everything it tries is first shown to work without the wall."""

import contextlib
import socket
import struct
import threading
from ipaddress import IPv6Address

import pytest
from pyroute2 import IPRoute
from tunnel_lab import Lab, let_everything_out, link_up, wait_until

QUIET = 0.15
"""Seconds without an answer that count as none."""
ALL = {"tcp", "udp", "icmp"}


class Town:
    """A node with a pod and a metadata address behind it, an agent's tunnel end, and two laptops."""

    def __init__(self, lab):
        self.node, self.pod = lab.ns("node"), lab.ns("pod")
        self.node_ip, self.pod_ip = lab.join(self.node, self.pod)
        self.agent = lab.end(self.node, port=21820)
        self.mallory, self.bob = (self._laptop(lab) for _ in range(2))

        def open_up():
            for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                with open(f"/proc/sys/net/{key}", "w") as setting:
                    setting.write("1")
            with IPRoute() as route:
                (lo,) = route.link_lookup(ifname="lo")
                route.addr("add", index=lo, address="169.254.169.254", prefixlen=32)
                route.addr("add", index=lo, address="fd77::1", prefixlen=128)

        self.node.run(open_up)

    def _laptop(self, lab):
        ns = lab.ns("laptop")
        node_ip, _ = lab.join(self.node, ns)
        end = lab.end(ns)
        self.agent.add_peer(end.keys.public)
        end.add_peer(self.agent.keys.public, endpoint=(node_ip, 21820), keepalive=25)
        return end


@pytest.fixture
def town():
    lab = Lab()
    try:
        yield Town(lab)
    finally:
        lab.close()


@contextlib.contextmanager
def servers(ns):
    """TCP 8080 and a UDP echo on 8081, both families, on every address in a namespace. Yields what TCP accepted."""
    accepted = []
    tcp = ns.socket(socket.AF_INET6, socket.SOCK_STREAM)
    udp = ns.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    for sock, port in ((tcp, 8080), (udp, 8081)):
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", port))
        sock.settimeout(0.05)
    tcp.listen()
    done = threading.Event()

    def serve():
        while not done.is_set():
            with contextlib.suppress(TimeoutError):
                connection, peer = tcp.accept()
                accepted.append(peer)
                connection.close()
            with contextlib.suppress(TimeoutError):
                data, peer = udp.recvfrom(2048)
                udp.sendto(data, peer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield accepted
    finally:
        done.set()
        thread.join()
        tcp.close()
        udp.close()


def tcp_answers(ns, address):
    with ns.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(QUIET)
        try:
            sock.connect((address, 8080))
        except OSError:
            return False
        return True


def udp_answers(ns, address):
    with ns.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(QUIET)
        try:
            sock.sendto(b"anybody?", (address, 8081))
            return sock.recv(100) == b"anybody?"
        except OSError:
            return False


def icmp_answers(ns, address):
    six = ":" in address
    protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
    body = b"tpnetprobe"
    head = struct.pack("!BBHHH", 128 if six else 8, 0, 0, 4711, 1)
    if not six:
        padded = struct.unpack(f"!{(len(head) + len(body)) // 2}H", head + body)
        total = sum(padded)
        total = (total & 0xFFFF) + (total >> 16)
        head = struct.pack("!BBHHH", 8, 0, ~(total + (total >> 16)) & 0xFFFF, 4711, 1)
    with ns.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_RAW, protocol) as sock:
        sock.settimeout(QUIET)
        try:
            sock.sendto(head + body, (address, 0))
            while True:
                packet = sock.recv(2048)
                if packet.endswith(body) and packet[0 if six else 20] in ((129,) if six else (0,)):
                    return True
        except OSError:
            return False


def answers(ns, address):
    return {
        name
        for name, probe in (("tcp", tcp_answers), ("udp", udp_answers), ("icmp", icmp_answers))
        if probe(ns, address)
    }


def open_the_gates(end, agent_key):
    """A hostile laptop routes everything into its tunnel, of both families, and gives itself an IPv4 address."""
    let_everything_out(end.device, agent_key)

    def routes():
        link_up(end.device.name, "10.200.0.1", 32)
        with IPRoute() as route:
            (index,) = route.link_lookup(ifname=end.device.name)
            route.route("add", dst="0.0.0.0/0", oif=index)
            route.route("add", dst="::/0", oif=index)

    end.ns.run(routes)


def test_t06_a_laptop_reaches_no_other_laptop_node_pod_or_metadata_service(town):
    open_the_gates(town.mallory, town.agent.keys.public)
    with servers(town.node), servers(town.pod), servers(town.bob.ns) as bobs:
        node_side = [town.node_ip, "169.254.169.254", "fd77::1"]
        for address in node_side:
            assert wait_until(lambda at=address: answers(town.node, at) == ALL), (
                "the probe works where it should"
            )
        assert wait_until(lambda: answers(town.node, town.pod_ip) == ALL)
        assert wait_until(lambda: answers(town.agent.ns, str(town.bob.address)) == ALL)
        bobs.clear()
        targets = [
            *node_side, town.pod_ip, str(town.bob.address), "127.0.0.1", "10.200.0.2", "fe80::1", "8.8.8.8",
        ]  # fmt: skip
        reached = {}
        for address in targets:
            if found := answers_through(town.mallory, address):
                reached[address] = found
        assert reached == {}
        assert bobs == []


def answers_through(end, address):
    """Like ``answers`` but certain to leave through the tunnel: what the laptop's own loopback says does not count."""
    if address == "127.0.0.1":

        def no_loopback():
            with IPRoute() as route:
                (lo,) = route.link_lookup(ifname="lo")
                route.link("set", index=lo, state="down")

        end.ns.run(no_loopback)
    return answers(end.ns, address)


def test_t06_at_the_agents_own_address_nothing_but_the_heartbeat_port_is_there(town):
    open_the_gates(town.mallory, town.agent.keys.public)
    with servers(town.node):
        assert answers_through(town.mallory, str(town.agent.address)) <= {"icmp"}


def test_t06_a_packet_from_somebody_elses_address_is_dropped(town):
    open_the_gates(town.mallory, town.agent.keys.public)
    spoofed = [town.bob.address, IPv6Address("fd77::2")]
    for address in spoofed:
        town.mallory.ns.run(lambda address=address: link_up(town.mallory.device.name, str(address), 128))
    inbox = town.agent.socket(socket.SOCK_DGRAM)
    with inbox:
        inbox.bind((str(town.agent.address), 21821))
        for source in [*spoofed, town.mallory.address]:
            with town.mallory.socket(socket.SOCK_DGRAM) as sock:
                sock.bind((str(source), 0))
                sock.sendto(str(source).encode(), (str(town.agent.address), 21821))
        senders = []
        inbox.settimeout(20)  # what is allowed was sent last, and arrives
        with contextlib.suppress(TimeoutError):
            while True:
                data, peer = inbox.recvfrom(100)
                senders.append((data.decode(), peer[0]))
                inbox.settimeout(QUIET)
    assert senders == [(str(town.mallory.address), str(town.mallory.address))]


def test_t07_a_key_that_was_removed_is_cut_off_at_once_and_gets_no_handshake(town):
    with town.agent.socket(socket.SOCK_DGRAM) as inbox, town.mallory.socket(socket.SOCK_DGRAM) as sock:
        inbox.bind((str(town.agent.address), 21821))
        inbox.settimeout(20)
        sock.connect((str(town.agent.address), 21821))
        sock.send(b"known")
        assert inbox.recv(100) == b"known"
        inbox.settimeout(QUIET)
        town.agent.remove_peer(town.mallory.keys.public)
        sock.send(b"with the old keys")
        with pytest.raises(TimeoutError):
            inbox.recv(100)
        key = town.agent.keys.public
        town.mallory.add_peer(key, endpoint=town.mallory.peers()[key].endpoint, keepalive=25)
        sock.send(b"let me in again")
        with pytest.raises(TimeoutError):
            inbox.recv(100)
        assert town.mallory.peers()[key].last_handshake == 0
