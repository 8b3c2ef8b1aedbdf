"""A path between laptop and node that drops large packets without a word: found, used at both ends, told, and grown out of."""

import random

import pytest
from agent_lab import wait_until
from networks import large_dropped
from worker_lab import answering, read_head, read_request

from tpnet_cli.views.status import path_lines

BODY = random.Random(7).randbytes(300_000)


def sizes(scene):
    """What the session, and the agent, take for the largest packet that passes."""
    (agent,) = scene.bob.client.info()["agents"]
    (session,) = scene.control.status().sessions
    return agent["mtu"], session.mtu


def both_ways(scene):
    """A request whose body and whose response are long."""
    with scene.connect(timeout=30) as sock:
        sock.sendall(scene.matched(b"POST", body=BODY))
        head = read_head(sock)
        assert b" 200 " in head
        data = b""
        while len(data) < len(BODY):
            more = sock.recv(65536)
            assert more
            data += more
    return data == BODY


def mirror(sock):
    while (asked := read_request(sock)) is not None:
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(asked[1]), asked[1]))


@pytest.fixture
def mirrored(scene):
    scene.app(answering("app"))
    scene.bob.serve(mirror)
    scene.intercept()
    return scene


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_size_is_found_on_open_and_new_connections_told_and_grown_out_of(mirrored):
    assert sizes(mirrored) == (1280, 1280)
    assert both_ways(mirrored)
    with large_dropped(1300, *mirrored.path):
        assert both_ways(mirrored)  # it begins before the size is known, and is carried on when it is
        wait_until(lambda: sizes(mirrored) == (1232, 1232), 30, lambda: str(sizes(mirrored)))
        (session,) = mirrored.control.status().sessions
        (line,) = path_lines(session.name, session.mtu, up=session.up)
        assert "drops packets of more than 1232 bytes" in line.plain
        assert both_ways(mirrored)
    with large_dropped(1000, *mirrored.path):
        wait_until(lambda: sizes(mirrored) == (896, 896), 30, lambda: str(sizes(mirrored)))
        assert both_ways(mirrored)
    wait_until(lambda: sizes(mirrored) == (1280, 1280), 60, lambda: str(sizes(mirrored)))
    assert both_ways(mirrored)


def test_link_on_which_only_small_packets_pass_is_told_as_that(mirrored):
    with large_dropped(400, *mirrored.path):
        wait_until(lambda: sizes(mirrored) == (0, 0), 30, lambda: str(sizes(mirrored)))
        (session,) = mirrored.control.status().sessions
        assert session.up
        (line,) = path_lines(session.name, session.mtu, up=session.up)
        assert "only small packets pass" in line.plain
