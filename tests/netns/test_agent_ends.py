"""An agent that is told to end: by events, while its successor may run already."""

import contextlib
import os
import signal
import threading
import time

import pytest
from agent_lab import Agent, changes, wait_until
from laptops import Stage, answer, head_of, request
from worker_lab import exactly, read, read_head


@pytest.fixture
def stage(request):
    """A scene at an agent of this test's own; bob takes what carries his header. The parameter: behind NAT."""
    with contextlib.closing(Agent()) as agent:
        agent.start()
        with contextlib.closing(Stage(agent, nat=getattr(request, "param", False))) as stage:
            wait_until(lambda: said(stage, stage.matched()) == "bob 0")
            yield stage


class Slow:
    """A server that says its name; with /slow in the path the second half of it when ``go_on`` is set."""

    def __init__(self, name):
        self.name = name.encode()
        self.go_on = threading.Event()
        self.asked = []

    def __call__(self, sock):
        while head := head_of(sock):
            self.asked.append(head)
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(self.name))
            half = self.name[:1]
            sock.sendall(half)
            if b"/slow" in head:
                self.go_on.wait(30)
            sock.sendall(self.name[1:])


def said(stage, data):
    with stage.connect() as sock:
        sock.sendall(data)
        return answer(sock)[1]


def begin(stage, data):
    """A connection with a request whose response has begun."""
    sock = stage.connect(timeout=30)
    sock.sendall(data)
    read_head(sock)
    assert sock.recv(1)
    return sock


def ends(sock, seconds=20):
    sock.settimeout(seconds)
    with contextlib.suppress(ConnectionResetError):
        return sock.recv(1) == b""
    return False


def test_the_next_response_says_close_and_is_the_last_and_silence_waits(stage):
    app, bob = Slow("app"), Slow("bob")
    stage.plays(app, bob)
    with contextlib.ExitStack() as stack:
        kept, mine, silent, fresh = (stack.enter_context(stage.connect()) for _ in range(4))
        for sock, data, name in (
            (kept, request(), "app"),
            (mine, stage.matched(), "bob"),
            (silent, request(), "app"),
        ):
            sock.sendall(data)
            assert answer(sock) == (200, name)
        wait_until(lambda: stage.control.status().targets[0].open >= 4)
        stage.agent.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "waiting 30 s at most" in stage.agent.words())
        for sock, data, name in (
            (kept, request(), b"app"),
            (mine, stage.matched(), b"bob"),
            (fresh, request(), b"app"),
        ):
            sock.sendall(data)
            head = read_head(sock)
            assert b"\r\nconnection: close\r\n" in head.lower(), head
            assert exactly(sock, 3) == name
            assert ends(sock)
        assert said(stage, stage.matched()) == "app"  # new connections are the app's
        time.sleep(2)
        assert stage.agent.process.poll() is None
        silent.sendall(request())
        assert b"\r\nconnection: close\r\n" in read_head(silent).lower()
    assert stage.agent.process.wait(20) == 0
    assert changes(stage.pod) == []


NAT = pytest.mark.parametrize("stage", [False, True], ids=["", "nat"], indirect=True)


@NAT
def test_responses_under_way_end_in_their_own_time_while_the_next_agent_serves(stage):
    app, bob = Slow("app"), Slow("bob")
    stage.plays(app, bob)
    old = stage.agent.process
    stage.ending.append(old)
    with contextlib.ExitStack() as stack:
        by_app, by_bob = (
            stack.enter_context(begin(stage, data))
            for data in (request(path=b"/slow"), stage.matched(path=b"/slow"))
        )
        old.terminate()
        began = time.monotonic()
        stage.agent.start()
        wait_until(lambda: said(stage, stage.matched()) == "bob")
        print(f"bob's again after {time.monotonic() - began:.2f} s")
        assert said(stage, request()) == "app"
        time.sleep(3)
        assert old.poll() is None
        app.go_on.set()
        bob.go_on.set()
        assert exactly(by_app, 2) == b"pp"
        assert exactly(by_bob, 2) == b"ob"
    assert old.wait(20) == 0, stage.agent.words()
    # What the successor needs there it still has.
    assert len(changes(stage.pod)) == 7
    assert said(stage, stage.matched()) == "bob"
    assert sum(b"/slow" in head for head in app.asked) == sum(b"/slow" in head for head in bob.asked) == 1
    stage.bob.remove()
    wait_until(lambda: not changes(stage.pod))
    assert not (stage.agent.run_dir / "state.json").exists()


@NAT
def test_an_upload_under_way_goes_on_while_the_next_agent_serves(stage):
    size = 2 << 20
    bodies = []

    def serve(sock):
        if not head_of(sock):
            return
        bodies.append(read(sock, lambda data: len(data) == size))
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbob")

    stage.plays(None, serve)
    body = os.urandom(size)
    old = stage.agent.process
    stage.ending.append(old)
    with stage.connect(timeout=20) as sock:
        sock.sendall(stage.matched(b"POST", body=body)[: -size // 2])
        time.sleep(0.5)
        old.terminate()
        stage.agent.start()
        stage.plays(None, None)
        wait_until(lambda: said(stage, stage.matched()) == "bob 0", 10)
        sock.sendall(body[-size // 2 :])
        assert answer(sock) == (200, "bob")
    assert bodies == [body]
    assert old.wait(10) == 0, stage.agent.words()
