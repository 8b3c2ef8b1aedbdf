import contextlib
import os
import socket

import pytest
from worker_home import GET, MINE, SESSION, WorkerHome, response, tcp_pair

from tpnet.http.verdict import TO_APP, Outcome, Verdict
from tpnet.model import HeaderRule, Intercept
from tpnet.proxy import acceptor
from tpnet.proxy.acceptor import Acceptor
from tpnet.proxy.channel import AddTarget, AppRefused, Drained, Full, NeedSockets, Purpose
from tpnet.proxy.context import LINGER, RETRY, Context
from tpnet.proxy.counters import TargetCount
from tpnet.proxy.dialler import AppDialler, Peer
from tpnet.proxy.drain import FORSAKEN, LAST, Drain
from tpnet.proxy.lingering import LingeringClose
from tpnet.proxy.pool import CROWD
from tpnet.proxy.router import Router
from tpnet.proxy.sessions import SessionState
from tpnet.proxy.stream import Stream
from tpnet.proxy.target import Target
from tpnet.proxy.transport import Socket


@pytest.fixture
def home():
    with WorkerHome() as home:
        yield home


# Acceptor.


class Door:
    """A listener, an acceptor, and what it has accepted."""

    def __init__(self, home, *, port=None, more=True):
        self.sock = Socket(socket.AF_INET, socket.SOCK_STREAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen(64)
        self.sock.setblocking(False)
        self.address = self.sock.getsockname()
        self.served = []
        self.count = TargetCount()
        self.more = more
        self.declined = 0
        self.prepared = 0
        self._clients = []
        self.acceptor = Acceptor(
            home.context,
            self.sock,
            self.address[1] if port is None else port,
            self.count,
            self.serve,
            self.decline,
            lambda: self.prepared,
        )

    def serve(self, sock, peer):
        self.served.append((sock, peer))
        return self.more

    def decline(self):
        self.declined += 1

    def connect(self, times=1):
        self._clients += [socket.create_connection(self.address) for _ in range(times)]

    def close(self):
        with contextlib.suppress(OSError, ValueError):
            self.acceptor.close()
        for sock in (*self._clients, *(sock for sock, _ in self.served)):
            sock.close()


@pytest.fixture
def door(home):
    made = []

    def door(**options):
        made.append(Door(home, **options))
        return made[-1]

    yield door
    for one in made:
        one.close()


def test_a_client_is_served_with_the_address_it_comes_from_and_calls(home, door):
    door = door()
    door.connect()
    home.spin()
    ((_, peer),) = door.served
    assert peer == Peer(True, ("127.0.0.1", 0), ("127.0.0.1", door.address[1]))
    assert door.count.accepted == 1


def test_who_found_the_listener_itself_is_not_served(home, door):
    door = door(port=1)
    door.connect()
    home.spin()
    assert door.served == []
    assert door.count.accepted == 0


def test_clients_wait_in_the_kernel_while_no_more_may_come_and_are_served_later(home, door):
    door = door(more=False)
    door.connect(acceptor.ACCEPTS + 2)
    home.spin()
    assert len(door.served) == acceptor.ACCEPTS, "those of one round"
    door.more = True
    home.later(RETRY + 0.1)
    assert len(door.served) == acceptor.ACCEPTS + 2


def test_without_room_the_supervisor_is_asked_to_leave_clients_to_the_app(home, door):
    door = door()
    home.context.loop.sockets += home.context.most_sockets
    door.connect(2)
    home.spin()
    assert door.served == []
    assert [message for message in home.told if isinstance(message, Full)] == [Full(full=True)]
    assert dict(door.count.reasons) == {"descriptors ran out": 1}
    home.context.loop.sockets -= home.context.most_sockets
    home.later(RETRY + 0.1)
    assert len(door.served) == 2
    home.context.look_for_room()
    assert home.told[-1] == Full(full=False)


def test_who_is_in_the_queue_has_a_claim_to_the_sockets_that_are_prepared(home, door):
    door = door()
    door.prepared = home.context.loop.sockets + 1
    home.context.loop.sockets += home.context.most_sockets
    door.connect(2)
    home.spin()
    assert len(door.served) == 2
    assert dict(door.count.reasons) == {}
    home.context.loop.sockets -= home.context.most_sockets


def test_near_the_last_descriptor_the_target_with_most_clients_makes_way_for_the_others(home, door):
    hog, other = door(), door()
    for number, one in enumerate((hog, other)):
        home.context.book.targets[number] = one.count
    hog.count.open, other.count.open = 50, 2
    home.context.loop.sockets += home.context.full_at
    for one in (hog, other):
        one.connect()
    home.spin()
    assert (len(hog.served), len(other.served)) == (1, 1), "who has come is served"
    assert hog.declined
    assert not other.declined
    assert not home.context.full
    home.context.loop.sockets -= home.context.full_at


def test_a_few_clients_are_accepted_in_one_round_and_all_in_some(home, door):
    door = door()
    door.connect(acceptor.ACCEPTS * 2)
    door.acceptor.on_events(1)
    assert len(door.served) == acceptor.ACCEPTS
    home.spin()
    assert len(door.served) == acceptor.ACCEPTS * 2


def test_a_closed_acceptor_stays_closed(home, door):
    door = door(more=False)
    door.connect()
    home.spin()
    door.acceptor.close()
    home.later(RETRY + 0.1)
    door.acceptor.resume()
    with pytest.raises(ConnectionRefusedError):
        door.connect()


# Dialler.


def dialler(context, port, *, keep_source=True):
    return AppDialler(context, AddTarget(1, "t", port, keep_source), None, TargetCount())


def prepared():
    sock = Socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    return sock


@pytest.mark.parametrize("everywhere", [True, False], ids=["app on all addresses", "app on one address"])
def test_the_app_is_called_from_the_clients_address(home, everywhere):
    with socket.create_server(("0.0.0.0" if everywhere else "127.0.0.1", 0)) as app:
        port = app.getsockname()[1]
        dial = dialler(home.context, port)
        sock = prepared()
        assert dial.dial(sock, Peer(True, ("127.9.8.7", 0), ("127.0.0.1", port))) is True
        far, peer = app.accept()
        assert peer[0] == "127.9.8.7"
        assert 2048 <= peer[1] <= 32767
        assert far.getsockname()[0] == ("127.116.0.1" if everywhere else "127.0.0.1")
        far.close()
        sock.close()
        dial.close()
    assert dict(dial.count.reasons) == {}


def test_a_client_whose_address_cannot_be_bound_is_served_from_another_and_counted(home):
    dial = dialler(home.context, home.app.port)
    sock = prepared()
    # 192.0.2.0/24 is nobody's (RFC 5737), and this socket may not bind what is not ours.
    assert dial.dial(sock, Peer(True, ("192.0.2.1", 0), ("127.0.0.1", home.app.port))) is True
    assert dict(dial.count.reasons) == {"source address not kept": 1}
    sock.close()
    dial.close()


def test_a_refusal_is_counted_each_time_and_told_once_in_a_while(home):
    home.app.sock.close()
    dial = dialler(home.context, home.app.port)
    sockets = home.loop.sockets
    for _ in range(3):
        assert dial.dial(prepared(), Peer(True, ("127.0.0.1", 0), ("127.0.0.1", home.app.port))) is None
    assert dict(dial.count.reasons) == {"app refused": 3}
    assert home.loop.sockets == sockets
    home.loop.now += 1
    dial.refused(111)
    assert sum(isinstance(message, AppRefused) for message in home.told) == 2
    dial.close()


def test_it_is_crowded_when_many_wait_for_a_socket_of_that_family(home):
    dial = dialler(home.context, 1)
    v4, v6 = Peer(True, ("", 0), ("", 0)), Peer(False, ("", 0), ("", 0))

    class Wants:
        def given(self, sock):
            sock.close()

    for _ in range(CROWD):
        assert not dial.crowded(v4)
        dial.pool(v4).wait(Wants())
    assert dial.crowded(v4)
    assert not dial.crowded(v6)
    dial.add_sockets(Purpose.APP4, [prepared()])
    assert not dial.crowded(v4)
    dial.close()


# Router.

ONE = Intercept("i1", "ann", SESSION, "t", ("t",), 80, (HeaderRule("x-me", "me"),), tunnel_port=20001)


@pytest.fixture
def router(home):
    home.context.sessions[SESSION] = SessionState("::1", True, frozenset({20001}), set())
    return Router(home.context, TargetCount())


def head(data=MINE):
    from tpnet.http.h1.head import read_request

    return read_request(data)


def test_without_rules_all_is_the_apps(router):
    assert router.decide(head()) is TO_APP
    router.set_rules([ONE])
    assert router.decide(head()).side == (SESSION, 20001, "i1", 10)
    assert router.decide(head(GET)) is TO_APP
    router.set_rules([])
    assert router.decide(head()) is TO_APP
    assert set(router.intercepts) == set()


def test_what_each_verdict_counts(router, home):
    matched = Verdict(Outcome.FORWARD, "side", intercept="i1")
    for verdict in (
        TO_APP,
        matched,
        matched,
        Verdict(Outcome.APP, reason="a probe"),
        Verdict(Outcome.PIN, reason="not HTTP"),
        Verdict(Outcome.REFUSE, reason="framing"),
        matched._replace(outcome=Outcome.FAIL, reason="session down"),
        matched._replace(outcome=Outcome.BREAK, reason="its body"),
    ):
        router.on_verdict(verdict)
    router.on_fallback(matched, "handler refused")
    router.on_failed(matched, "session down")
    data = router.count.as_data()
    assert data["verdicts"] == {"F:app": 1, "F": 3, "A": 1, "P": 1, "R": 1, "B": 1}
    assert data["reasons"] == {"a probe": 1, "not HTTP": 1, "framing": 1}
    assert (data["requests"], data["app_requests"]) == (7, 3)
    intercept = home.context.book.intercepts["i1"]
    assert intercept.hits == 0
    assert dict(intercept.reasons) == {"session down": 2, "handler refused": 1}


# Drain.


class Draining:
    def __init__(self, drain, *, idle=False, forsaken=False):
        self.idle, self.forsaken = idle, forsaken
        self.ended = ""
        self.marked = None
        self._drain = drain
        drain.add(self)

    def _gone(self, how):
        self.ended = self.ended or how
        self._drain.connections.discard(self)

    def finish(self, *, mark):
        self.marked = mark

    def end(self):
        self._gone("FIN")

    def abort(self):
        self._gone("RST")


def test_at_the_agents_end_silent_connections_wait_until_the_deadline_and_the_rest_is_reset():
    drain = Drain()
    idle, busy = Draining(drain, idle=True), Draining(drain)
    for now in (0, 1000):
        drain.tick(now)
    drain.finish(1030, mark=True)
    assert (idle.marked, busy.marked) == (True, True)
    drain.tick(1029)
    assert (idle.ended, busy.ended) == ("", "")
    drain.tick(1030)
    assert (idle.ended, busy.ended) == ("FIN", "")
    assert not drain.over
    drain.tick(1030 + LAST)
    assert busy.ended == "RST"
    assert drain.over


def test_only_what_the_app_has_left_is_reset_in_a_while_when_the_target_has_gone():
    drain = Drain()
    alive, forsaken = Draining(drain, idle=True), Draining(drain, forsaken=True)
    drain.forsake(100)
    drain.tick(99 + FORSAKEN)
    assert forsaken.ended == ""
    drain.keep()
    drain.tick(100 + FORSAKEN)
    assert forsaken.ended == "", "it is there again"
    drain.forsake(200)
    drain.tick(200 + FORSAKEN)
    assert (alive.ended, forsaken.ended) == ("", "RST")


def test_it_is_not_over_while_a_client_is_being_closed(home):
    drain = Drain()
    near, far = tcp_pair()
    stream = Stream(home.loop, home.context.pipes)
    stream.attach(Socket(fileno=near.detach()), print)
    LingeringClose(home.context, stream, drain.closing)
    assert not drain.over
    far.close()
    home.spin()
    assert drain.over


# Orderly closes.


def lingering(home):
    near, far = tcp_pair()
    stream = Stream(home.loop, home.context.pipes)
    stream.attach(Socket(fileno=near.detach()), print)
    return stream, far


def test_what_waits_is_delivered_before_the_end_however_long_it_takes(home):
    stream, far = lingering(home)
    data = os.urandom(20 << 20)
    stream.send(data)
    LingeringClose(home.context, stream)
    home.later(LINGER * 10)
    got = bytearray()
    while len(got) < len(data):
        home.spin(0.001)
        got += far.recv(1 << 20)
    home.spin()
    assert got == data
    assert far.recv(1) == b""
    far.close()


def test_a_client_that_goes_on_sending_is_read_for_a_while_and_then_closed(home):
    clients = set()
    stream, far = lingering(home)
    stream.send(b"response")
    LingeringClose(home.context, stream, clients)
    for _ in range(5):
        far.sendall(b"x" * 10_000)
        home.spin()
    assert far.recv(100) == b"response"
    assert far.recv(100) == b""
    assert len(clients) == 1
    home.later(LINGER + 1)
    assert clients == set()
    far.close()


# All together.


def test_a_target_serves_drains_and_says_so():
    told = []
    context = Context(told.append, 4096)
    listener = Socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen(8)
    listener.setblocking(False)
    address = listener.getsockname()
    # The redirect's part is played by the address: the app is called aside, as it is in a target's namespace.
    with WorkerHome() as home, socket.create_server(("127.116.0.1", address[1])) as app:
        home.loop = context.loop
        target = Target(context, AddTarget(7, "t", address[1]), listener, None)
        asked = [message for message in told if isinstance(message, NeedSockets)]
        assert {message.purpose for message in asked} == {Purpose.APP4, Purpose.APP6}
        target.dialler.add_sockets(Purpose.APP4, [prepared() for _ in range(4)])
        client = socket.create_connection(address)
        home.spin()
        far, _ = app.accept()
        client.sendall(GET)
        home.spin()
        assert far.recv(1000) == GET
        far.sendall(response(b"app"))
        home.spin()
        assert client.recv(1000) == response(b"app")
        assert context.book.targets[7].open == 1
        target.remove(3, gone=False)
        now = context.loop.now
        for second in range(1000):
            target.tick(now + second)
        home.spin()
        client.sendall(GET)
        home.spin()
        assert far.recv(1000) == GET, "it lives on"
        client.close()
        far.close()
        home.spin()
        assert told[-1] != Drained(7, 3)
        target.tick(now + 1000)
        assert told[-1] == Drained(7, 3)
        assert context.removed == [7]
        assert context.book.targets[7].open == 0
