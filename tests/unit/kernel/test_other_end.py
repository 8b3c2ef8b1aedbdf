"""The other end of a connection within this computer: closed for good, or not certainly so."""

import contextlib
import os
import socket
import struct
import time

import pytest

from tpnet.kernel import other_end
from tpnet.kernel.other_end import is_closed_for_good

LISTENERS = {
    "IPv4": (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
    "IPv6": (socket.AF_INET6, "::1", "::1"),
    "both": (socket.AF_INET6, "::", "127.0.0.1"),
}


@pytest.fixture(params=LISTENERS)
def listener(request):
    family, address, to = LISTENERS[request.param]
    with socket.create_server((address, 0), family=family, dualstack_ipv6=address == "::") as server:
        yield server, (to, server.getsockname()[1])


@pytest.fixture
def ends(listener):
    server, address = listener
    near = socket.create_connection(address)
    far, _ = server.accept()
    with near, far:
        yield near, far


def at_its_end(sock):
    """Wait for FIN, and for close(2) to be through with it."""
    assert sock.recv(1) == b""
    until = time.monotonic() + 5
    while not (closed := is_closed_for_good(sock)) and time.monotonic() < until:
        time.sleep(0.001)
    return closed


def test_who_has_closed_with_all_read_is_so_for_good(ends):
    near, far = ends
    assert not is_closed_for_good(near)
    far.close()
    assert at_its_end(near)


def test_who_has_half_closed_may_read_on(ends):
    near, far = ends
    far.shutdown(socket.SHUT_WR)
    assert near.recv(1) == b""
    assert not is_closed_for_good(near)
    far.close()
    assert at_its_end(near)


def test_as_long_as_any_process_holds_it_it_may_be_read(ends):
    near, far = ends
    other = os.dup(far.fileno())
    far.shutdown(socket.SHUT_WR)
    far.close()
    assert near.recv(1) == b""
    assert not is_closed_for_good(near)
    os.close(other)
    assert at_its_end(near)


def test_who_is_not_accepted_yet_will_read(listener):
    with socket.create_connection(listener[1]) as near:
        assert not is_closed_for_good(near)


def test_after_a_reset_nothing_is_known(ends):
    near, far = ends
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    with contextlib.suppress(ConnectionResetError):
        near.recv(1)
    assert not is_closed_for_good(near)


def test_what_cannot_be_known_is_not_said(ends, monkeypatch):
    near, far = ends
    far.close()
    assert at_its_end(near)
    monkeypatch.setattr(other_end, "_SOCK_DIAG", 31)  # no such protocol
    assert not is_closed_for_good(near)
    monkeypatch.undo()
    monkeypatch.setattr(other_end, "_ANY", bytes(12))  # another one, by its cookie
    assert not is_closed_for_good(near)
    monkeypatch.setattr(other_end.sys, "platform", "darwin")
    assert not is_closed_for_good(near)
