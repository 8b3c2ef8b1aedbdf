"""Developers and clients that hardly read: what they pile up is bounded, on node and laptop, and nobody waits for them."""

import contextlib
import select
import threading
import time
from pathlib import Path

import pytest
from agent_lab import GET, ask
from clock import quickest
from laptops import head_of
from networks import held_by_kernel, namespaces
from worker_lab import answering

STREAMS = 50
MOST = 256 * 1024
"""Bytes that a stream may hold in kernel and process together, on node and laptop each."""
SIZE = 20_000_000


def resident(pid):
    """Bytes of a process's own, the kernel's of its sockets apart."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "RssAnon" in line)
    return int(line.split()[1]) * 1024


def holds(*pids):
    """Bytes that the first of these processes holds, in all its namespaces and those that the others hold."""
    with namespaces(*pids) as found:
        return resident(pids[0]) + sum(held_by_kernel(netns, pids[0]) for netns in found)


def slowest(net, times=300):
    """Seconds that 99 of 100 bystanders' requests take at most."""
    took = []
    for _ in range(times):
        began = time.monotonic()
        assert ask(net, GET % b"") == (200, "app 0")
        took.append(time.monotonic() - began)
    return sorted(took)[-times // 100]


def send_all_that_goes(socks, data, seconds=6):
    """Fill every buffer there is."""
    poll = select.poll()
    for sock in socks:
        sock.setblocking(False)
        poll.register(sock, select.POLLOUT)
    by_fd = {sock.fileno(): sock for sock in socks}
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for fd, _ in poll.poll(100):
            with contextlib.suppress(BlockingIOError):
                by_fd[fd].send(data)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["up", "down"])
def test_slow_streams_hold_little_and_no_bystander_notices(stage, way):
    ends = threading.Event()

    def slow_reader(sock):
        if head_of(sock):
            while not ends.wait(1) and sock.recv(1024):
                pass

    def fast_sender(sock):
        if head_of(sock):
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % SIZE)
            with contextlib.suppress(OSError):
                sock.sendall(b"x" * SIZE)

    stage.plays(answering("app"), slow_reader if way == "up" else fast_sender)
    daemon = stage.bob.client.info()["pid"]
    node = (stage.lab.agent.worker(), stage.agent.process.pid)
    with contextlib.ExitStack() as clients:
        clients.callback(ends.set)
        quiet = slowest(stage.net)
        before = holds(*node), holds(daemon)
        socks = [clients.enter_context(stage.connect()) for _ in range(STREAMS)]
        for sock in socks:
            sock.sendall(stage.matched(b"POST", b"content-length: %d\r\n" % SIZE if way == "up" else b""))
        if way == "up":
            send_all_that_goes(socks, b"x" * 65536)
        else:
            for _ in range(6):
                time.sleep(1)
                for sock in socks:
                    assert sock.recv(1024)
        after = holds(*node), holds(daemon)
        per_stream = [(now - then) / STREAMS for now, then in zip(after, before, strict=True)]
        assert max(per_stream) <= MOST, dict(zip(("node", "laptop"), per_stream, strict=True))
        most = max(3 * quiet, quiet + 0.03)
        assert quickest(most, lambda: slowest(stage.net)) < most
