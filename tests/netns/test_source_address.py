import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from tpnet.datapath.hold import lock_namespace
from tpnet.datapath.netns import NetNs
from tpnet.datapath.redirect import EbpfRedirect
from tpnet.datapath.source_address import (
    MARK,
    PRIORITY,
    PROTOCOL,
    SourceAddress,
    app_socket,
    app_sockets,
    sweep,
    sweep_all,
)
from tpnet.kernel.endpoint import pack_endpoint
from tpnet.kernel.signs import Signs
from tpnet.model import InvalidInput, TpnetError
from tpnet.proxy.bypass import BypassMap

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def snapshot(name):
    """Everything of a namespace that source addresses could change: rules, all routes, all IP sysctls, netfilter."""
    commands = [
        ["ip", "rule"],
        ["ip", "-6", "rule"],
        ["ip", "route", "show", "table", "all"],
        ["ip", "-6", "route", "show", "table", "all"],
        # What the kernel itself counts or rolls is not a setting.
        [
            "sh",
            "-c",
            "grep -rs . /proc/sys/net/ipv4 /proc/sys/net/ipv6 | grep -v -e stable_secret -e tcp_fastopen_key | sort",
        ],
    ]
    return [
        subprocess.run(
            ["ip", "netns", "exec", name, *command], capture_output=True, text=True, check=False
        ).stdout
        for command in commands
    ]


def sysctl(netns, value=None):
    path = "/proc/sys/net/ipv4/tcp_fwmark_accept"

    def access():
        with open(path, "r+" if value is not None else "r") as file:
            if value is not None:
                file.write(value)
                return value
            return file.read().strip()

    return netns.run(access)


class MiniProxy:
    """One connection through the redirect, as the worker does it: accept, bind to the client's address, connect."""

    def __init__(self, pod, program, port):
        self.pod, self.port = pod, port
        self._signs = Signs.create()
        self.redirect = EbpfRedirect(pod.netns, program, self._signs)
        self.listener = self.redirect.add(port)
        self.redirect.enable(port)
        self.bypass = BypassMap(self.redirect.bypass_fd)

    def accept_and_dial(self):
        self.listener.settimeout(20)
        sock, peer = self.listener.accept()
        source = peer[0].removeprefix("::ffff:")
        local = sock.getsockname()[0].removeprefix("::ffff:")
        upstream = app_socket(self.pod.netns, socket.AF_INET6 if ":" in source else socket.AF_INET)
        upstream.bind((source, 0))
        key = pack_endpoint(source, upstream.getsockname()[1])
        self.bypass.insert(key)
        upstream.settimeout(20)
        upstream.connect((local, self.port))
        self.bypass.delete(key)
        return sock, upstream

    def close(self):
        self.redirect.close()
        self._signs.close()


@pytest.fixture
def locked(podnet):
    """No agent of another run that starts now takes this for what a dead one left."""
    with lock_namespace(podnet.pod.netns):
        yield


@pytest.fixture
def kept(podnet, locked):
    source = SourceAddress(podnet.pod.netns)
    source.apply()
    yield source
    source.undo()


@pytest.fixture
def proxy(podnet, program):
    made = MiniProxy(podnet.pod, program, 8080)
    source = SourceAddress(podnet.pod.netns)
    source.apply()
    yield made
    source.undo()
    made.close()


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("rp_filter", ["0", "1", "2"])
def test_the_app_sees_the_clients_own_address(podnet, proxy, family, rp_filter):
    subprocess.run(
        ["ip", "netns", "exec", podnet.pod.name, "sysctl", "-q", f"net.ipv4.conf.all.rp_filter={rp_filter}"],
        check=True,
    )
    app = podnet.pod.app(8080, kind="echo")
    with podnet.connect(8080, family) as client:
        sock, upstream = proxy.accept_and_dial()
        with sock, upstream:
            upstream.sendall(b"x" * 100_000)
            received = 0
            while received < 100_000:
                received += len(upstream.recv(65536))
            assert [peer[0] for peer in app.peers] == [podnet.pod.client_address[family]]
            client.sendall(b"hello")
            assert sock.recv(16) == b"hello"


@pytest.mark.parametrize("family", [4, 6])
def test_a_port_that_nothing_listens_on_refuses_at_once(podnet, kept, family):
    upstream = app_socket(podnet.pod.netns, FAMILIES[family])
    with upstream:
        upstream.bind((podnet.pod.client_address[family], 0))
        upstream.settimeout(20)
        with pytest.raises(ConnectionRefusedError):
            upstream.connect((podnet.pod.address[family], 8080))


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.77.1.2", "fd77:1::2"])
def test_a_client_inside_the_pod_keeps_its_address_too(podnet, proxy, address):
    app = podnet.pod.app(8080, kind="echo")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with podnet.pod.netns.socket(family, socket.SOCK_STREAM) as client:
        client.connect((address, 8080))
        sock, upstream = proxy.accept_and_dial()
        with sock, upstream:
            upstream.sendall(b"ping")
            assert upstream.recv(16) == b"ping"
        assert [peer[0] for peer in app.peers] == [address]


def test_nginx_writes_the_clients_own_address_in_its_access_log(podnet, proxy, tmp_path):
    log = tmp_path / "access.log"
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"daemon off; pid {tmp_path}/nginx.pid; error_log {tmp_path}/error.log; worker_processes 1; user root;\n"
        "events {}\n"
        f"http {{ access_log {log} combined; client_body_temp_path {tmp_path}/b; proxy_temp_path {tmp_path}/p;\n"
        f"fastcgi_temp_path {tmp_path}/f; uwsgi_temp_path {tmp_path}/u; scgi_temp_path {tmp_path}/s;\n"
        "server { listen 8080; listen [::]:8080; location / { return 200 'shop'; } } }\n"
    )
    assert shutil.which("nginx")
    nginx = subprocess.Popen(["ip", "netns", "exec", podnet.pod.name, "nginx", "-c", str(config)])
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / "nginx.pid").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        for family in (4, 6):
            with podnet.connect(8080, family) as client:
                sock, upstream = proxy.accept_and_dial()
                with sock, upstream:
                    client.sendall(b"GET /%d HTTP/1.1\r\nhost: shop\r\n\r\n" % family)
                    upstream.sendall(sock.recv(4096))
                    sock.sendall(upstream.recv(4096))
                    assert client.recv(4096).endswith(b"shop")
    finally:
        nginx.terminate()
        nginx.wait(30)
    lines = log.read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["10.77.1.1", "fd77:1::1"]
    assert [line.split()[6] for line in lines] == ["/4", "/6"]


def test_connections_that_are_not_ours_are_not_marked(podnet, kept):
    app = podnet.pod.app(8080, kind="echo")
    with podnet.connect(8080) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        accepted = app._open[0]
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 0


def test_everything_is_as_before_after_undo(podnet, locked):
    before = snapshot(podnet.pod.name)
    source = SourceAddress(podnet.pod.netns)
    source.apply()
    source.apply()
    during = snapshot(podnet.pod.name)
    for at in range(5):
        assert during[at] != before[at]
    assert "route_localnet:1" not in during[4]
    source.undo()
    source.undo()
    assert snapshot(podnet.pod.name) == before


def test_only_the_promised_things_change(podnet, kept):
    rules = subprocess.run(
        ["ip", "-n", podnet.pod.name, "rule"], capture_output=True, text=True, check=False
    ).stdout
    ours = [line for line in rules.splitlines() if line.startswith(f"{PRIORITY}:")]
    assert len(ours) == 1
    assert f"fwmark {MARK:#x}/0xffff0000" in ours[0]
    assert f"proto {PROTOCOL}" in ours[0]
    assert sysctl(podnet.pod.netns) == "1"
    assert sysctl(podnet.client) == "0"


def test_a_sysctl_that_was_on_stays_on(podnet, locked):
    sysctl(podnet.pod.netns, "1")
    before = snapshot(podnet.pod.name)
    source = SourceAddress(podnet.pod.netns)
    source.apply()
    source.undo()
    assert snapshot(podnet.pod.name) == before


KILLED = """
import json, sys, time
from tpnet.datapath.netns import NetNs
from tpnet.datapath.source_address import SourceAddress
source = SourceAddress(NetNs.from_name(sys.argv[1]))
print(json.dumps(source.to_json()), flush=True)
source.apply()
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("value", ["0", "1"])
def test_the_next_start_sweeps_what_a_killed_agent_left(podnet, locked, value):
    sysctl(podnet.pod.netns, value)
    before = snapshot(podnet.pod.name)
    agent = subprocess.Popen([sys.executable, "-c", KILLED, podnet.pod.name], stdout=subprocess.PIPE)
    try:
        record = json.loads(agent.stdout.readline())
        assert agent.stdout.readline() == b"ready\n"
        agent.send_signal(signal.SIGKILL)
    finally:
        agent.kill()
        agent.wait()
        agent.stdout.close()
    assert snapshot(podnet.pod.name) != before
    assert sweep(podnet.pod.netns, record)
    assert snapshot(podnet.pod.name) == before
    assert not sweep(podnet.pod.netns, record)


def test_a_sweep_without_a_record_assumes_the_kernels_default(podnet, locked):
    before = snapshot(podnet.pod.name)
    SourceAddress(podnet.pod.netns).apply()
    assert sweep(podnet.pod.netns)
    assert snapshot(podnet.pod.name) == before


def test_a_sweep_touches_nothing_of_others(podnet):
    for rule in (
        f"priority {PRIORITY} fwmark 0x1 table 29808",
        "priority 800 fwmark 0x74700000/0xffff0000 table 29808",
    ):
        subprocess.run(["ip", "-n", podnet.pod.name, "rule", "add", *rule.split()], check=True)
    sysctl(podnet.pod.netns, "1")
    before = snapshot(podnet.pod.name)
    assert not sweep(podnet.pod.netns, {"tcp_fwmark_accept": "0"})
    assert snapshot(podnet.pod.name) == before


def test_sweeping_all_spares_what_belongs_to_a_living_agent(make_podnet, program, signs):
    net = make_podnet(pods=2)
    before = [snapshot(pod.name) for pod in net.pods]
    sysctl(net.pods[0].netns, "1")
    record = {}
    for pod in net.pods:
        source = SourceAddress(pod.netns)
        record[str(pod.netns.inode)] = source.to_json()
        source.apply()
    living = EbpfRedirect(net.pods[1].netns, program, signs)
    try:
        names = sweep_all([pod.netns for pod in net.pods], record)
        assert f"netns/{net.pods[0].name}" in names
        assert f"netns/{net.pods[1].name}" not in names
        assert sysctl(net.pods[0].netns) == "1"
    finally:
        living.close()
    sysctl(net.pods[0].netns, "0")
    assert f"netns/{net.pods[1].name}" in sweep_all([pod.netns for pod in net.pods], record)
    assert [snapshot(pod.name) for pod in net.pods] == before


def test_a_bad_record_is_refused(podnet):
    for record in ({}, {"tcp_fwmark_accept": "yes"}, {"tcp_fwmark_accept": 1}):
        with pytest.raises(InvalidInput):
            SourceAddress.from_json(podnet.pod.netns, record)


def test_a_pod_without_ipv6_works_with_ipv4_only(podnet, program):
    for which in ("all", "default", "lo", "eth0"):
        subprocess.run(
            ["ip", "netns", "exec", podnet.pod.name, "sysctl", "-q", f"net.ipv6.conf.{which}.disable_ipv6=1"],
            check=True,
        )
    before = snapshot(podnet.pod.name)
    app = podnet.pod.app(8080, kind="echo", address="0.0.0.0")
    source = SourceAddress(podnet.pod.netns)
    assert source.families == (socket.AF_INET,)
    proxy = MiniProxy(podnet.pod, program, 8080)
    source.apply()
    try:
        with podnet.connect(8080):
            sock, upstream = proxy.accept_and_dial()
            with sock, upstream:
                upstream.sendall(b"ping")
                assert upstream.recv(16) == b"ping"
        assert [peer[0] for peer in app.peers] == ["10.77.1.1"]
    finally:
        source.undo()
        proxy.close()
    assert snapshot(podnet.pod.name) == before


def test_a_namespace_whose_lo_is_down_is_refused_and_left_as_it_was(podnet):
    subprocess.run(["ip", "-n", podnet.pod.name, "link", "set", "lo", "down"], check=True)
    before = snapshot(podnet.pod.name)
    with pytest.raises(TpnetError, match="down") as refused:
        SourceAddress(podnet.pod.netns).apply()
    assert "lo must be up" in refused.value.hint
    assert snapshot(podnet.pod.name) == before


@pytest.mark.parametrize("family", [4, 6])
def test_prepared_sockets_are_ready_for_an_unprivileged_worker(podnet, proxy, family):
    sockets = app_sockets(podnet.pod.netns, FAMILIES[family], 3)
    app = podnet.pod.app(8080, kind="echo")
    redirect = proxy.redirect
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # uid 65534 without any capability
        try:
            os.setgid(65534)
            os.setuid(65534)
            bypass = BypassMap(redirect.bypass_fd)
            for sock in sockets:
                source = podnet.pod.client_address[family]
                sock.bind((source, 0))
                key = pack_endpoint(source, sock.getsockname()[1])
                bypass.insert(key)
                sock.connect_ex((podnet.pod.address[family], 8080))
                select.select([], [sock], [], 3)
                bypass.delete(key)
                sock.send(b"ping")
                select.select([sock], [], [], 3)
                assert sock.recv(16) == b"ping"
            os.write(writing, b"fine")
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        assert pipe.read() == b"fine"
    os.waitpid(child, 0)
    for sock in sockets:
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        sock.close()
    assert [peer[0] for peer in app.peers] == [podnet.pod.client_address[family]] * 3


def test_a_namespace_of_ones_own_is_enough(program):
    with NetNs.anonymous("scratch") as netns:
        netns.run(lambda: subprocess.run(["ip", "link", "set", "lo", "up"], check=True))
        source = SourceAddress(netns)
        source.apply()
        source.undo()
        assert not sweep(netns)
