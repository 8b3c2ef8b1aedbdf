import base64
import os
import signal
import socket
import time

import pytest
from tunnel_lab import Lab, link_up, socket_file, wait_until

from tpnet.tunnel import DeviceError, KeyPair, address_of, open_device, prefix_of
from tpnet.tunnel.kernel import KernelDevice
from tpnet.tunnel.wireguard_go import WireGuardGo, sweep

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
    assert not socket_file(device.name).exists()


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


def test_killed_wireguard_go_is_noticed(lab):
    with lab.ns("birth").entered():
        device = lab.keep(WireGuardGo())
    os.kill(device.pid, signal.SIGKILL)
    assert wait_until(lambda: not device.alive())
    with pytest.raises(DeviceError, match="wireguard-go has died"):
        device.peers()


def test_socket_file_of_a_killed_wireguard_go_is_swept_and_a_live_one_is_not(lab):
    with lab.ns("birth").entered():
        dead, live = lab.keep(WireGuardGo()), lab.keep(WireGuardGo())
    os.kill(dead.pid, signal.SIGKILL)
    assert wait_until(lambda: not dead.alive())
    assert socket_file(dead.name).exists()
    assert dead._socket.name not in sweep(), "a fresh one may not listen yet"
    long_ago = time.time() - 60
    for device in (dead, live):
        os.utime(socket_file(device.name), (long_ago, long_ago))
    sweep()
    assert not socket_file(dead.name).exists()
    assert socket_file(live.name).exists()
    assert live.alive()


def test_wireguard_go_missing_says_how_to_get_it(lab, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(DeviceError, match="not installed") as caught:
        WireGuardGo()
    assert "apt-get install wireguard-go" in caught.value.hint


def test_wireguard_go_that_cannot_make_its_interface_gives_its_own_words(lab, monkeypatch):
    birth, elsewhere = lab.ns("birth"), lab.ns("elsewhere")
    lab.join(birth, elsewhere)
    taken = next(name for _, name in birth.run(socket.if_nameindex) if name != "lo")
    monkeypatch.setattr("tpnet.tunnel.wireguard_go.new_name", lambda: taken)
    with birth.entered(), pytest.raises(DeviceError, match=r"ended at once. It said: .*Failed to create TUN"):
        WireGuardGo()
