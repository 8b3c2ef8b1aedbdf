import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from clock import quickest
from pyroute2 import IPRoute
from tunnel_lab import (
    Lab,
    Pair,
    change_address,
    connect,
    gone,
    listen,
    receive,
    stream,
    touch,
    wait_until,
)

from tpnet.tunnel import DeviceError, KeyPair, TunnelEnd, address_of, prefix_of


@pytest.fixture
def lab():
    lab = Lab()
    yield lab
    lab.close()


@pytest.fixture
def pair(lab):
    return Pair(lab)


def contents():
    """Everything in a namespace that a tunnel might leave behind."""
    with IPRoute() as route:
        return (
            sorted(link.get_attr("IFLA_IFNAME") for link in route.get_links()),
            sorted(addr.get_attr("IFA_ADDRESS") for addr in route.get_addr()),
            sorted(str(r.get_attr("RTA_DST")) + str(r.get_attr("RTA_TABLE")) for r in route.get_routes()),
            len(list(route.get_rules())),
        )


def test_tcp_crosses_in_both_directions_at_addresses_both_sides_compute(pair):
    assert address_of(pair.session.keys.public, pair.agent.prefix) == pair.session.address
    assert address_of(pair.agent.keys.public, pair.session.prefix) == pair.agent.address
    for src, dst in ((pair.agent, pair.session), (pair.session, pair.agent)):
        ours, theirs = stream(src, dst)
        with ours, theirs:
            assert theirs.getpeername()[0] == str(src.address)
            ours.sendall(b"over")
            theirs.sendall(b"back")
            assert receive(theirs, 4) == b"over"
            assert receive(ours, 4) == b"back"


def test_namespace_of_birth_is_unchanged_but_for_one_udp_socket(lab):
    laptop = lab.ns("laptop")
    before = laptop.run(contents)
    end = lab.end(laptop, port=21820)
    assert laptop.run(contents) == before
    with laptop.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, pytest.raises(OSError, match="in use"):
        probe.bind(("0.0.0.0", 21820))
    end.close()
    assert laptop.run(contents) == before
    with laptop.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("0.0.0.0", 21820))


def test_private_namespace_holds_nothing_but_the_tunnel_and_forwards_nothing(pair):
    links, addresses, _, _ = pair.agent.ns.run(contents)
    assert links == sorted(["lo", pair.agent.device.name])
    assert addresses == sorted(["127.0.0.1", "::1", str(pair.agent.address)])

    def forwarding():
        return [
            Path(f"/proc/sys/net/{key}").read_text().strip()
            for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding")
        ]

    assert pair.agent.ns.run(forwarding) == ["0", "0"]


def test_port_that_is_taken_fails_and_leaves_nothing(lab):
    node = lab.ns("node")
    before = node.run(contents)
    with node.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", 21820))
        with pytest.raises(DeviceError, match="UDP port 21820: Address already in use"):
            lab.end(node, port=21820)
    assert node.run(contents) == before


def test_connecting_to_a_removed_peer_fails_at_once(pair):
    touch(pair.agent, pair.session)
    pair.agent.remove_peer(pair.session.keys.public)
    pair.agent.remove_peer(pair.session.keys.public)
    assert not pair.agent.peers()

    def failure():
        started = time.monotonic()
        with pytest.raises(OSError, match="unreachable"):
            connect(pair.agent, pair.session.address)
        return time.monotonic() - started

    assert quickest(0.1, failure) < 0.1


def test_session_that_comes_back_with_a_new_key_is_reached_at_once(lab, pair):
    touch(pair.agent, pair.session)
    pair.session.close()
    again = lab.end(pair.laptop)
    started = time.monotonic()
    pair.agent.remove_peer(pair.session.keys.public)
    pair.agent.add_peer(again.keys.public)
    again.add_peer(pair.agent.keys.public, endpoint=(pair.node_ip, 21820), keepalive=25)
    ours, theirs = stream(again, pair.agent)
    with ours, theirs:
        assert time.monotonic() - started < 4, "WireGuard's own next handshake comes after 5 s"


def test_agent_that_forgot_a_session_is_reached_at_once_after_both_add_each_other_again(pair):
    touch(pair.agent, pair.session)
    pair.agent.remove_peer(pair.session.keys.public)
    started = time.monotonic()
    pair.agent.add_peer(pair.session.keys.public)
    pair.session.add_peer(pair.agent.keys.public, endpoint=(pair.node_ip, 21820), keepalive=25)
    ours, theirs = stream(pair.session, pair.agent)
    with ours, theirs:
        assert time.monotonic() - started < 4, "WireGuard's own next handshake comes after 5 s"


def test_f11_stream_survives_a_change_of_the_laptops_address(pair):
    ours, theirs = stream(pair.agent, pair.session)
    with ours, theirs:
        moved = pair.laptop_ip.rsplit(".", 1)[0] + ".77"
        device = next(name for _, name in pair.laptop.run(socket.if_nameindex) if name != "lo")
        pair.laptop.run(lambda: change_address(device, pair.laptop_ip, moved))
        pair.session.set_endpoint(pair.agent.keys.public, (pair.node_ip, 21820), keepalive=25)
        theirs.sendall(b"from elsewhere")
        assert receive(ours, 14) == b"from elsewhere"
        ours.sendall(b"found you")
        assert receive(theirs, 9) == b"found you"
        assert pair.agent.peers()[pair.session.keys.public].endpoint[0] == moved


@pytest.mark.parametrize("outer_mtu", [1280, 1400])
def test_f26_no_black_hole_on_a_path_of_small_packets(lab, outer_mtu):
    pair = Pair(lab, mtu=outer_mtu)
    ours, theirs = stream(pair.agent, pair.session)
    with ours, theirs:
        for size in range(1300, 1501, 20):
            for src, dst in ((ours, theirs), (theirs, ours)):
                src.sendall(b"m" * size)
                assert receive(dst, size) == b"m" * size


def test_megabytes_cross_unchanged(pair):
    ours, theirs = stream(pair.agent, pair.session)
    data = os.urandom(1 << 20) * 8
    with ours, theirs:
        sender = threading.Thread(target=lambda: (ours.sendall(data), ours.shutdown(socket.SHUT_WR)))
        sender.start()
        assert receive(theirs, len(data) + 1) == data
        sender.join()


def test_event_loop_goes_on_while_an_end_opens(lab):
    ticks = []

    async def tick():
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.002)

    async def main():
        ticker = asyncio.create_task(tick())
        end = lab.keep(await TunnelEnd.open_async(KeyPair()))
        ticker.cancel()
        return end

    assert asyncio.run(main()).alive()
    assert len(ticks) > 3


OWNER = """
import sys, time
from tpnet.tunnel import TunnelEnd, KeyPair
end = TunnelEnd.open(KeyPair())
print(getattr(end.device, "pid", 0), end.ns.inode, flush=True)
time.sleep(60)
"""


def test_killed_owner_leaves_no_device_namespace_or_process(lab):
    laptop = lab.ns("laptop")
    before = laptop.run(contents)
    with laptop.entered():
        owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    with owner:
        child, inode = owner.stdout.readline().split()
        child = int(child)
        if child:
            assert not gone(child)
        assert namespace_lives(int(inode), owner.pid)
        owner.kill()
        owner.wait()
    assert wait_until(lambda: not child or gone(child))
    assert laptop.run(contents) == before


def namespace_lives(inode, pid):
    """Whether a process holds the namespace by a descriptor."""
    return any(fd.stat().st_ino == inode for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.exists())


def test_owner_and_wireguard_go_killed_together_leave_no_device(lab):
    laptop = lab.ns("laptop")
    before = laptop.run(contents)
    with laptop.entered():
        owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    with owner:
        child, _ = owner.stdout.readline().split()
        if int(child):
            os.kill(int(child), signal.SIGSTOP)
        owner.kill()
        if int(child):
            os.kill(int(child), signal.SIGKILL)
        owner.wait()
    assert wait_until(lambda: not int(child) or gone(int(child)))
    assert laptop.run(contents) == before


def test_wireguard_go_that_misses_its_signal_ends_with_the_namespace(lab):
    end = lab.end(lab.ns("laptop"))
    if end.device.kind == "kernel":
        pytest.skip("this kernel has WireGuard: there is no child")
    end.ns.close()
    assert wait_until(lambda: not end.alive())


def test_listener_of_a_closed_end_is_dead(pair):
    with listen(pair.session):
        touch(pair.agent, pair.agent, 20001)
        pair.session.close()
        with pytest.raises(OSError, match="timed out"):
            connect(pair.agent, pair.session.address, timeout=0.3)


def test_install_prefixes_differ():
    key = KeyPair().public
    assert address_of(key, prefix_of("one")) != address_of(key, prefix_of("two"))
