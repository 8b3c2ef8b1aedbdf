"""What is no HTTP/1 request, or comes late, on a connection that an intercept looks into."""

import contextlib
import threading
import time

import pytest
from laptops import answer, request
from worker_lab import answering

ODD = {
    "a head of 70 kB": request(more=b"x-long: %s\r\n" % (b"x" * 70_000)),
    "a blank in the path": b"GET /a b HTTP/1.1\r\nhost: shop\r\n\r\n",
    "a later version": b"GET / HTTP/1.2\r\nhost: shop\r\n\r\n",
    "no HTTP": b"\x16\x03\x01 nothing of HTTP\r\n\r\n",
}


@pytest.fixture
def log(stage):
    """The app answers whatever ends in an empty line; ``log`` has what that was."""
    log = []
    stage.plays(answering("app", log), answering("bob"))
    return log


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_request_for_anybody_reaches_the_app_at_any_position(stage, log, odd, position):
    with stage.connect() as sock:
        for mine in (False, True)[-position:] if position else ():
            sock.sendall(stage.matched() if mine else request())
            assert answer(sock) == (200, "bob 0" if mine else "app 0")
        for _ in range(2):  # and whatever follows it is the app's too, its header notwithstanding
            sock.sendall(ODD[odd])
            assert answer(sock) == (200, "app 0")
            assert log[-1][0] + b"\r\n\r\n" == ODD[odd]


@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_request_waits_until_a_developer_s_response_is_through(stage, log, odd):
    goes_on, asked = threading.Event(), threading.Event()

    def late(sock):
        sock.recv(65536)
        asked.set()
        goes_on.wait(20)
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate")
        sock.recv(1)

    stage.plays(answering("app", log), late)
    with stage.connect() as sock:
        sock.sendall(stage.matched())
        assert asked.wait(10)
        sock.sendall(ODD[odd])
        time.sleep(0.1)
        goes_on.set()
        assert answer(sock) == (200, "late")
        assert answer(sock) == (200, "app 0")
    assert [head + b"\r\n\r\n" for head, _ in log] == [ODD[odd]]


@pytest.mark.slow
def test_silence_before_a_request_decides_nothing(stage, log):
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(stage.connect(family=family)) for family in (4, 6)]
        used = stack.enter_context(stage.connect())
        used.sendall(request())
        assert answer(used) == (200, "app 0")
        time.sleep(11)
        for sock in (*silent, used):
            for _ in range(2):
                sock.sendall(stage.matched())
                assert answer(sock) == (200, "bob 0")
                sock.sendall(request())
                assert answer(sock) == (200, "app 0")
