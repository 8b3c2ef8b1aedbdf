"""Apps that have few connections, or that end those on which nothing comes: what an intercept must not use up."""

import threading
import time

import pytest
from agent_lab import GET, ask
from laptops import answer
from servers import gunicorn, node, one_at_a_time


def test_gunicorn_s_two_workers_serve_everybody_while_two_clients_keep_connections_to_a_developer(scene):
    server = scene.keep(gunicorn(scene.pod.netns, 8080, scene.lab.folder, "the app"))
    scene.intercept()
    with scene.connect() as first, scene.connect() as second:
        for sock in (first, second):
            sock.sendall(scene.matched())
            assert answer(sock) == (200, scene.bob.name)
        for _ in range(5):
            began = time.monotonic()
            assert ask(scene.net) == (200, "the app")
            assert time.monotonic() - began < 15
        for sock in (first, second):  # and the app is dialled when it is needed, however often
            sock.sendall(scene.matched() + GET % b"")
            assert answer(sock) == (200, scene.bob.name)
            assert answer(sock) == (200, "the app")
    assert "WORKER TIMEOUT" not in server.words()


def test_an_app_that_serves_one_connection_at_a_time_is_free_while_a_handler_sits_at_a_breakpoint(scene):
    scene.keep(one_at_a_time(scene.pod.netns, 8080, scene.lab.folder, "the app"))
    goes_on, asked = threading.Event(), threading.Event()

    def breakpoint_(sock):
        while sock.recv(65536):
            asked.set()
            goes_on.wait(30)
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate")

    scene.bob.serve(breakpoint_)
    scene.intercept()
    try:
        with scene.connect() as sock:
            sock.sendall(scene.matched())
            assert asked.wait(10)
            for _ in range(5):
                assert ask(scene.net, GET % b"connection: close\r\n") == (200, "the app")
            goes_on.set()
            assert answer(sock) == (200, "late")
            sock.sendall(GET % b"connection: close\r\n")
            assert answer(sock) == (200, "the app")
    finally:
        goes_on.set()


def keep_asking(scene, seconds, pause):
    """Matched requests over one connection for so long, then one of the app's over the same."""
    with scene.connect() as sock:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            sock.sendall(scene.matched())
            assert answer(sock) == (200, scene.bob.name)
            time.sleep(pause)
        sock.sendall(GET % b"")
        assert answer(sock) == (200, "the app")


def test_an_app_that_ends_silent_connections_with_an_answer_ends_none_of_a_developer_s_client(scene):
    quick = {"headersTimeout": 1000, "requestTimeout": 2000, "connectionsCheckingInterval": 200}
    scene.keep(node(scene.pod.netns, 8080, scene.lab.folder, "the app", **quick))
    scene.intercept()
    keep_asking(scene, 4, 0.2)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_node_with_its_own_timeouts_ends_none_of_a_developer_s_client(scene):
    """A connection may be silent for 60 s; it looks every 5 s here, not every 30 s, so that the test knows when."""
    server = node(scene.pod.netns, 8080, scene.lab.folder, "the app", connectionsCheckingInterval=5000)
    scene.keep(server)
    scene.intercept()
    keep_asking(scene, 68, 2)
