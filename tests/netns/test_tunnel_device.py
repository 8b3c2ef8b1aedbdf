import base64
import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tunnel_lab import Lab, link_up, wait_until

from tpnet.datapath.netns import NetNs
from tpnet.tunnel import DeviceError, KeyPair, address_of, open_device, prefix_of
from tpnet.tunnel.kernel import KernelDevice
from tpnet.tunnel.wireguard_go import WireGuardGo

PREFIX = prefix_of("device test")


@pytest.fixture
def lab():
    lab = Lab()
    yield lab
    lab.close()


@pytest.fixture(params=[KernelDevice, WireGuardGo], ids=["kernel", "wireguard-go"])
def make(request, lab):
    """A function that makes a device of the kind in a new namespace and moves it to another: (device, birth, home)."""

    def make():
        birth, home = lab.ns("birth"), lab.ns("home")
        with birth.entered():
            try:
                device = lab.keep(request.param())
            except OSError as error:
                pytest.skip(f"this kernel has no WireGuard (CONFIG_WIREGUARD): {error}")

        def move():
            from pyroute2 import IPRoute

            with IPRoute() as route:
                (index,) = route.link_lookup(ifname=device.name)
                route.link("set", index=index, net_ns_fd=home.fd)

        birth.run(move)
        home.run(lambda: link_up(device.name))
        device.entered(home)
        return device, birth, home

    return make


def udp_ports(ns):
    def read():
        ports = set()
        for name in ("udp", "udp6"):
            with open(f"/proc/thread-self/net/{name}") as table:
                ports |= {int(line.split()[1].rpartition(":")[2], 16) for line in table.readlines()[1:]}
        return ports

    return ns.run(read)


def test_udp_socket_stays_where_the_device_was_born(make):
    device, birth, home = make()
    port = device.configure(KeyPair(), 0)
    assert port in udp_ports(birth)
    assert not udp_ports(home)


def test_fixed_port_is_used_and_one_that_is_taken_is_an_error_that_says_so(make):
    device, birth, _ = make()
    assert device.configure(KeyPair(), 21820) == 21820
    assert 21820 in udp_ports(birth)
    with birth.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", 21900))
        with pytest.raises(DeviceError, match="UDP port 21900: Address already in use"):
            device.configure(KeyPair(), 21900)


def test_peers_are_added_changed_listed_and_removed(make):
    device, _, _ = make()
    device.configure(KeyPair(), 0)
    one, two = KeyPair().public, KeyPair().public
    device.set_peer(one, address_of(one, PREFIX), keepalive=25)
    device.set_peer(two, address_of(two, PREFIX), endpoint=("fd00::1", 7))
    peers = device.peers()
    assert set(peers) == {one, two}
    assert peers[one].allowed == address_of(one, PREFIX)
    assert peers[one].endpoint is None
    assert peers[two].endpoint == ("fd00::1", 7)
    assert (peers[one].last_handshake, peers[one].rx, peers[one].tx) == (0, 0, 0)
    device.set_peer(two, address_of(two, PREFIX), endpoint=("10.0.0.1", 8))
    assert device.peers()[two].endpoint == ("10.0.0.1", 8)
    device.set_peer(two, address_of(two, PREFIX))
    assert device.peers()[two].endpoint == ("10.0.0.1", 8), "without an endpoint the known one stays"
    device.remove_peer(one)
    device.remove_peer(one)
    assert set(device.peers()) == {two}


def test_peer_key_with_a_line_of_its_own_is_refused(make):
    device, _, _ = make()
    hostile = base64.b64encode(bytes(32)).decode() + "\nlisten_port=1"
    with pytest.raises(Exception, match="not a WireGuard key"):
        device.set_peer(hostile, address_of(KeyPair().public, PREFIX))


def test_close_removes_the_interface_and_may_be_called_twice(make):
    device, _, home = make()
    assert device.alive()
    device.close()
    device.close()
    assert not device.alive()
    assert device.name not in home.run(lambda: [name for _, name in socket.if_nameindex()])


def test_a_change_on_a_closed_device_is_an_error(make):
    device, _, _ = make()
    device.close()
    with pytest.raises(DeviceError):
        device.set_peer(KeyPair().public, address_of(KeyPair().public, PREFIX))
    with pytest.raises(DeviceError):
        device.peers()


def test_the_choice_is_explained(lab):
    with lab.ns("birth").entered():
        device, reason = open_device()
        lab.keep(device)
    if device.kind == "kernel":
        assert reason == "The kernel has WireGuard."
    else:
        assert reason == (
            "The kernel has no WireGuard (module wireguard, CONFIG_WIREGUARD); wireguard-go runs in its place."
        )


def test_wireguard_go_has_large_buffers_though_it_may_not_take_them(lab):
    birth = lab.ns("birth")
    with birth.entered():
        device = lab.keep(WireGuardGo())
        link_up(device.name)
    for configured in (lambda: device.configure(KeyPair(), 0), device.move_away):
        port = configured()
        with birth.entered():
            found = subprocess.run(
                ["ss", "-ulnmH", f"sport = {port}"], capture_output=True, check=True, text=True
            ).stdout
        sizes = [int(size) for size in re.findall(r"[rt]b([0-9]+)", found)]
        assert len(sizes) == 4, found
        assert all(size == 2 * (7 << 20) for size in sizes), found


@pytest.mark.parametrize(
    "binary", ["/usr/bin/wireguard-go", str(Path(sys.executable).with_name("wireguard-go"))]
)
def test_wireguard_go_of_either_version_takes_the_interface_that_it_is_given(lab, monkeypatch, binary):
    if not Path(binary).exists():
        pytest.skip("make wireguard-go")
    monkeypatch.setattr("tpnet.tunnel.wireguard_go.find_program", lambda: binary)
    ours, theirs = lab.ns("ours"), lab.ns("theirs")
    address, _ = lab.join(ours, theirs)
    here, there = lab.end(ours), lab.end(theirs)
    there.add_peer(here.keys.public, endpoint=(address, here.port), keepalive=1)
    here.add_peer(there.keys.public)
    body = os.urandom(3_000_000)
    with here.socket(socket.SOCK_STREAM) as listener, there.socket(socket.SOCK_STREAM) as sender:
        listener.bind((str(here.address), 8080))
        listener.listen()
        listener.settimeout(20)
        sender.settimeout(20)
        sender.connect((str(here.address), 8080))
        receiver, _ = listener.accept()
        with receiver, ThreadPoolExecutor(1) as pool:
            receiver.settimeout(20)
            sending = pool.submit(sender.sendall, body)
            got = b""
            while len(got) < len(body) and (more := receiver.recv(1 << 20)):
                got += more
            sending.result(20)
    assert got == body


def test_killed_wireguard_go_is_noticed(lab):
    with lab.ns("birth").entered():
        device = lab.keep(WireGuardGo())
    os.kill(device.pid, signal.SIGKILL)
    assert wait_until(lambda: not device.alive())
    with pytest.raises(DeviceError, match="wireguard-go has died"):
        device.peers()


def test_how_wireguard_go_is_controlled_is_out_of_everybody_s_reach(lab):
    """Who could connect would be told the private key. It sees a file that is none."""
    birth = lab.ns("birth")
    umask = os.umask(0o077)  # as the session daemon has it
    try:
        with birth.entered():
            device = lab.keep(WireGuardGo())
    finally:
        os.umask(umask)
    for ns in (birth, NetNs.own()):
        with ns.entered(), socket.socket(socket.AF_UNIX) as other, pytest.raises(ConnectionRefusedError):
            other.connect(b"\0wireguard-go")
    path = Path("/var/run").resolve() / "wireguard" / f"{device.name}.sock"
    assert not path.exists()
    assert Path(f"/proc/{device.pid}/root{path}").read_bytes() == b""
    assert device.peers() == {}


def test_wireguard_go_missing_says_how_to_get_it(lab, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(DeviceError, match="not installed") as caught:
        WireGuardGo()
    assert "apt-get install wireguard-go" in caught.value.hint


def test_an_interface_that_cannot_be_made_is_told_as_that(lab, monkeypatch):
    birth, elsewhere = lab.ns("birth"), lab.ns("elsewhere")
    lab.join(birth, elsewhere)
    taken = next(name for _, name in birth.run(socket.if_nameindex) if name != "lo")
    monkeypatch.setattr("tpnet.tunnel.wireguard_go.new_name", lambda: taken)
    with birth.entered(), pytest.raises(DeviceError, match=f"The interface {taken} cannot be made: "):
        WireGuardGo()
