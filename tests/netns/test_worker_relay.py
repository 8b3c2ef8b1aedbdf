import select
import socket
import threading
import time

import pytest
from clock import quickest
from worker_lab import (
    Bulk,
    Server,
    WorkerLab,
    answer,
    answering,
    exactly,
    intercept,
    peak,
    read,
    read_all,
    reset,
    until,
)

PORT = 8080
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def lab():
    lab = WorkerLab()
    yield lab
    assert lab.close() == ""


@pytest.fixture
def serve(net, lab, program):
    """``serve(function)``: an app in the pod, redirected to the worker."""
    servers = []

    def start(function, *, intercepts=(), **options):
        servers.append(Server(net.pod.netns, PORT, function, **options))
        lab.add_target(net.pod.netns, PORT, program, intercepts=intercepts)
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def echo(sock):
    while data := sock.recv(65536):
        sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("family", [4, 6])
def test_requests_are_answered_and_the_app_sees_the_client(net, lab, serve, family):
    app = serve(answering("app"))
    with net.connect(PORT, family) as sock:
        for body in (b"", b"abc"):
            sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            assert answer(sock) == (200, f"app {len(body)}")
    assert app.accepted[0][1] == net.pod.client_address[family]


def test_a_client_inside_the_pod_is_served_too(net, lab, serve):
    serve(answering("app"))
    for address in ("127.0.0.1", net.pod.address[4]):
        with net.pod.netns.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.settimeout(5)
            sock.connect((address, PORT))
            sock.sendall(GET)
            assert answer(sock) == (200, "app 0")


def test_an_app_that_speaks_first_is_heard_within_20_ms_and_then_piped(net, lab, serve):
    def greet(sock):
        sock.sendall(b"220 hello\r\n")
        echo(sock)

    serve(greet)

    def heard_after():
        before = time.monotonic()
        with net.connect(PORT) as sock:
            assert exactly(sock, 11) == b"220 hello\r\n"
            took = time.monotonic() - before
            sock.sendall(b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n")  # it would be refused as HTTP
            assert exactly(sock, 5) == b"GET /"
        return took

    assert quickest(0.02, heard_after) < 0.02


@pytest.mark.parametrize("first", [b"\x16\x03\x01", b"PING\r\n", b"SSH-2.0-x\r\n"])
def test_what_is_not_http_is_piped(net, lab, serve, first):
    serve(echo)
    with net.connect(PORT) as sock:
        for data in (first, b"\0\1\2" * 1000):
            sock.sendall(data)
            assert read(sock, lambda got, data=data: len(got) >= len(data)) == data


def test_a_client_that_stops_within_its_first_line_is_pinned_after_ten_seconds(net, lab, serve):
    serve(echo)
    with net.connect(PORT, timeout=40) as sock:
        sock.sendall(b"GET")  # may yet become a request line
        before = time.monotonic()
        assert exactly(sock, 3) == b"GET"
        assert 9 < time.monotonic() - before < 20


@pytest.mark.parametrize("first", [b"\xff not http ", GET])
def test_half_closes_are_passed_on_and_the_other_direction_flows(net, lab, serve, first):
    seen = []

    def app(sock):
        data = read_all(sock)
        seen.append(time.monotonic())
        time.sleep(0.3)
        sock.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + data)
        sock.close()

    serve(app)

    def seen_after():
        with net.connect(PORT) as sock:
            sock.sendall(first)
            time.sleep(0.05)
            before = time.monotonic()
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock).endswith(first)
        return seen[-1] - before

    assert quickest(0.1, seen_after) < 0.1


def test_a_half_close_of_the_app_leaves_the_upload_going(net, lab, serve):
    got = []

    def app(sock):
        sock.recv(10)
        sock.shutdown(socket.SHUT_WR)
        got.append(len(read_all(sock)))

    serve(app)
    with net.connect(PORT) as sock:
        sock.sendall(b"\xff not http")
        assert sock.recv(10) == b""
        for _ in range(20):
            sock.sendall(b"x" * 10_000)
            time.sleep(0.01)
        sock.shutdown(socket.SHUT_WR)
        until(lambda: got)
    assert got == [200_000]


@pytest.mark.parametrize("first", [b"\xff not http", GET, b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"])
def test_a_reset_of_the_client_reaches_the_app_as_a_reset(net, lab, serve, first):
    begun, seen = [], []

    def app(sock):
        begun.append(exactly(sock, len(first)))
        try:
            seen.append(sock.recv(1000))
        except ConnectionResetError:
            seen.append("reset")

    serve(app)

    def seen_after():
        before = len(seen)
        sock = net.connect(PORT)
        sock.sendall(first)
        until(lambda: len(begun) > before)
        at = time.monotonic()
        reset(sock)
        until(lambda: len(seen) > before)
        return time.monotonic() - at

    assert quickest(0.1, seen_after) < 0.1
    assert set(seen) == {"reset"}
    until(lambda: lab.target["accepted"] == len(seen) and lab.target["open"] == 0)


@pytest.mark.parametrize("first", [b"\xff not http", GET])
def test_a_reset_of_the_app_reaches_the_client_as_a_reset(net, lab, serve, first):
    def app(sock):
        sock.recv(1000)
        reset(sock)

    serve(app)

    def reset_after():
        with net.connect(PORT) as sock:
            before = time.monotonic()
            sock.sendall(first)
            with pytest.raises(ConnectionResetError):
                sock.recv(100)
        return time.monotonic() - before

    assert quickest(0.1, reset_after) < 0.1


def test_an_idle_connection_that_the_app_closes_is_closed_with_fin(net, lab, serve):
    closed = []

    def app(sock):
        sock.recv(1000)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        time.sleep(0.2)
        closed.append(time.monotonic())
        sock.close()

    serve(app)

    def closed_after():
        with net.connect(PORT) as sock:
            sock.sendall(GET)
            assert answer(sock) == (200, "")
            assert sock.recv(10) == b""
        return time.monotonic() - closed[-1]

    assert quickest(0.02, closed_after) < 0.02


def test_a_refused_request_is_answered_although_the_client_goes_on_sending(net, lab, serve):
    serve(answering("app"), intercepts=[intercept(PORT, 20_001)])
    with net.connect(PORT) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n")
        time.sleep(0.1)
        for _ in range(10):
            sock.sendall(b"x" * 1000)  # would draw a reset from a socket that is closed
            time.sleep(0.01)
        assert sock.recv(65536).startswith(b"HTTP/1.1 400 ")
        assert read_all(sock) == b""


@pytest.mark.parametrize("keep_source", [True, False])
def test_an_app_that_refuses_is_reported_and_the_client_reset(net, lab, program, keep_source):
    lab.add_target(net.pod.netns, PORT, program, keep_source=keep_source)
    # It may be as early as at the end of connect(2).
    with pytest.raises(ConnectionResetError), net.connect(PORT) as sock:
        sock.sendall(GET)
        sock.recv(10)
    until(lambda: lab.refused == [1])


def test_who_connects_to_the_listener_itself_is_turned_away(net, lab):
    with net.pod.netns.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("0.0.0.0", 7070))
        listener.listen()
        listener.setblocking(False)
        lab.add_plain_target(net.pod.netns, PORT, listener)
        with net.connect(7070) as sock:
            assert sock.recv(10) == b""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["length", "chunked", "pipe"])
def test_a_gibibyte_each_way_arrives_whole_in_bounded_memory(net, lab, serve, kind):
    bulk = Bulk(chunked=kind == "chunked")
    serve(bulk.serve)
    with net.connect(PORT, timeout=30) as sock:
        before = lab.rss()
        bulk.ask(sock, (b"\xff%s" if kind == "pipe" else b"POST / HTTP/1.1\r\n%s") % bulk.field + b"\r\n\r\n")
        assert peak(lab.pid) - before < 32 * 1024


@pytest.mark.parametrize("kind", ["length", "chunked", "pipe"])
def test_a_client_that_does_not_read_stops_the_app(net, lab, serve, kind):
    sent = []

    def app(sock):
        sock.recv(1000)
        heads = {"length": b"Content-Length: 1073741824", "chunked": b"Transfer-Encoding: chunked"}
        if kind != "pipe":
            sock.sendall(b"HTTP/1.1 200 OK\r\n" + heads[kind] + b"\r\n\r\n")
        block = (b"%x\r\n" % 100_000 if kind == "chunked" else b"") + b"x" * 100_000 + b"\r\n"
        while True:
            sent.append(sock.send(block) if kind != "chunked" else sock.sendall(block) or len(block))

    serve(app)
    before = lab.rss()
    with net.connect(PORT) as sock:
        sock.sendall(GET if kind != "pipe" else b"\xff")
        total = -1
        while total != sum(sent):
            total = sum(sent)
            time.sleep(0.5)
        assert 0 < total < 200 << 20
        assert lab.rss() - before < 4096
        assert lab.rests(0.05, lambda: time.sleep(0.5))
        read(sock, lambda data: len(data) > total)  # and goes on when it reads
        reset(sock)


def test_an_app_that_does_not_read_stops_the_client(net, lab, serve):
    release = threading.Event()
    got = []

    def app(sock):
        release.wait(20)
        got.append(len(read_all(sock)))

    serve(app)
    before = lab.rss()
    with net.connect(PORT) as sock:
        sock.sendall(b"\xff")
        sock.setblocking(False)
        total = 1
        quiet = 0
        while quiet < 5:
            if select.select([], [sock], [], 0.1)[1]:
                total += sock.send(b"x" * 100_000)
                quiet = 0
            else:
                quiet += 1
        assert total < 200 << 20
        assert lab.rss() - before < 4096
        sock.setblocking(True)
        sock.shutdown(socket.SHUT_WR)
        release.set()
        until(lambda: got)
    assert got == [total]


def test_a_final_answer_during_an_upload_is_delivered_at_once(net, lab, serve):
    def app(sock):
        sock.recv(1000)
        sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        time.sleep(0.3)
        read_all(sock)

    serve(app)
    with net.connect(PORT) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nContent-Length: 10485760\r\n\r\n")
        sender = threading.Thread(target=sock.sendall, args=(b"x" * 10_485_760,))
        sender.start()
        assert answer(sock)[0] == 413
        sender.join(30)
        assert not sender.is_alive()
