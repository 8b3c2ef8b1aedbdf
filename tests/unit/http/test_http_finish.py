"""An agent that ends: the next response says so, and nobody who obeys it loses a request."""

from __future__ import annotations

from collections import deque

import h11
import httptools
import pytest
from http_wire import (
    APP,
    CLOSE_CLIENT,
    DEV,
    EOF_ANSWER,
    GET_APP,
    GET_DEV,
    HELLO,
    NEXT,
    PIN,
    SWITCHING,
    WEBSOCKET,
    Wire,
    all_cuts,
    answer,
    by_path,
    post,
    request,
    to,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from test_http_splits import CUTS

from tpnet.http.h1.response import marked

MARK = b"Connection: close\r\n"


def mark(told: bytes) -> bytes:
    line, _, rest = told.partition(b"\r\n")
    return line + b"\r\n" + MARK + rest


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + HELLO


@pytest.mark.parametrize(
    ("asked", "told", "seen"),
    [
        (GET_APP, answer(b"x"), mark(answer(b"x"))),
        (GET_APP, answer(b""), mark(answer(b""))),
        (GET_APP, CHUNKED, mark(CHUNKED)),
        (GET_APP, b"HTTP/1.1 200\r\nContent-Length:0\r\n\r\n", b"HTTP/1.1 200\r\n" + MARK + b"Content-Length:0\r\n\r\n"),
        (GET_APP, b"HTTP/1.1 204 No\r\n\r\n", b"HTTP/1.1 204 No\r\n" + MARK + b"\r\n"),
        (GET_APP, b"HTTP/1.1 304 No\r\nContent-Length: 9\r\n\r\n", b"HTTP/1.1 304 No\r\n" + MARK + b"Content-Length: 9\r\n\r\n"),
        (
            request(b"HEAD / HTTP/1.1"),
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + MARK + b"Content-Length: 9\r\n\r\n",
        ),
        (GET_APP, answer(b"x", b"Connection: keep-alive"), answer(b"x", b"Connection: close")),
        (GET_APP, answer(b"x", b"X: y", b"connection:Keep-Alive "), mark(answer(b"x", b"X: y"))),
        (GET_APP, answer(b"x", b"Connection: keep-alive, X"), mark(answer(b"x", b"Connection: keep-alive, X"))),
        (GET_APP, answer(b"x", b"Connection: X"), mark(answer(b"x", b"Connection: X"))),
        (
            GET_APP,
            b"HTTP/1.1 103 Early Hints\r\nConnection: X\r\n\r\n" + answer(b"x"),
            b"HTTP/1.1 103 Early Hints\r\nConnection: X\r\n\r\n" + mark(answer(b"x")),
        ),
        (post(b"Content-Length: 5", body=b"hello"), answer(b"x"), mark(answer(b"x"))),
        # What ends its connection by itself stays as it is.
        (GET_APP, answer(b"x", b"Connection: close"), answer(b"x", b"Connection: close")),
        (GET_APP, answer(b"x", b"Connection: X, Close"), answer(b"x", b"Connection: X, Close")),
        (request(b"GET / HTTP/1.1", MARK[:-2]), answer(b"x"), answer(b"x")),
        (request(b"GET / HTTP/1.0"), answer(b"x"), answer(b"x")),
        (GET_APP, b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx"),
        (WEBSOCKET, answer(b"x"), mark(answer(b"x"))),
    ],
)  # fmt: skip
@pytest.mark.parametrize("when", ["before", "under way"])
@pytest.mark.parametrize("marks", [True, False])
def test_the_next_response_says_close_and_ends_the_connection(side, asked, told, seen, when, marks):
    for _, pieces in all_cuts(told):
        wire = Wire(to(side), {side: [(NEXT, answer(b"1"))]}).write(NEXT)
        if when == "before":
            wire.conversation.finish(mark=marks)
            assert wire.conversation.idle
            wire.write(asked)
        else:
            wire.write(asked)
            wire.conversation.finish(mark=marks)
        wire.say(side, *pieces).write(NEXT)
        assert wire.client == answer(b"1") + (seen if marks else told)
        assert wire.received[side] == NEXT + asked
        assert wire.log == [(CLOSE_CLIENT,)]


def test_a_response_that_has_begun_is_not_the_last(side):
    wire = Wire(to(side)).write(GET_APP).say(side, answer(b"abc")[:-1])
    wire.conversation.finish(mark=True)
    wire.say(side, b"c")
    assert wire.client == answer(b"abc")
    assert wire.conversation.idle
    wire.write(NEXT).say(side, answer(b"x"))
    assert wire.client == answer(b"abc") + mark(answer(b"x"))
    assert wire.log == [(CLOSE_CLIENT,)]


def test_of_pipelined_requests_the_last_one_is_marked(side):
    wire = Wire(to(side)).write(GET_APP + GET_APP)
    wire.conversation.finish(mark=True)
    wire.write(NEXT)
    wire.say(side, answer(b"1")).say(side, answer(b"2")).say(side, answer(b"3"))
    assert wire.client == answer(b"1") + answer(b"2") + mark(answer(b"3"))
    assert wire.log == [(CLOSE_CLIENT,)]


def test_a_request_that_waits_for_its_turn_is_served_first():
    wire = Wire(by_path).write(GET_APP + GET_DEV + GET_APP)
    wire.conversation.finish(mark=True)
    wire.say(APP, answer(b"1")).say(DEV, answer(b"2")).say(APP, answer(b"3"))
    assert wire.client == answer(b"1") + answer(b"2") + mark(answer(b"3"))
    assert wire.log == [(CLOSE_CLIENT,)]


def test_a_request_whose_head_has_begun_is_served_first(side):
    wire = Wire(to(side)).write(GET_APP + NEXT[:7])
    wire.conversation.finish(mark=True)
    wire.say(side, answer(b"1")).write(NEXT[7:]).say(side, answer(b"2"))
    assert wire.client == answer(b"1") + mark(answer(b"2"))
    assert wire.log == [(CLOSE_CLIENT,)]
    wire = Wire(to(side)).write(GET_APP + b"\r\n")
    wire.conversation.finish(mark=True)
    wire.say(side, answer(b"1"))
    assert wire.client == mark(answer(b"1"))
    assert wire.log == [(CLOSE_CLIENT,)]


def test_an_early_response_is_marked_and_the_upload_goes_on(side):
    wire = Wire(to(side)).write(post(b"Content-Length: 5", body=b"h"))
    wire.conversation.finish(mark=True)
    wire.say(side, answer(b"early"))
    assert wire.client == mark(answer(b"early"))
    assert wire.log == []
    wire.write(b"ello" + NEXT)
    assert wire.received[side] == post(b"Content-Length: 5", body=b"hello")
    assert wire.log == [(CLOSE_CLIENT,)]


def test_pipes_and_responses_without_length_are_left_alone(side):
    wire = Wire(to(side)).write(WEBSOCKET)
    wire.conversation.finish(mark=True)
    wire.say(side, SWITCHING)
    assert wire.client == SWITCHING
    assert wire.log == [(PIN, side)]
    wire.conversation.finish(mark=True)
    wire.say(side, answer(b"x"))
    assert wire.client == SWITCHING + answer(b"x")
    wire = Wire(to(side)).write(GET_APP)
    wire.conversation.finish(mark=True)
    wire.say(side, EOF_ANSWER, b"x")
    assert wire.client == EOF_ANSWER + b"x"
    assert wire.log == []


def test_our_own_responses_say_close_already():
    wire = Wire().write(GET_APP + post(b"Content-Length: x"))
    wire.conversation.finish(mark=True)
    wire.say(APP, answer(b"1"))
    assert wire.client.startswith(answer(b"1") + b"HTTP/1.1 400 ")
    assert wire.log == [(CLOSE_CLIENT,)]


HEADS = [
    answer(b"x"),
    answer(b"x", b"Connection: keep-alive"),
    answer(b"x", b"Connection: keep-alive, X"),
    answer(b"x", b"Connection: X", b"Keep-Alive: timeout=5", b"connection: Keep-Alive"),
    answer(b"x", b"CONNECTION:\tkeep-alive\t", b"Connection: keep-alive"),
    CHUNKED,
]


@pytest.mark.parametrize("told", HEADS)
def test_clients_understand_the_mark(told):
    """Also those that look at one line alone: the first (Python's http.client, aiohttp) or the last."""
    head, end, body = told.partition(b"\r\n\r\n")
    head = marked(head + end)
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[(b"host", b"a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(head + body)
    while not isinstance(connection.next_event(), h11.EndOfMessage):
        pass
    assert connection.their_state is h11.MUST_CLOSE

    parser = httptools.HttpResponseParser(None)
    parser.feed_data(head)
    assert not parser.should_keep_alive()

    lines = [line.partition(b":") for line in head.split(b"\r\n")]
    values = [value.strip().lower() for name, _, value in lines if name.strip().lower() == b"connection"]
    assert values[0] == b"close"
    assert not {b"keep-alive"} & set(values)


class Client:
    """Obeys RFC 9112, 9.6: sends no request once it could read the mark. ``ahead``: requests that it pipelines."""

    def __init__(self, wire, requests, ahead):
        self.wire = wire
        self.unsent = deque(requests)
        self.ahead = ahead
        self.sent = 0
        self.on_the_way = deque()

    @property
    def answered(self):
        return bytes(self.wire.client).count(b"HTTP/1.1 200")

    def send(self, cut):
        if self.unsent and self.sent - self.answered < self.ahead and MARK not in self.wire.client:
            self.sent += 1
            self.on_the_way.extend(cut(self.unsent.popleft()))

    def deliver(self):
        if self.on_the_way:
            self.wire.write(self.on_the_way.popleft())


class Sides:
    """Answer what they were asked, a piece at a time."""

    def __init__(self, wire, cut):
        self.wire = wire
        self.cut = cut
        self.told = {APP: 0, DEV: 0}
        self.owed = deque()

    def say(self):
        for side in (APP, DEV):
            if not self.owed and self.wire.received[side].count(b" HTTP/1.1\r\n") > self.told[side]:
                self.told[side] += 1
                self.owed.extend((side, piece) for piece in self.cut(answer(b"x" * self.told[side])))
        if self.owed and not self.wire.over:
            self.wire.say(*self.owed.popleft())


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.sampled_from([GET_APP, GET_DEV, post(b"Content-Length: 5", body=b"hello")]), min_size=1, max_size=6),
    st.sampled_from([1, 1, 2, 3]),
    st.booleans(),
    st.lists(st.sampled_from(["send", "deliver", "deliver", "say", "say"]), max_size=60),
    st.integers(0, 40),
    CUTS,
    CUTS,
)  # fmt: skip
def test_no_request_is_lost_that_was_sent_before_the_mark_could_be_read(
    requests, ahead, at_once, steps, when, cut_asked, cut_told
):
    wire = Wire(by_path)
    client, sides = Client(wire, requests, ahead), Sides(wire, cut_told)
    steps += ["send", *["deliver"] * 15, *["say"] * 15] * 8
    for at, step in enumerate(steps):
        if at == when:
            wire.conversation.finish(mark=True)
        if step == "send":
            client.send(cut_asked)
            if at_once:
                while client.on_the_way:
                    client.deliver()
        elif step == "deliver":
            client.deliver()
        else:
            sides.say()
    assert bytes(wire.client).count(MARK) == (1 if wire.over else 0)
    assert wire.over or client.answered == len(requests)
    if wire.over:
        assert wire.log == [(CLOSE_CLIENT,)]
        assert bytes(wire.client).rpartition(b"HTTP/1.1")[2].count(MARK) == 1
    lost = client.sent - client.answered
    # None but pipelined ones that had not arrived when the marked response began.
    assert lost == 0 if at_once else lost < ahead
