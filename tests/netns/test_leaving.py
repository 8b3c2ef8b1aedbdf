"""An intercept that is left, and made again: for those who use it, and for those who only pass through."""

import contextlib
import time

import pytest
from agent_lab import wait_until
from laptops import answer, head_of, request
from worker_lab import answering, read, read_head


def test_an_intercept_that_is_made_again_is_seen_by_the_next_request_of_every_connection(scene):
    scene.app(answering("app"))
    scene.bob.serve(answering("bob"))
    scene.intercept()
    kept = [scene.keep(scene.connect(family=family)) for family in (4, 6, 4, 6)]

    def asked(sock, data):
        sock.sendall(data)
        return answer(sock)

    for _ in range(3):
        for sock in kept:
            assert asked(sock, scene.matched()) == (200, "bob 0")
            assert asked(sock, request()) == (200, "app 0")
        kept.append(scene.keep(scene.connect()))  # it has asked nothing yet when the intercept is left
        scene.bob.remove()
        for sock in kept[:-1]:
            assert asked(sock, scene.matched()) == (200, "app 0")
        scene.bob.start_session()  # the session ended with its last intercept
        began = time.monotonic()
        scene.intercept()
        for sock in kept:
            assert asked(sock, scene.matched()) == (200, "bob 0"), time.monotonic() - began
            assert asked(sock, request()) == (200, "app 0")


def chunks(sock):
    """A response that takes as long as its client stays."""
    sock.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        sock.sendall(b"4\r\ntick\r\n")
        time.sleep(1)


def shop(sock):
    """An app: a WebSocket's echo, a response without an end, a pipe that echoes, or a word."""
    head = head_of(sock)
    if b"websocket" in head:
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
    elif b"/long" in head:
        chunks(sock)
    elif head.startswith(b"PRI "):
        sock.sendall(head)
    while head and head.startswith(b"GET / "):
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\napp")
        head = head_of(sock)
    while data := sock.recv(65536):
        sock.sendall(data)


def outcome(sock):
    """The response, or what went wrong."""
    try:
        return answer(sock)
    except (OSError, AssertionError) as error:
        return error


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_what_is_under_way_when_the_last_intercept_is_left_ends_in_its_own_time(scene):
    """Bystanders live on behind every deadline that was ever there; what bob was asked, he answers, once."""
    asked = []

    def handler(sock):
        while head := head_of(sock):
            asked.append(head)
            if b"/slow" in head:
                if head.startswith(b"POST"):
                    sock.recv(4)
                time.sleep(20)
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbob")

    scene.app(shop)
    scene.bob.serve(handler)
    scene.intercept()
    stack = contextlib.ExitStack()
    websocket, long, grpc, kept, post, get = (
        stack.enter_context(scene.connect(timeout=30)) for _ in range(6)
    )
    with stack:
        websocket.sendall(request(path=b"/socket", more=b"connection: upgrade\r\nupgrade: websocket\r\n"))
        assert b" 101 " in read_head(websocket)
        long.sendall(request(path=b"/long"))
        assert b" 200 " in read_head(long)
        grpc.sendall(PREFACE)
        read(grpc, lambda data: len(data) == len(PREFACE))
        kept.sendall(request())
        assert answer(kept) == (200, "app")
        post.sendall(scene.matched(b"POST", body=b"body", path=b"/slow"))
        get.sendall(scene.matched(path=b"/slow"))
        wait_until(lambda: sum(b"/slow" in head for head in asked) == 2)
        time.sleep(1)
        left = time.monotonic()
        scene.bob.remove()
        wait_until(lambda: not scene.control.status().intercepts)
        results = [outcome(post), outcome(get)]
        while time.monotonic() - left < 45:
            for sock in (websocket, grpc):
                sock.sendall(b"still there?")
                assert read(sock, lambda data: len(data) == 12) == b"still there?"
            kept.sendall(scene.matched())
            assert answer(kept) == (200, "app")
            assert b"tick" in read(long, lambda data: len(data) > 8)
            time.sleep(1)
        assert results == [(200, "bob")] * 2
        assert sum(b"/slow" in head for head in asked) == 2
        for sock in (post, get):  # and what follows on their connections is the app's
            sock.sendall(scene.matched())
            assert answer(sock) == (200, "app")
