"""Expect: 100-continue: whose bytes come next is known, or the connection ends."""

from __future__ import annotations

import pytest
from http_wire import (
    APP,
    CLOSE_CLIENT,
    DEV,
    EOF_ANSWER,
    GET_DEV,
    HELLO,
    NEXT,
    Wire,
    all_cuts,
    always,
    answer,
    post,
    to,
)

from tpnet.http.h1.exchange import KEEP


def test_100_continue_comes_from_the_side_or_not_at_all(side):  # S42
    head = post(b"Expect: 100-continue", b"Transfer-Encoding: chunked")
    wire = Wire(to(side)).write(head)
    assert wire.received[side] == head
    assert wire.client == b""
    wire.say(side, b"HTTP/1.1 100 Continue\r\n\r\n").write(HELLO).say(side, answer(b"x"))
    assert wire.received[side] == head + HELLO
    assert wire.client == b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"x")
    assert wire.conversation.idle


EXPECTS = [
    post(b"Expect: 100-continue", b"Content-Length: 5"),
    post(b"Expect: 100-continue", b"Content-Length: 1000000"),
    post(b"expect: 100-Continue", b"Transfer-Encoding: chunked"),
    post(b"Expect: else", b"Content-Length: 5"),
]
FINAL = [
    answer(b"no", status=b"417 Expectation Failed"),
    answer(b"yes"),
    b"HTTP/1.1 103 Early Hints\r\n\r\n" + answer(b"no", status=b"401 Unauthorized"),
    b"HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n" + HELLO,
    answer(b"no", b"Connection: close", status=b"417 Expectation Failed"),
]


@pytest.mark.parametrize("said", FINAL)
@pytest.mark.parametrize("head", EXPECTS)
@pytest.mark.parametrize("after", [b"hello", b"GET", GET_DEV, HELLO, NEXT + NEXT])
def test_after_a_final_answer_instead_of_100_nothing_more_is_forwarded(side, head, said, after):  # S64
    """Whether the next bytes are the body or another request cannot be told (RFC 9110, 10.1.1)."""
    for _, pieces in all_cuts(said):
        wire = Wire(to(side)).write(NEXT + head).say(side, answer(b"1"))
        for piece in pieces:
            wire.say(side, piece)
            if not wire.over and bytes(wire.client).rpartition(b"HTTP/1.1 ")[2][:1] == b"4":
                wire.write(after)
        wire.write(after)
        assert wire.received[side] == NEXT + head
        assert wire.received[APP if side == DEV else DEV] == b""
        assert wire.client == answer(b"1") + said
        assert wire.log == [(CLOSE_CLIENT,)]


@pytest.mark.parametrize("surplus", [b"x", answer(b"more")])
def test_what_follows_a_final_answer_instead_of_100_opens_no_way_to_its_side(side, surplus):
    no = answer(b"no", status=b"417 Expectation Failed")
    for pieces in ([no + surplus], [no[:-1], no[-1:] + surplus], [no, surplus]):
        wire = Wire(to(side)).write(EXPECTS[0])
        for piece in pieces:
            wire.say(side, piece).write(NEXT)
        assert wire.received[side] == EXPECTS[0]
        assert wire.client == no + (surplus if side is APP and len(pieces[-1]) > len(surplus) else b"")
        assert wire.log == [(CLOSE_CLIENT,)]


def test_a_final_answer_without_length_instead_of_100_ends_with_its_connection(side):
    wire = Wire(to(side)).write(EXPECTS[0]).say(side, EOF_ANSWER + b"a").write(NEXT).say(side, b"b")
    assert wire.client == EOF_ANSWER + b"ab"
    wire.do(wire.conversation.upstream_eof(side))
    assert wire.received[side] == EXPECTS[0]
    assert wire.log == [(CLOSE_CLIENT,)]


@pytest.mark.parametrize("first", [b"h", b"hello"])
def test_a_final_answer_to_a_body_that_has_begun_is_as_any_other(side, first):
    head = EXPECTS[0]
    no = answer(b"no", status=b"417 Expectation Failed")
    wire = Wire(to(side)).write(head, first).say(side, no).write(b"hello"[len(first) :] + NEXT)
    wire.say(side, answer(b"x"))
    assert wire.received[side] == head + b"hello" + NEXT
    assert wire.client == no + answer(b"x")


def test_a_final_answer_after_100_is_as_any_other(side):
    told = b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"no")
    wire = Wire(to(side)).write(EXPECTS[0]).say(side, told).write(b"hello" + NEXT).say(side, answer(b"x"))
    assert wire.received[side] == EXPECTS[0] + b"hello" + NEXT
    assert wire.client == told + answer(b"x")


def test_a_final_answer_to_a_body_that_is_on_hold_is_as_any_other():
    size = KEEP * 2
    head = post(b"Expect: 100-continue", b"Content-Length: %d" % size)
    wire = Wire(always).write(head, bytes(KEEP), bytes(KEEP))
    assert not wire.conversation.reading_client
    wire.say(DEV, answer(b"no"))
    assert wire.dev == head + bytes(size)
    assert wire.log == []


def test_a_body_that_was_spliced_has_begun():
    wire = Wire().write(EXPECTS[1])
    wire.do(wire.conversation.client_spliced(10)).say(APP, answer(b"no"))
    assert wire.log == []
    wire.do(wire.conversation.client_spliced(1_000_000 - 10)).write(NEXT)
    assert wire.app == EXPECTS[1] + NEXT
