"""The short ways through the parser and the conversation come to the same as the long ones."""

from __future__ import annotations

import re

import pytest
from http_wire import (
    APP,
    CLOSE_CLIENT,
    DEV,
    HOST,
    NEXT,
    TO_APP,
    TO_DEV,
    Conversation,
    Wire,
    answer,
    post,
    request,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from test_http_splits import CUTS, by_path, exchanges, gone_wrong

from tpnet.http.h1 import head as heads
from tpnet.http.h1 import response as responses
from tpnet.http.h1.grammar import MAX_HEAD, Bad, Memo
from tpnet.http.h1.head import RequestHead, read_request

SETTINGS = settings(max_examples=500, deadline=None)


class TheLongWay(Conversation):
    """Without the two hot paths."""

    __slots__ = ()

    def client_data(self, data):
        return self._client_data(data)

    def upstream_data(self, side, data):
        return self._upstream_data(side, data)


class Recorded(Wire):
    """Notes every command."""

    def __init__(self, kind, decide, scripts=None, cut=lambda data: [data]):
        self.kind = kind
        super().__init__(decide, scripts, cut)
        self.commands = []

    def do(self, commands):
        self.commands.append(list(commands))
        return super().do(commands)


def told(scripts, cut, pieces, route):
    seen = []
    for kind in (Conversation, TheLongWay):
        wire = Recorded(kind, route, scripts, cut)
        for piece in pieces:
            wire.write(piece)
            now = wire.conversation
            state = now.idle, now.undecided, now.reading_client, now.holding, now.client_splice
            wire.commands.append([*state, *(now.upstream_splice(side) for side in (APP, DEV))])
        if now.reading_client and not now.over:
            wire.do(now.client_eof())
        for side in (APP, DEV):
            if not wire.over:
                wire.do(wire.conversation.upstream_eof(side))
        seen.append((wire.commands, wire.events, wire.outcome()))
    return seen


ROUTES = st.sampled_from([lambda _head: TO_APP, lambda _head: TO_DEV, by_path])


@SETTINGS
@given(st.lists(exchanges(), min_size=1, max_size=5), CUTS, st.booleans(), ROUTES)
def test_a_conversation_is_the_same_without_the_hot_paths(conversation, cut_told, one_by_one, route):
    scripts = {
        side: [(one.asked, one.told) for one in conversation if one.side == side] for side in (APP, DEV)
    }
    asked = [one.asked for one in conversation]
    quick, slow = told(scripts, cut_told, asked if one_by_one else [b"".join(asked)], route)
    assert quick == slow


@SETTINGS
@given(st.lists(gone_wrong(), min_size=1, max_size=3), gone_wrong(), CUTS, ROUTES)
def test_bytes_gone_wrong_are_the_same_without_the_hot_paths(asked, said, cut, route):
    said = said.replace(b"GET /next HTTP/1.1", b"HTTP/1.1 200 OK").replace(b"POST /x", b"HTTP/1.1 200")
    scripts = {side: [(b"x", said)] * 3 for side in (APP, DEV)}
    quick, slow = told(scripts, cut, [piece for piece in asked if piece], route)
    assert quick == slow


def seen_of(head):
    if not isinstance(head, RequestHead):
        return head if isinstance(head, Bad) else type(head)
    slots = (getattr(head, name) for name in RequestHead.__slots__ if not name.startswith("_"))
    return *slots, head.path, sorted(head.names()), [head.values(name) for name in sorted(head.names())]


@SETTINGS
@given(gone_wrong())
def test_a_head_read_from_memory_is_the_head_read_anew(data):
    known = [heads._fields_of.__self__, heads._line_of.__self__]
    for one in known:
        one.clear()
    anew = seen_of(read_request(data))
    from_lines = (known[0].clear(), seen_of(read_request(data)))[1]
    assert anew == from_lines == seen_of(read_request(data))


@SETTINGS
@given(gone_wrong(), st.sampled_from([heads.PLAIN, heads.HEAD, heads.CONNECT]))
def test_an_answer_read_from_memory_is_the_answer_read_anew(data, kind):
    data = data.replace(b"GET /next HTTP/1.1", b"HTTP/1.1 200 OK").replace(
        b"POST /x HTTP/1.1", b"HTTP/1.1 204 "
    )
    known = [responses._head_of.__self__, responses._line_of.__self__]
    seen = []
    for clear in (known, known[:1], []):
        for one in clear:
            one.clear()
        read = responses.read_response(data, 0, kind)
        seen.append(read if isinstance(read, tuple) else type(read))
    assert seen[0] == seen[1] == seen[2]


WHOLE = re.compile(
    rb"(?:\r\n)*[!#$%&'*+\-.^_`|~0-9A-Za-z]+ [!-~\x80-\xff]+ HTTP/1\.[01]\r\n"
    rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*\r\n)*\r\n"
).match


@settings(max_examples=1500, deadline=None)
@given(gone_wrong())
def test_a_head_is_plain_if_one_expression_for_the_whole_accepts_it(data):
    head, match = read_request(data), WHOLE(data)
    if match is None:
        assert not isinstance(head, RequestHead) or head.reason
    elif isinstance(head, RequestHead):
        assert head.raw == match[0]
        lines = head.raw.lstrip(b"\r\n").split(b"\r\n")[1:-2]
        named = {b"host"} if head.target.startswith(b"http:") else set()
        assert head.names() == named | {line.partition(b":")[0].lower() for line in lines}
    else:
        assert isinstance(head, Bad)


@pytest.mark.parametrize(
    "field", [b"Connection: keep-alive", b"connection:Keep-Alive ", b"Connections: close"]
)
def test_what_keeps_a_connection_open_changes_nothing(field):
    head = read_request(request(b"GET / HTTP/1.1", field))
    assert (head.close, head.kind, head.reason) == (False, heads.PLAIN, "")


@pytest.mark.parametrize(
    "fields",
    [
        [b"Connection: close"],
        [b"connection:Close "],
        [b"Connection: keep-alive, close"],
        [b"connection: close"] * 2,
    ],
)
def test_what_ends_a_connection(fields):
    assert read_request(request(b"GET / HTTP/1.1", *fields)).close
    wire = Wire(lambda _head: TO_APP).write(request(b"GET / HTTP/1.1", *fields)).say(APP, answer(b"x"))
    assert wire.log == [(CLOSE_CLIENT,)]
    wire = Wire(lambda _head: TO_APP).write(NEXT).say(APP, answer(b"x", *fields))
    assert wire.log == [(CLOSE_CLIENT,)]


@pytest.mark.parametrize("length", [b"00005", b"5 ", b"99999999999999", b"000000000000000000005"])
def test_lengths_of_answers_are_numbers(length):
    data = b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n\r\nhello"
    assert responses.read_response(data, 0, heads.PLAIN)[2] == int(length)


def test_two_lengths_of_an_answer_are_no_length():
    data = b"HTTP/1.1 200 OK\r\n" + b"Content-Length: 5\r\n" * 2 + b"\r\n"
    assert isinstance(responses.read_response(data, 0, heads.PLAIN), Bad)


def test_a_request_of_thousands_of_lines_is_read_as_any_other():
    fields = [b"Host: a"] * 8000
    head = read_request(b"GET / HTTP/1.1\r\n" + b"\r\n".join(fields)[: MAX_HEAD - 100] + b"\r\n\r\n")
    assert head.reason == "it has more than one Host line"


def test_names_of_a_folded_head():
    head = read_request(request(b"GET / HTTP/1.1", b"X-A: b", b" c", b"x-D: e"))
    assert head.names() == {b"host", b"x-a", b"x-d"}


def test_what_is_known_is_bounded_and_read_once():
    read = []

    def length(piece):
        read.append(piece)
        return len(piece)

    known = Memo(length)
    assert known[b"one"] == known[b"one"] == 3
    assert read == [b"one"]
    assert known[b"x" * 5000] == known[b"x" * 5000] == 5000
    assert len(read) == 3
    for number in range(5000):
        assert known[b"%d" % number]
    assert len(known) <= 1024


def test_a_body_in_one_piece_takes_the_long_way_with_the_head_that_was_read():
    wire = Wire(lambda _head: TO_APP).write(post(b"Content-Length: 5", body=b"hello"))
    assert wire.app == post(b"Content-Length: 5", body=b"hello")
    assert wire.letters == ["F"]
    assert HOST in wire.app
