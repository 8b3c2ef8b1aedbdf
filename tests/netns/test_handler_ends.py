"""Handlers that answer before they have read, and handlers that end a kept connection."""

import contextlib
import random
import re
import threading
import time
from collections import Counter

import pytest
from laptops import answer, head_of, request
from servers import http_server
from worker_lab import read_all, read_head

TRIES = 20


def upload(sock, data):
    """Send, and get the status of the response, whatever becomes of the rest of the upload."""
    with contextlib.suppress(ConnectionError):
        sock.sendall(data)
    return int(read_head(sock).split()[1])


@pytest.mark.parametrize("size", [20_000, 200_000, 5_000_000])
@pytest.mark.parametrize("method", [b"POST", b"PUT"])
def test_a_response_of_a_handler_that_does_not_read_the_body_is_delivered(stage, method, size):
    taken = []

    def refusing(sock):
        if head_of(sock):
            sock.sendall(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        sock.close()  # the body unread: the kernel sends RST

    stage.plays(app=lambda sock: taken.append(head_of(sock)), bob=refusing)
    statuses = []
    for _ in range(TRIES):
        with stage.connect() as sock:
            statuses.append(upload(sock, stage.matched(method, body=b"x" * size)))
    assert statuses == [413] * TRIES
    assert not any(taken)


@pytest.mark.parametrize("method", [b"POST", b"PUT"])
def test_pythons_http_server_says_501_and_is_heard(scene, method):
    scene.bob.handler.close()
    scene.keep(http_server(scene.bob.laptop, 8080, scene.lab.folder))
    taken = []
    scene.app(lambda sock: taken.append(head_of(sock)))
    scene.intercept()
    statuses = []
    for _ in range(TRIES):
        with scene.connect() as sock:
            statuses.append(upload(sock, scene.matched(method, body=b"x" * 20_000)))
    assert statuses == [501] * TRIES
    assert not any(taken)


@pytest.mark.parametrize("side", ["bob", "app"])
def test_a_server_that_half_closes_behind_its_response_gets_the_rest_of_the_upload(stage, side):
    got, whole = [], threading.Event()

    def serve(sock):
        if not head_of(sock):
            return
        sock.sendall(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        sock.shutdown(1)
        got.append(read_all(sock))
        whole.set()

    stage.plays(app=serve, bob=serve)
    body = random.Random(1).randbytes(400_000)
    message = request(b"POST", stage.bob.header if side == "bob" else b"", body)
    with stage.connect() as sock:
        sock.sendall(message[:100_000])
        assert b" 413 " in read_head(sock)
        sock.sendall(message[100_000:])
        sock.shutdown(1)
        assert whole.wait(10)
    assert got == [body]


def ask_twice(stage, method, pause):
    """The second response over a client's connection, when the handler ends its own between the two requests."""
    answered = []
    body = b"abc" if method == b"POST" else b""

    def once(sock):
        if head_of(sock) and len(sock.recv(3) if body else b"") == len(body):
            answered.append(sock)
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbob")

    stage.plays(bob=once)
    with stage.connect() as sock:
        sock.sendall(stage.matched(method, body=body))
        assert answer(sock) == (200, "bob")
        answered.pop().close()
        time.sleep(pause)
        sock.sendall(stage.matched(method, body=body))
        return answer(sock)[0], len(answered)


def test_a_handler_that_closes_as_the_next_request_arrives_is_asked_over_a_fresh_connection(stage):
    """What is sent next crosses the end of the connection in the tunnel; a GET may be asked again anyway."""
    assert [ask_twice(stage, b"GET", 0) for _ in range(200)] == [(200, 1)] * 200


def test_a_post_that_crosses_the_end_of_a_handler_s_connection_is_asked_over_a_fresh_one_too(stage):
    """The session daemon knows that the handler had closed before any of it was there."""
    assert [ask_twice(stage, b"POST", 0) for _ in range(200)] == [(200, 1)] * 200
    assert [ask_twice(stage, b"POST", 0.3) for _ in range(20)] == [(200, 1)] * 20


def test_no_post_is_carried_out_twice_whenever_handlers_end_their_connections(stage):
    """A ledger: each request has an id, and app and handler note what they have read of which."""
    rng = random.Random(3)
    seen = Counter()

    def read(sock):
        head = head_of(sock)
        number = re.search(rb"\r\nid: (\d+)\r\n", head)
        if number and sock.recv(3) == b"abc":
            seen[int(number[1])] += 1
            return True
        return False

    def handler(sock):
        for left in range(rng.choice([1, 1, 2, 5]), 0, -1):
            how = rng.random()
            if not read(sock):
                break
            if left == 1 and how < 0.2:
                break  # it dies of the request
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbob")
            if left == 1 and how < 0.4:
                sock.shutdown(1)  # and carries out what comes yet, though nobody will hear of it
                read(sock)
        sock.close()

    def app(sock):
        if read(sock):
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\napp")

    stage.plays(app=app, bob=handler)
    statuses = {}
    number = 0
    while number < 600:
        with stage.connect() as sock, contextlib.suppress(ConnectionError, OSError):
            while number < 600:
                number += 1
                statuses[number] = 0
                sock.sendall(stage.matched(b"POST", more=b"id: %d\r\n" % number, body=b"abc"))
                statuses[number], who = answer(sock)
                if statuses[number] != 200 or who == "app":
                    break
    assert max(seen.values()) == 1
    assert all(seen[number] == 1 for number, status in statuses.items() if status == 200)
    assert Counter(statuses.values())[200] > 300
