"""A body that was announced, and is not sent after the final response (RFC 9110 section 10.1.1)."""

import contextlib
import re

import pytest
from agent_lab import wait_until
from laptops import head_of, request
from worker_lab import read, read_all, read_head

EXPECTING = b"expect: 100-continue\r\ncontent-length: %d\r\n"


class Side:
    """A server that answers the first head with ``response``; ``head`` and ``rest`` are what it was sent."""

    def __init__(self, response):
        self.response, self.head, self.rest, self.ended = response, b"", b"", False

    def serve(self, sock):
        if not (head := head_of(sock)):
            return
        self.head = head
        sock.sendall(self.response)
        try:
            while data := sock.recv(65536):
                self.rest += data
        finally:
            self.ended = True


FINAL = {
    417: b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n",
    401: b"HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic\r\ncontent-length: 4\r\n\r\nwho?",
}


@pytest.mark.parametrize("side", ["bob", "app"])
@pytest.mark.parametrize("length", [5, 1000])
@pytest.mark.parametrize("status", [417, 401])
def test_next_request_is_not_taken_for_the_body_that_was_announced(stage, side, length, status):
    sides = {name: Side(FINAL[status]) for name in ("bob", "app")}
    stage.plays(sides["app"].serve, sides["bob"].serve)
    mine, other = (stage.bob.header, b"") if side == "bob" else (b"", stage.bob.header)
    with stage.connect() as sock:
        sock.sendall(request(b"POST", mine + EXPECTING % length))
        head = read_head(sock)
        assert head.startswith(b"HTTP/1.1 %d " % status)
        size = int(re.search(rb"content-length: (\d+)", head)[1])
        if size:
            assert read(sock, lambda data: len(data) == size) == b"who?"
        with contextlib.suppress(ConnectionError):  # it may be closed already
            sock.sendall(request(more=other + b"cookie: " + b"secret" * 300 + b"\r\n", path=b"/next"))
            read_all(sock)
    wait_until(lambda: sides[side].ended)
    assert sides[side].head == request(b"POST", mine + EXPECTING % length)
    assert not sides[side].rest
    assert not sides["app" if side == "bob" else "bob"].head


@pytest.mark.parametrize("side", ["bob", "app"])
def test_a_body_that_is_asked_for_is_sent_and_the_connection_goes_on(stage, side):
    def serve(sock):
        while head := head_of(sock):
            body = b""
            if b"expect" in head:
                sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = read(sock, lambda data: len(data) == 5)
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))

    stage.plays(serve, serve)
    mine = stage.bob.header if side == "bob" else b""
    with stage.connect() as sock:
        for _ in range(3):
            sock.sendall(request(b"POST", mine + EXPECTING % 5))
            assert read_head(sock) == b"HTTP/1.1 100 Continue\r\n\r\n"
            sock.sendall(b"hello")
            assert read_head(sock).startswith(b"HTTP/1.1 200 ")
            assert read(sock, lambda data: len(data) == 5) == b"hello"
