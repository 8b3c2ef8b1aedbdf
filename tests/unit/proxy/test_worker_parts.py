import json
import os
import socket
import subprocess
import sys

import pytest

from tpnet.agent.status import Ledger
from tpnet.model import HeaderRule, Intercept, OnFailure, PathKind, PathRule, TpnetError, codec
from tpnet.proxy import channel, privileges
from tpnet.proxy.context import MOST, Context
from tpnet.proxy.counters import Book, TargetCount
from tpnet.proxy.loop import IN, Deadlines, Loop
from tpnet.proxy.pool import SocketPool
from tpnet.proxy.stream import Pipes, Stream
from tpnet.proxy.transport import Socket


class Asked(list):
    def __call__(self, count):
        self.append(count)
        return count


def socks(count):
    return [socket.socket() for _ in range(count)]


@pytest.fixture
def loop():
    loop = Loop()
    yield loop
    loop.epoll.close()


@pytest.fixture
def asked():
    return Asked()


@pytest.fixture
def pool(loop, asked):
    pool = SocketPool(loop, 8, MOST, asked)
    yield pool
    pool.close()


class Wants:
    def __init__(self):
        self.got = None

    def given(self, sock):
        self.got = sock


def test_a_stock_is_refilled_when_half_of_it_is_gone(loop, pool, asked):
    pool.refill()
    assert asked == [8]
    pool.add(socks(8))
    taken = [pool.take() for _ in range(3)]
    assert asked == [8]
    taken.append(pool.take())
    assert asked == [8, 4]
    for sock in taken:
        sock.close()


def test_a_stock_that_runs_out_asks_for_more_up_to_a_bound(pool, asked):
    for _ in range(20):
        assert pool.take() is None
    assert sum(asked) == MOST


def test_who_waits_for_a_socket_is_served_in_order(loop, pool, asked):
    first, second = Wants(), Wants()
    for waiting in (first, second):
        assert pool.take() is None
        pool.waiting[waiting] = None
    new = socks(1)
    pool.add(new)
    assert (first.got, second.got) == (new[0], None)
    first.got.close()


def test_a_stock_asks_again_for_what_never_came(loop, pool, asked):
    pool.refill()
    pool.tick()
    assert asked == [8]
    loop.now += 3
    pool.tick()
    assert asked == [8, 8]


def test_a_busy_stock_shrinks_when_it_is_quiet(pool, asked):
    for _ in range(5):
        pool.take()
    for _ in range(10):
        pool.tick()
    asked.clear()
    pool.add(socks(5))
    pool.take().close()
    assert sum(asked) <= 8


def test_sockets_on_their_way_count_as_open(loop, pool):
    pool.refill()
    assert loop.sockets == 8
    pool.add(socks(8))
    assert loop.sockets == 8
    pool.close()
    assert loop.sockets == 0


def test_no_more_sockets_are_asked_for_than_there_is_room():
    told = []
    context = Context(told.append, 256)
    context.loop.sockets = 200
    context.session_pool.refill()
    assert [message.count for message in told] == [8]
    context.loop.sockets = 256
    context.pool("app4", 1, 32).refill()
    assert len(told) == 1
    context.loop.epoll.close()


def test_deadlines_expire_in_order_and_only_once(loop):
    expired = []
    deadlines = Deadlines(loop, 1.0, expired.append)
    for thing in "abc":
        deadlines.add(thing)
        loop.now += 0.1
    deadlines.discard("b")
    deadlines.run(loop.now)
    assert expired == []
    deadlines.run(loop.now + 1)
    deadlines.run(loop.now + 1)
    assert expired == ["a", "c"]


def test_a_deadline_brings_the_next_look_forward(loop):
    loop.next_tick = loop.now + 1
    Deadlines(loop, 1.0, print, near=False).add("far")
    assert loop.next_tick == loop.now + 1
    Deadlines(loop, 1.0, print).add("near")
    assert loop.next_tick < loop.now + 0.2


def test_the_loop_survives_a_handler_and_tells_its_owner(loop, capsys):
    ours, theirs = socket.socketpair()
    failed = []

    class Owner:
        def on_events(self, events):
            raise ValueError("secret")

        def fail(self):
            failed.append(True)
            loop.close(ours)
            loop.stop()

    loop.add(ours.fileno(), IN, Owner().on_events)
    theirs.send(b"x")
    loop.run()
    theirs.close()
    assert failed == [True]
    text = capsys.readouterr().err
    assert text.startswith("tpnet worker: ValueError at test_worker_parts.py:")
    assert "secret" not in text


def test_events_of_a_closed_descriptor_are_not_given_to_its_successor(loop):
    pairs = [socket.socketpair() for _ in range(2)]
    seen = []

    def first(_events):
        fd = pairs[1][0].fileno()
        loop.close(pairs[1][0])
        successor = os.dup(pairs[0][0].fileno())
        assert successor == fd
        loop.handlers[fd] = seen.append
        loop.stop()

    for (end, other), handler in zip(pairs, (first, seen.append), strict=True):
        loop.add(end.fileno(), IN, handler)
        other.send(b"x")
    fd = pairs[1][0].fileno()
    loop.run()
    assert seen == []
    os.close(fd)
    for sock in (pairs[0][0], pairs[0][1], pairs[1][1]):
        sock.close()


@pytest.fixture
def connected():
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def stream_of(loop):
    made = []

    def stream_of(sock, **options):
        stream = Stream(loop, Pipes())
        stream.attach(Socket(fileno=sock.detach()), print, **options)
        made.append(stream)
        return stream

    yield stream_of
    for stream in made:
        stream.reset()


def test_what_the_kernel_does_not_take_waits_in_order(stream_of, connected):
    ours, theirs = connected
    stream = stream_of(ours)
    blocks = [bytes([number]) * 500_000 for number in range(20)]
    for block in blocks:
        stream.send(block)
    stream.shutdown()
    assert stream.backlog
    assert not stream.shut
    got = bytearray()
    while more := theirs.recv(1 << 20):
        got += more
        stream.flush()
    assert stream.shut
    assert got == b"".join(blocks)


def test_nothing_leaves_before_the_connection_is_known_to_be_there(stream_of, connected):
    ours, theirs = connected
    stream = stream_of(ours, connecting=True)
    stream.send(b"early")
    stream.shutdown()
    theirs.settimeout(0.05)
    with pytest.raises(TimeoutError):
        theirs.recv(10)
    stream.connecting = False
    stream.flush()
    assert theirs.recv(10) == b"early"
    assert theirs.recv(10) == b""


def test_pipes_are_bounded_and_used_again():
    pipes = Pipes(2)
    first, second = pipes.take(), pipes.take()
    assert pipes.take() is None
    pipes.give(first)
    assert pipes.take() == first
    pipes.destroy(second)
    third = pipes.take()
    assert third is not None
    pipes.destroy(first)
    pipes.destroy(third)


def test_counters_are_given_only_when_they_changed():
    book = Book()
    assert len(book.changed({})) == 1
    assert book.changed({}) == []
    book.targets[1] = count = TargetCount()
    count.unmatched += 2
    count.verdicts["P"] += 1
    book.intercepts["i"].hit()
    (counters,) = book.changed({})
    assert counters.targets["1"]["verdicts"] == {"P": 1, "F:app": 2}
    assert counters.intercepts["i"]["hits"] == 1


def test_many_counters_go_without_a_file_in_memory(monkeypatch):
    monkeypatch.delattr(os, "memfd_create")  # a worker may not
    book = Book()
    for number in range(500):
        book.targets[number] = TargetCount()
        count = book.intercepts[f"an-intercept-of-a-long-name-{number:0100d}#{number}"]
        for reason in range(20):
            count.reasons[f"one of the reasons that there are {reason}"] = 1 << 40
    ours, theirs = channel.pair()
    ledger = Ledger()
    parts = book.changed({f"s{number}": number for number in range(90)})
    with ours, theirs:
        for counters in parts:
            assert ledger.target(499) == {}
            channel.send(ours, counters)
            message, fds = channel.receive(theirs)
            assert fds == []
            ledger.take(message)
    assert len(parts) == 13
    assert ledger.target(499)["open"] == 0
    assert ledger.open_to("s89") == 89
    assert all(len(table) == 500 for table in ledger._now)
    book.targets.clear()
    for counters in book.changed({}):
        ledger.take(counters)
    assert ledger.target(499) == {}
    assert ledger.open_to("s89") == 0


def test_a_process_without_rights_cannot_become_somebody_else():
    script = "from tpnet.proxy import privileges; privileges.drop(64998); privileges.drop(1)"
    if os.geteuid() != 0:
        script = "from tpnet.proxy import privileges; privileges.drop(1)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "should run as uid 1 without capabilities" in done.stderr


def test_an_error_of_the_drop_says_what_to_try(monkeypatch):
    def refused():
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(privileges.os, "geteuid", lambda: 1)
    for name in ("bound_to", "keep"):
        monkeypatch.setattr(privileges.capabilities, name, lambda: None)
    monkeypatch.setattr(privileges.capabilities, "no_new_privileges", refused)
    with pytest.raises(TpnetError, match="cannot give up its privileges") as caught:
        privileges.drop(1)
    assert "root" in caught.value.hint


def test_a_finished_intercept_is_forgotten():
    book = Book()
    for name in "ij":
        book.intercepts[name].hit()
    book.keep_only({"j"})
    assert book.intercepts.keys() == {"j"}


@pytest.mark.parametrize("path", [None, PathRule(PathKind.REGEX, "/a.*")])
def test_an_intercept_comes_to_the_worker_as_it_was(path):
    intercept = Intercept(
        "i", "ann", "ann-laptop", "t", ("t", "u"), 80, (HeaderRule("a", "b"), HeaderRule("c", "d.*", True)), path,
        "127.0.0.1:1", 20000, OnFailure.ERROR, 12.5, 7,
    )  # fmt: skip
    found = channel.intercept_of(json.loads(json.dumps(codec.encode(intercept))))
    assert found == intercept
    assert isinstance(found.on_failure, OnFailure)


def test_the_worker_imports_nothing_heavy():
    script = "import sys, tpnet.proxy.worker as w; w.warm_up(); print({'pydantic', 'asyncio', 'pyroute2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
