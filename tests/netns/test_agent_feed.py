"""Prepared sockets, where the supervisor or the worker runs out of descriptors."""

import resource
import socket

import pytest
from podnet import PodNet

from tpnet.agent.feed import Feed
from tpnet.datapath.netns import streams
from tpnet.proxy.channel import NeedSockets, Purpose


class Worker:
    """Takes what is offered: how many there were, and of what kind."""

    def __init__(self):
        self.offered = []

    def offer(self, message, fds):
        with socket.socket(fileno=socket.dup(fds[0])) as one:
            self.offered.append((message.purpose, message.target, len(fds), one.family))
        return True


@pytest.fixture
def few():
    """``few(n)``: this process may open n more descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def limit(free):
        probe = socket.socket()
        lowest = probe.fileno()
        probe.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + free, hard))

    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_batch_is_as_large_as_there_is_room_for_and_whole_again_afterwards(net, few, caplog):
    worker = Worker()
    feed = Feed(worker, {1: (net.pod.netns, 8080)}.get, lambda: net.pod.netns)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for purpose, target in ((Purpose.APP4, 1), (Purpose.SESSION, 0)):
        worker.offered.clear()
        few(20)
        feed.need(NeedSockets(purpose, 30, target))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert 10 <= worker.offered[0][2] < 30
        worker.offered.clear()
        feed.need(NeedSockets(purpose, 30, target))
        assert [count for _, _, count, _ in worker.offered] == [30]
    assert caplog.text == ""


def test_no_room_at_all_is_said_once_and_mends_by_itself(net, few, caplog):
    worker = Worker()
    feed = Feed(worker, {1: (net.pod.netns, 8080)}.get, lambda: None)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few(0)
    for _ in range(50):
        feed.need(NeedSockets(Purpose.APP4, 30, 1))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert worker.offered == []
    assert caplog.text.count("no sockets could be prepared") == 1
    feed.need(NeedSockets(Purpose.APP6, 30, 1))
    assert worker.offered == [(Purpose.APP6, 1, 30, socket.AF_INET6)]


def test_this_process_is_in_its_own_namespace_again_whatever_happens(few):
    net = PodNet()
    try:
        before = socket.if_nameindex()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        for free in range(6):
            few(free)
            try:
                for sock in streams(net.pod.netns, socket.AF_INET, 30):
                    sock.close()
            except OSError:
                pass
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert socket.if_nameindex() == before
    finally:
        net.close()
