"""What may arrive at a socket: the programs that the kernel asks, on sockets of real namespaces."""

import contextlib
import os
import socket
import time
from pathlib import Path

import pytest
from tunnel_lab import Lab

from tpnet.datapath.source_address import SourceAddress, app_sockets
from tpnet.kernel import filters

KINDS = {4: socket.AF_INET, 6: socket.AF_INET6}


@contextlib.contextmanager
def program(fd):
    try:
        yield fd
    finally:
        os.close(fd)


# Sockets towards an app, in the hands of a worker that somebody has taken over.


@pytest.fixture
def pod(podnet):
    """An app on 8080, and what only the pod itself is to reach: 9090 on its loopback."""
    podnet.pod.app(8080, "the app")
    for address in ("127.0.0.1", "::1"):
        podnet.pod.app(9090, "its secret", address=address)
    source = SourceAddress(podnet.pod.netns)
    source.apply()
    yield podnet.pod
    source.undo()


def prepared(pod, family, port=8080):
    with program(filters.from_port(port)) as fd:
        (sock,) = app_sockets(pod.netns, KINDS[family], 1, fd)
    sock.settimeout(1.0)
    return sock


LOOPBACK = {4: "127.0.0.1", 6: "::1"}


def said(sock, address, port):
    """What a server there answers; ``None`` if nobody can be spoken to."""
    with sock:
        try:
            sock.connect((address, port))
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            return sock.recv(1000).rpartition(b"\n")[2].decode()
        except OSError:
            return None


@pytest.mark.parametrize("family", [4, 6])
def test_a_prepared_socket_reaches_its_port_and_no_other_of_the_pod(pod, family):
    for address in (pod.address[family], LOOPBACK[family]):
        assert said(prepared(pod, family), address, 8080) == "the app"
    assert said(prepared(pod, family), LOOPBACK[family], 9090) is None
    # Shown to be the filter's doing.
    assert said(prepared(pod, family, port=9090), LOOPBACK[family], 9090) == "its secret"


def test_with_the_address_of_whoever_one_likes_no_other_port_is_reached(pod):
    for source in ("127.0.0.1", pod.address[4], "10.1.2.3"):
        sock = prepared(pod, 4)
        sock.bind((source, 0))
        assert said(sock, "127.0.0.1", 9090) is None


def test_a_prepared_socket_that_listens_hears_nobody(pod, podnet):
    listener = prepared(pod, 4)
    listener.bind((pod.address[4], 7070))
    listener.listen()
    with listener, pytest.raises(OSError, match="timed out"):
        podnet.connect(7070, timeout=0.5)


def test_the_filter_cannot_be_taken_off(pod):
    with prepared(pod, 4) as sock, program(filters.from_port(9090)) as other:
        for option, value in ((27, 0), (44, 0)):  # SO_DETACH_FILTER, SO_LOCK_FILTER
            with pytest.raises(PermissionError):
                sock.setsockopt(socket.SOL_SOCKET, option, value)
        with pytest.raises(PermissionError):
            filters.attach(sock, other)


def test_a_port_that_refuses_says_so_at_once(pod):
    with prepared(pod, 4, port=6060) as sock, pytest.raises(ConnectionRefusedError):
        sock.connect(("127.0.0.1", 6060))


# How much of each address is heard.


@pytest.fixture
def heard():
    """A socket on the loopback that hears 20 a second of each address, 10 at once; others that speak to it."""
    lab = Lab()
    try:
        ns = lab.ns("node")
        ns.run(
            lambda: os.system(
                "ip -6 addr add fd99::1/128 dev lo nodad; ip -6 addr add fd99::2/128 dev lo nodad"
            )
        )
        sock = ns.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        with program(filters.at_most(20, 10)) as fd:
            filters.attach(sock, fd)
        sock.bind(("::1", 7000))
        sock.setblocking(False)

        def speaker(address):
            made = lab.keep(ns.socket(socket.AF_INET6, socket.SOCK_DGRAM))
            made.bind((address, 0))
            made.connect(("::1", 7000))
            return made

        with sock:
            yield sock, speaker
    finally:
        lab.close()


def all_of(sock):
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            data, sender = sock.recvfrom(100)
            found.append((data, sender[0]))
    return found


def test_a_flood_of_one_address_takes_no_room_of_another_s(heard):
    sock, speaker = heard
    loud, quiet = speaker("fd99::1"), speaker("fd99::2")
    began = time.monotonic()
    for number in range(20_000):
        loud.send(b"x" * 16)
        if number % 4000 == 0:
            quiet.send(b"here")
    took = time.monotonic() - began
    found = all_of(sock)
    assert [data for data, sender in found if sender == "fd99::2"] == [b"here"] * 5
    assert 10 <= sum(sender == "fd99::1" for _, sender in found) <= 12 + 20 * took


def test_after_a_pause_as_much_is_heard_again(heard):
    sock, speaker = heard
    one = speaker("fd99::1")
    for _ in range(2):
        for number in range(30):
            one.send(b"%d" % number)
        found = [data for data, _ in all_of(sock)]
        assert len(found) >= 10
        assert found[:10] == [b"%d" % number for number in range(10)], "whole, and in order"
        time.sleep(0.6)


def test_an_address_s_ports_are_one(heard):
    sock, speaker = heard
    began = time.monotonic()
    for one in [speaker("fd99::1") for _ in range(20)]:
        for _ in range(10):
            one.send(b"x")
    assert len(all_of(sock)) <= 12 + 20 * (time.monotonic() - began)


def test_no_descriptor_is_left():
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        os.close(filters.at_most(50, 100))
        os.close(filters.from_port(80))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
