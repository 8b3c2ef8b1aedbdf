"""How an upstream ends: what has arrived before is delivered, whatever sending came to; and nothing is kept for nobody."""

import fcntl
import socket
import sys
import termios
import time

import pytest
from worker_home import GET, MINE, handler_of, response

from tpnet.proxy.stream import Pipes

UPLOAD = b"POST / HTTP/1.1\r\nHost: a\r\nX-Me: me\r\nContent-Length: 300000\r\n\r\n"
UNTIL_EOF = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil its end"
REFUSED = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def read_out(home, client):
    """All that comes to a client, and how it ends."""
    data = b""
    for _ in range(1000):
        home.spin(0.002)
        got = client.got()
        if got in {b"", "reset"}:
            return data, got or "end"
        data += got or b""
    return data, "open"


@pytest.mark.parametrize("first", ["fin", "reset"])
def test_response_that_ends_with_fin_is_whole_though_the_rest_of_the_upload_is_refused(home, first):
    """FIN, then RST since more was sent: the end is clean. RST alone: it is none."""
    client, _ = home.client()
    home.app.accept()
    client.send(UPLOAD + bytes(1000))
    home.spin()
    handler = handler_of(home)
    assert handler.got() == UPLOAD + bytes(1000)
    handler.send(UNTIL_EOF)
    if first == "fin":
        handler.close()  # what comes now is answered with RST
    else:
        handler.reset()
    # The worker sends before it reads: the failing send takes the socket's error with it.
    upstream = next(one.stream for one in next(iter(home.connections)).upstreams.values())
    for _ in range(20):
        upstream.send(b"x" * 1000)
    assert upstream.broken
    data, end = read_out(home, client)
    assert data == UNTIL_EOF
    assert end == ("end" if first == "fin" else "reset")


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("status", ["sent", "with it"])
def test_response_that_has_arrived_reaches_a_slow_client_though_a_reset_follows(home, how, status):
    """The client reads slowly, so the worker does not read the handler when its reset comes."""
    home.context.pipes = Pipes(0)  # which would take all of it
    client, connection = home.client()
    connection.client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    home.app.accept()
    client.send(UPLOAD + bytes(1000))
    home.spin()
    handler = handler_of(home) if status == "sent" else home.session.accept()
    (stream,) = (one.stream for side, one in connection.upstreams.items() if side is not None)
    stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    body = bytes(range(256)) * 1000  # well within the window of a socket that was enlarged late
    whole = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (
        len(body),
        body,
    )
    handler.send(whole if status == "sent" else b"\0" + whole)
    home.spin()
    assert connection.client.backlog, "the client's kernel takes no more"
    assert stream.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT), "and some is not read yet"
    end = time.monotonic() + 5
    while int.from_bytes(fcntl.ioctl(handler.sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder):
        assert time.monotonic() < end, "what has not left the handler dies with its reset"
        home.spin()
    if how == "close":
        handler.close()  # the request is unread
    else:
        handler.reset()
    assert read_out(home, client) == (whole, "end")


def test_a_client_that_resets_ends_it_all_at_once_though_its_upload_waits(home):
    """Its bytes that are not read yet keep nobody waiting, as its reset is known."""
    client, connection = home.client()
    home.app.accept()
    client.send(UPLOAD + bytes(1000))
    home.spin()
    handler = home.session.accept()  # it says nothing: the body waits
    for _ in range(50):
        client.send(bytes(5000))
        home.spin(0.001)
    client.reset()
    home.spin()
    assert connection.done
    del handler


def standing(home, name="i2"):
    """Another intercept's rules, in place of those that stood."""
    home.rules(name=name)
    for connection in home.connections:
        connection.retire(home.router.routes)
    home.spin()


def test_what_an_intercept_that_is_left_has_open_is_let_go_of_as_soon_as_it_owes_nothing(home):
    client, connection = home.client()
    client.send(MINE)
    home.spin()
    handler = handler_of(home)
    handler.got()
    standing(home)
    assert handler.got() is None, "a response is owed"
    handler.send(response(b"mine"))
    home.spin()
    assert client.got() == response(b"mine")
    assert handler.got() == b"", "in an orderly way"
    client.send(GET)
    home.spin()
    app = home.app.accept()
    while (got := app.got()) == b"":
        app = home.app.accept()
    assert got == GET
    app.send(response(b"app"))
    home.spin()
    assert client.got() == response(b"app")
    assert connection.idle


def test_idle_connection_of_an_intercept_that_is_left_is_let_go_of_at_once_and_made_anew_for_the_next(home):
    client, connection = home.client()
    client.send(MINE)
    home.spin()
    handler = handler_of(home)
    handler.got()
    handler.send(response(b"mine"))
    home.spin()
    client.got()
    home.rules()
    connection.retire(home.router.routes)
    home.spin()
    assert handler.got() is None, "the intercept stands"
    standing(home)
    assert handler.got() == b""
    client.send(MINE)
    home.spin()
    handler = handler_of(home)
    assert handler.got() == MINE
    handler.send(response(b"again"))
    home.spin()
    assert client.got() == response(b"again")
