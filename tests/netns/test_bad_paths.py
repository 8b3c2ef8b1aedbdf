"""Networks that lose packets without a word: between laptop and node, and between a client and the pod."""

import contextlib
import random
import statistics
import threading
import time

import pytest
from agent_lab import Agent, wait_until
from laptops import Stage, answer, head_of, request
from networks import between, dropped, large_dropped, namespaces, tcp_sockets
from worker_lab import read, read_head, read_request, reset


@pytest.mark.slow
def test_a_tunnel_that_dies_makes_a_request_on_a_kept_connection_a_second_late_at_most(stage):
    stage.plays()
    took = []
    for number in range(6):
        with stage.connect() as sock:
            for _ in range(3):
                sock.sendall(stage.matched())
                assert answer(sock) == (200, "bob 0")
            time.sleep(number * 0.17)  # at another moment between two signs of life each time
            with dropped(stage.bob.laptop, "meta l4proto udp"):
                began = time.monotonic()
                sock.sendall(stage.matched())
                assert answer(sock) == (200, "app 0")
                took.append(time.monotonic() - began)

        def back():
            with stage.connect() as sock:
                sock.sendall(stage.matched())
                return answer(sock) == (200, "bob 0")

        wait_until(back, 30)
    assert statistics.median(took) < 1.05 + 0.5, took
    assert max(took) < 5, took


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_path_that_loses_big_packets_carries_a_megabyte(stage, way):
    body = random.Random(way).randbytes(1_000_000)

    def handler(sock):
        while (asked := read_request(sock)) is not None:
            reply = body if way == "down" else b"whole" if asked[1] == body else b"not whole"
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(reply), reply))

    stage.plays(bob=handler)
    with large_dropped(1300, *stage.path):
        for _ in range(2):
            with stage.connect(timeout=20) as sock:
                sock.sendall(stage.matched(b"POST", body=body if way == "up" else b""))
                assert b" 200 " in read_head(sock)
                expected = b"whole" if way == "up" else body
                assert read(sock, lambda data, end=expected[-9:]: data.endswith(end)) == expected


QUICK = """
import socket
from tpnet.datapath import redirect
redirect.KEEPALIVE = {socket.TCP_KEEPIDLE: 3, socket.TCP_KEEPINTVL: 1, socket.TCP_KEEPCNT: 3}
"""
"""The agent's keepalive towards clients, in seconds instead of a minute and a half."""


@pytest.mark.slow
def test_a_client_that_vanishes_is_found_out_and_its_end_passed_on():
    """Some wait for a handler or an app that stays silent, some for nothing."""
    with contextlib.closing(Agent()) as agent:
        agent.start(QUICK)
        with contextlib.closing(Stage(agent)) as stage:
            vanish(stage)


def vanish(stage):
    ended = []

    def silent(sock):
        if head_of(sock):
            with contextlib.suppress(OSError):
                sock.recv(1)
            ended.append(1)

    stage.plays(app=silent, bob=silent)
    worker = Descriptors(stage)
    with contextlib.ExitStack() as clients:
        socks = [clients.enter_context(stage.connect(family=family)) for family in (4, 6) for _ in range(3)]
        for number, sock in enumerate(socks):
            sock.sendall((stage.matched(), request(), b"")[number % 3])
        wait_until(lambda: worker.more() >= 10)
        with dropped(stage.net.client, between(8080, socks)):
            wait_until(lambda: len(ended) == 4, 20)
            wait_until(lambda: worker.more() <= 0)


@pytest.mark.parametrize("side", ["bob", "app"])
def test_a_client_that_resets_frees_all_that_it_held_although_the_server_stays_silent(stage, side):
    ended, goes_on = [], threading.Event()

    def silent(sock):
        if head_of(sock):
            with contextlib.suppress(OSError):
                sock.recv(1)
            ended.append(1)
            goes_on.wait(30)

    stage.plays(app=silent, bob=silent)
    worker = Descriptors(stage)
    with contextlib.ExitStack() as clients:
        clients.callback(goes_on.set)
        socks = [clients.enter_context(stage.connect()) for _ in range(10)]
        for sock in socks:
            sock.sendall(stage.matched() if side == "bob" else request())
        wait_until(lambda: worker.more() >= 20)
        for sock in socks:
            reset(sock)
        wait_until(lambda: len(ended) == 10)
        wait_until(lambda: worker.more() <= 0)


class Descriptors:
    """``more()``: how many more sockets of clients and servers the worker has than when this was made."""

    def __init__(self, stage):
        self._stage = stage
        self._before = self._now()

    def more(self):
        return self._now() - self._before

    def _now(self):
        """Established or half closed: those in stock are neither."""
        worker = self._stage.agent.worker()
        with namespaces(worker, self._stage.agent.process.pid) as found:
            lines = [line for netns in found for line in tcp_sockets(netns, "-p", "state", "connected")]
        return sum(f"pid={worker}," in line for line in lines)
