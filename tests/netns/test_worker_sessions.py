import contextlib
import hashlib
import os
import socket
import threading
import time
from pathlib import Path

import pytest
from clock import quickest
from networks import dropped
from worker_lab import (
    Bulk,
    Server,
    WorkerLab,
    answer,
    answering,
    behind_tunnel,
    intercept,
    peak,
    read,
    read_head,
    read_request,
    reset,
    until,
)

PORT = 8080
TUNNEL = 20001
TO_APP = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
TO_ME = b"GET / HTTP/1.1\r\nHost: a\r\nX-Me: me\r\n\r\n"
POST_ME = b"POST / HTTP/1.1\r\nHost: a\r\nX-Me: me\r\nContent-Length: 3\r\n\r\nabc"


@pytest.fixture
def lab():
    lab = WorkerLab()
    yield lab
    assert lab.close() == ""


@pytest.fixture
def bed(net, lab, program):
    """``bed(serve)``: an app, and ``serve`` at the tunnel port; ``bed.log`` has what the app was asked."""

    class Bed:
        def __init__(self):
            self.log = []
            self.servers = [Server(net.pod.netns, PORT, answering("app", self.log))]

        def __call__(
            self, serve, *, on_failure="app", ports=(TUNNEL,), up=True, connect_timeout=10, **options
        ):
            if serve is not None:
                self.servers.append(Server(net.client, TUNNEL, serve, **options))
            one = intercept(PORT, TUNNEL, on_failure=on_failure, connect_timeout=connect_timeout)
            lab.add_target(net.pod.netns, PORT, program, intercepts=[one])
            lab.session(net.client, ports, up=up)
            return self.servers[-1]

        def connect(self):
            return net.connect(PORT)

    bed = Bed()
    yield bed
    for server in bed.servers:
        server.close()


def test_each_request_goes_where_its_header_says_over_one_connection_per_side(bed, lab):
    handler = bed(behind_tunnel(answering("handler")))
    with bed.connect() as sock:
        for _ in range(50):
            sock.sendall(TO_ME)
            assert answer(sock) == (200, "handler 0")
            sock.sendall(TO_APP)
            assert answer(sock) == (200, "app 0")
        sock.sendall(POST_ME)
        assert answer(sock) == (200, "handler 3")
    assert len(handler.accepted) == 1
    until(lambda: lab.target.get("verdicts", {}).get("F:app") == 50 and lab.target["verdicts"].get("F") == 51)
    assert lab.counters.intercepts["i1"]["hits"] == 51
    assert lab.target["verdicts"] == {"F": 51, "F:app": 50}
    assert lab.target["app_requests"] == 50


class OneAtATime:
    """An app that serves one connection, and the next one when that has ended."""

    def __init__(self, netns):
        self.peers = []
        self.socket = netns.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(("0.0.0.0", PORT))
        self.socket.listen(64)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                sock, peer = self.socket.accept()
                self.peers.append(peer)
                with sock, contextlib.suppress(OSError):
                    answering("app")(sock)

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def test_an_app_that_serves_one_connection_is_free_while_a_handler_sits_at_a_breakpoint(net, lab, program):
    goes_on, asked = threading.Event(), threading.Event()

    def breakpoint_(sock):
        while read_request(sock) is not None:
            asked.set()
            goes_on.wait(20)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")

    app = OneAtATime(net.pod.netns)
    server = Server(net.client, TUNNEL, behind_tunnel(breakpoint_))
    try:
        lab.add_target(net.pod.netns, PORT, program, intercepts=[intercept(PORT, TUNNEL)])
        lab.session(net.client, [TUNNEL])
        with net.connect(PORT) as sock:
            for _ in range(3):
                asked.clear()
                sock.sendall(TO_ME)
                assert asked.wait(20)
                for _ in range(5):
                    with net.connect(PORT) as other:
                        other.sendall(TO_APP)
                        assert answer(other) == (200, "app 0")
                goes_on.set()
                assert answer(sock) == (200, "late")
                goes_on.clear()
                sock.sendall(TO_APP)
                assert answer(sock) == (200, "app 0")
        assert {peer for peer, _ in app.peers} == {net.pod.client_address[4]}
        # A machine that is busy elsewhere may have the kernel pass some of the others by, from ports of their own.
        assert sum(2048 <= port <= 32767 for _, port in app.peers) >= 1 + 3
        assert len(server.accepted) == 1
    finally:
        goes_on.set()
        server.close()
        app.close()


class Silent:
    """A server that reads a request and then says nothing; ``ended`` has how each of its connections ended."""

    def __init__(self):
        self.asked, self.ended = [], []

    def __call__(self, sock):
        if read_request(sock) is None:
            return
        self.asked.append(sock)
        try:
            while sock.recv(1000):
                pass
            sock.settimeout(60)
            self.ended.append("FIN")
            while True:  # whether a reset follows
                time.sleep(0.05)
                sock.send(b"")
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise ConnectionResetError
        except OSError:
            self.ended.append("RST")


QUICK = (1, 1, 2)
"""Keepalive that finds out within three seconds."""


@pytest.fixture
def mute(net, lab, program):
    """An app and a handler that say nothing, behind a redirect whose keepalive is quick."""
    app, handler = Silent(), Silent()
    servers = [Server(net.pod.netns, PORT, app), Server(net.client, TUNNEL, behind_tunnel(handler))]
    lab.add_target(net.pod.netns, PORT, program, intercepts=[intercept(PORT, TUNNEL)], keepalive=QUICK)
    lab.session(net.client, [TUNNEL])
    yield app, handler
    for server in servers:
        server.close()


def test_a_client_that_vanishes_is_found_out_and_that_is_passed_on(net, lab, mute):
    app, handler = mute
    socks = [net.connect(PORT, family) for family in (4, 6) for _ in range(3)]
    try:
        for number, sock in enumerate(socks):
            sock.sendall((TO_ME, TO_APP, b"GET")[number % 3])
        until(lambda: len(app.asked) == len(handler.asked) == 2)
        until(lambda: lab.target["open"] == 6)
        ports = ", ".join(str(sock.getsockname()[1]) for sock in socks)
        with dropped(net.client, f"tcp sport {{ {ports} }} tcp dport {PORT}"):
            until(lambda: app.ended == handler.ended == ["RST", "RST"], 30)
            until(lambda: lab.target["open"] == 0)
    finally:
        for sock in socks:
            sock.close()


def test_a_client_that_is_there_and_does_nothing_is_never_ended(net, lab, program):
    """Its program is at rest, or does not read: keepalive asks its kernel."""
    body = b"x" * (32 << 20)

    def app(sock):
        while read_request(sock) is not None:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    server = Server(net.pod.netns, PORT, app)
    lab.add_target(net.pod.netns, PORT, program, keepalive=QUICK)
    try:
        with net.connect(PORT) as idle, net.connect(PORT) as pausing:
            pausing.sendall(TO_APP)
            time.sleep(5)
            read_head(pausing)
            left = len(body)
            while left:
                left -= len(pausing.recv(1 << 20))
            idle.sendall(TO_APP)
            read_head(idle)
    finally:
        server.close()


def test_a_client_that_has_closed_is_found_out_once_its_kernel_has_forgotten_it(net, lab, mute):
    app, handler = mute
    net.client.run(lambda: Path("/proc/sys/net/ipv4/tcp_fin_timeout").write_text("1"))
    for request, server in ((TO_ME, handler), (TO_APP, app)):
        with net.connect(PORT) as sock:
            sock.sendall(request)
            until(lambda server=server: server.asked)
    until(lambda: app.ended == handler.ended == ["FIN", "RST"], 30)
    until(lambda: lab.target["open"] == 0)


def test_a_client_that_resets_frees_what_it_held_at_once(net, lab, mute):
    app, handler = mute
    for request, server in ((TO_ME, handler), (TO_APP, app)):
        sock = net.connect(PORT)
        sock.sendall(request)
        until(lambda server=server: server.asked)
        reset(sock)
    until(lambda: app.ended == handler.ended == ["RST"])
    until(lambda: lab.target["open"] == 0)


def test_pipelined_requests_are_answered_in_order(bed):
    bed(behind_tunnel(answering("handler")))
    with bed.connect() as sock:
        sock.sendall((TO_ME + TO_APP + POST_ME) * 10)
        data = read(sock, lambda data: data.count(b"HTTP/1.1 200") == 30 and data.endswith(b" 3"))
    assert data.count(b"handler 0") == data.count(b"app 0") == data.count(b"handler 3") == 10
    assert [part[-9:] for part in data.split(b"HTTP/1.1 200 OK")[1:4]] == [
        b"handler 0",
        b"\r\n\r\napp 0",
        b"handler 3",
    ]


@pytest.mark.slow
def test_time_alone_decides_nothing(bed):  # S69
    bed(behind_tunnel(answering("handler")))
    with bed.connect() as sock:
        time.sleep(11.5)
        sock.sendall(TO_ME)
        assert answer(sock) == (200, "handler 0")


def test_when_no_rule_stands_nothing_is_refused(bed, lab):
    bed(behind_tunnel(answering("handler")))
    bad = b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n"
    with bed.connect() as sock:
        sock.sendall(TO_ME)
        assert answer(sock) == (200, "handler 0")
        lab.rules()
        time.sleep(0.3)
        sock.sendall(bad)
        assert answer(sock) == (200, "app 0")
        sock.sendall(TO_ME)
        assert answer(sock) == (200, "app 0")
    assert [head.partition(b"X")[2][:3] for head, _ in bed.log] == [b" : ", b"-Me"]


def refusing(sock):
    sock.sendall(b"\1")
    sock.shutdown(socket.SHUT_WR)
    sock.recv(1000)
    sock.close()


def closing(sock):
    sock.close()


@pytest.mark.parametrize("serve", [refusing, closing, reset])
@pytest.mark.parametrize("request_", [TO_ME, POST_ME])
def test_what_the_handler_surely_did_not_get_goes_to_the_app(bed, lab, serve, request_):
    bed(serve)
    with bed.connect() as sock:
        for count in (1, 2):
            sock.sendall(request_)
            assert answer(sock) == (200, "app 3" if request_ is POST_ME else "app 0")
            assert len(bed.log) == count
    reason = "handler refused" if serve is refusing else "session closed before the handler was reached"
    assert lab.counted(reason, 2)
    assert lab.counters.intercepts["i1"]["hits"] == 0


def test_without_fallback_a_refused_request_is_answered_502(bed):
    bed(refusing, on_failure="error")
    with bed.connect() as sock:
        sock.sendall(TO_ME)
        assert answer(sock)[0] == 502
        assert sock.recv(10) == b""
    assert bed.log == []


@pytest.mark.parametrize(
    ("state", "reason"), [({"ports": ()}, "handler not listening"), ({"up": False}, "session down")]
)
def test_a_session_known_to_be_away_is_not_asked(bed, lab, state, reason):
    handler = bed(behind_tunnel(answering("handler")), **state)
    with bed.connect() as sock:
        sock.sendall(POST_ME)
        assert answer(sock) == (200, "app 3")
    assert handler.accepted == []
    assert lab.counted(reason, 1)


@pytest.mark.parametrize(
    ("state", "reason"), [({"ports": ()}, "handler not listening"), ({"up": False}, "session down")]
)
def test_a_session_known_to_be_away_is_answered_502_without_fallback_and_counted_as_what_it_is(
    bed, lab, state, reason
):
    bed(None, on_failure="error", **state)
    with bed.connect() as sock:
        sock.sendall(TO_ME)
        assert answer(sock)[0] == 502
    assert lab.counted(reason, 1)
    assert lab.counters.intercepts["i1"]["reasons"] == {reason: 1}


def test_a_port_nobody_listens_on_costs_no_time(bed):
    bed(None)
    with bed.connect() as sock:

        def answered_after():
            before = time.monotonic()
            sock.sendall(POST_ME)
            assert answer(sock) == (200, "app 3")
            return time.monotonic() - before

        assert quickest(0.05, answered_after) < 0.05


def test_a_dead_tunnel_delays_a_request_by_a_second_at_most(bed, lab, net):
    bed(None)
    lab.session(net.client, [TUNNEL], quiet=True, address="fd77:1::99")  # an address that nobody has
    with bed.connect() as sock:
        before = time.monotonic()
        sock.sendall(POST_ME)
        assert answer(sock) == (200, "app 3")
        assert time.monotonic() - before < 5  # the handler alone has ten
    assert lab.counted("session not reached in time", 1)


def test_a_slow_session_is_waited_for_while_it_is_heard(bed, lab):
    def late(sock):
        time.sleep(3)
        sock.sendall(b"\0")
        answering("handler")(sock)

    bed(late)
    with bed.connect() as sock:
        sock.sendall(POST_ME)
        assert answer(sock) == (200, "handler 3")
    assert bed.log == []
    assert lab.counters.intercepts["i1"]["reasons"] == {}


def silent(sock):
    sock.recv(1000)
    time.sleep(10)


@pytest.mark.parametrize(("request_", "status"), [(TO_ME, 200), (POST_ME, 502)])
def test_silence_after_the_connection_may_mean_delivered(bed, lab, request_, status):
    bed(silent, connect_timeout=1)
    with bed.connect() as sock:
        before = time.monotonic()
        sock.sendall(request_)
        assert answer(sock)[0] == status
        assert 0.8 < time.monotonic() - before < 6
    assert lab.counted("handler not reached in time", 1)


def test_a_tunnel_that_dies_under_a_kept_connection_delays_a_request_by_a_second_at_most(bed, lab, net):
    """The session's end vanishes: nothing of the next request is confirmed, and the supervisor misses a heartbeat."""
    server = bed(behind_tunnel(answering("handler")))
    with bed.connect() as sock:
        for _ in range(2):
            sock.sendall(TO_ME)
            assert answer(sock) == (200, "handler 0")
        ((end, _),) = server.accepted
        port = end.getpeername()[1]
        with dropped(net.client, f"tcp sport {TUNNEL} tcp dport {port}"):
            before = time.monotonic()
            sock.sendall(TO_ME)
            time.sleep(0.4)
            lab.session(net.client, [TUNNEL], quiet=True)
            assert answer(sock) == (200, "app 0")
            assert time.monotonic() - before < 5
    assert lab.counted("session silent", 1)


@pytest.mark.parametrize(("request_", "status"), [(TO_ME, 200), (POST_ME, 502)])
def test_a_tunnel_that_dies_before_the_answer(bed, lab, net, request_, status):
    asked = threading.Event()

    def handler(sock):
        read_request(sock)
        asked.set()
        time.sleep(10)

    bed(behind_tunnel(handler))
    with bed.connect() as sock:
        sock.sendall(request_)
        assert asked.wait(20)
        before = time.monotonic()
        lab.session(net.client, [TUNNEL], up=False)
        assert answer(sock)[0] == status
        assert time.monotonic() - before < 5
    assert lab.counted("session down", 1)
    assert len(bed.log) == (status == 200)


def test_a_tunnel_that_dies_in_an_answer_resets_the_client(bed, lab, net):
    def handler(sock):
        read_request(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun")
        time.sleep(5)

    bed(behind_tunnel(handler))
    with bed.connect() as sock:
        sock.sendall(TO_ME)
        read(sock, lambda data: data.endswith(b"begun"))
        lab.session(net.client, [TUNNEL], up=False)
        with pytest.raises(ConnectionResetError):
            sock.recv(1000)


def test_an_idle_session_connection_that_ends_is_dialled_anew(bed):
    def handler(sock):
        request = read_request(sock)
        text = b"once %d" % len(request[1])
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
        sock.close()

    server = bed(behind_tunnel(handler))
    with bed.connect() as sock:
        for count in (1, 2, 3):
            sock.sendall(POST_ME)
            assert answer(sock) == (200, "once 3")
            assert len(server.accepted) == count
            time.sleep(0.05)
        sock.sendall(TO_APP)
        assert answer(sock) == (200, "app 0")


def test_an_upgrade_is_piped_to_the_handler(bed):
    def handler(sock):
        head = read_request(sock)[0]
        assert b"websocket" in head
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        while data := sock.recv(65536):
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    bed(behind_tunnel(handler))
    data = os.urandom(1 << 20)
    with bed.connect() as sock:
        sock.sendall(
            b"GET / HTTP/1.1\r\nHost: a\r\nX-Me: me\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        read_head(sock)
        got = bytearray()
        sender = threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR)))
        sender.start()
        while more := sock.recv(65536):
            got += more
        sender.join(30)
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("size", [10, 65_000, 200_000, 20_000_000])
def test_uploads_to_the_handler_arrive_whole(bed, size):
    got = []

    def handler(sock):
        body = read_request(sock)[1]
        got.append(body)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        sock.recv(10)

    bed(behind_tunnel(handler))
    body = os.urandom(size)
    with bed.connect() as sock:
        head = b"PUT / HTTP/1.1\r\nX-Me: me\r\nContent-Length: %d\r\n\r\n" % size
        sender = threading.Thread(target=sock.sendall, args=(head + body,))
        sender.start()
        read_head(sock)
        data = read(sock, lambda data: len(data) >= size)
        sender.join(30)
    assert got[0] == body
    assert data == body


@pytest.mark.slow
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_gibibyte_each_way_with_a_session_arrives_whole_in_bounded_memory(bed, lab, chunked):
    bulk = Bulk(chunked=chunked)
    bed(behind_tunnel(bulk.serve))
    before = lab.rss()
    with bed.connect() as sock:
        sock.settimeout(30)
        bulk.ask(sock, b"POST / HTTP/1.1\r\nX-Me: me\r\n%s\r\n\r\n" % bulk.field)
    assert bed.log == []
    assert peak(lab.pid) - before < 32 * 1024


def test_rules_change_for_the_next_request_of_an_open_connection(bed, lab):
    bed(behind_tunnel(answering("handler")))
    with bed.connect() as sock:
        sock.sendall(TO_ME)
        assert answer(sock) == (200, "handler 0")
        lab.rules()
        time.sleep(0.1)
        sock.sendall(TO_ME)
        assert answer(sock) == (200, "app 0")
        lab.rules(intercept(PORT, TUNNEL))
        time.sleep(0.1)
        sock.sendall(TO_ME)
        assert answer(sock) == (200, "handler 0")


def test_requests_wait_for_sockets_to_be_prepared(bed):
    bed(behind_tunnel(answering("handler")))
    time.sleep(0.1)
    open_ = []
    for _ in range(40):  # more than the stock
        sock = bed.connect()
        sock.sendall(TO_ME)
        open_.append(sock)
    for sock in open_:
        assert answer(sock) == (200, "handler 0")
        sock.close()
