"""Responses that cannot be followed, and bytes that nobody asked for: a session's reach no client, the app is believed."""

from __future__ import annotations

import pytest
from http_wire import (
    APP,
    CLOSE_CLIENT,
    DEV,
    HOST,
    NEXT,
    PIN,
    RESET,
    RESET_CLIENT,
    TO_APP,
    TO_DEV,
    Wire,
    all_cuts,
    always,
    answer,
    assert_502,
    by_path,
    byte_by_byte,
    failed,
    post,
    request,
)

from tpnet.http.h1.grammar import MAX_HEAD

GET = request(b"GET /dev HTTP/1.1")
POST = post(b"Content-Length: 5", body=b"hello")
PUT = request(b"PUT /dev HTTP/1.1", b"Content-Length: 5", body=b"hello")


# Answers that cannot be followed. Of the session's nothing more reaches the client; the app is believed.

FIELDS = [
    b"Content-Length: 1\r\nContent-Length: 2",
    b"Content-Length: 1\r\nContent-Length: 1",
    b"Content-Length: +1",
    b"Content-Length: 1, 1",
    b"Content-Length:",
    b"Content-Length: 1\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: gzip",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Content-Length : 1",
    b"X: a\r\n b",
    b" X: a",
    b"X",
    b"X: a\rb",
    b"X: a\x00",
    b"X: a\nY: b",
    b": a",
    b"Content-Length: 99999999999999999999",
    b"X: " + b"a" * MAX_HEAD,
    b"X: \x01",
    b"X: a\r\n \r\nY: b",
]
MISFRAMED = [
    *(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n\r\nx" for fields in FIELDS),
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 103 Early\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 200 OK\n\nx",
    b"HTTP/2.0 200 OK\r\n\r\n",
    b"HTTP/1.1 20 OK\r\n\r\n",
    b"HTTP/1.1 2000 OK\r\n\r\n",
    b"HTTP/1.1  200 OK\r\n\r\n",
    b"\r\nHTTP/1.1 200 OK\r\n\r\n",
    b"hello",
    b"\x00\x00\x01",
    b"http/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 099 OK\r\n\r\n",
    b"HTTP/1.1 200 O\rK\r\n\r\n",
]


@pytest.mark.parametrize("told", MISFRAMED, ids=lambda told: repr(told[:60]))
def test_a_misframed_head_of_a_session_is_502_however_it_is_cut(told):
    for _, pieces in all_cuts(told, longest=300):
        wire = Wire(always).write(GET).say(DEV, *pieces)
        assert_502(wire)
        assert wire.client.count(b"HTTP/1.1") == 1
        assert wire.app == b""
        assert wire.log == [(RESET, DEV), (CLOSE_CLIENT,)]


@pytest.mark.parametrize("told", MISFRAMED, ids=lambda told: repr(told[:60]))
def test_an_answer_of_the_app_that_cannot_be_followed_is_passed_on(told):
    for _, pieces in all_cuts(told, longest=300):
        wire = Wire().write(GET + NEXT[:9]).say(APP, *pieces, b"more").write(NEXT[9:])
        assert wire.client == told + b"more"
        assert wire.app == GET + NEXT
        assert wire.log == [(PIN, APP)]
        assert wire.letters == ["F", "P"]


@pytest.mark.parametrize(
    "body", [b"0x5\r\nhello\r\n0\r\n\r\n", b"5\nhello", b"5\r\nhelloX", b"5\r\nhello\r\n0\r\nX : 1\r\n\r\n"]
)
def test_a_broken_chunk_in_an_answer(body):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for _, pieces in all_cuts(head + body):
        session = Wire(always).write(GET).say(DEV, *pieces)
        assert session.log == [(RESET_CLIENT,)]
        assert (head + body).startswith(bytes(session.client))
        app = Wire().write(GET).say(APP, *pieces)
        assert app.client == head + body
        assert app.log == [(PIN, APP)]


def test_a_broken_answer_after_a_good_one_and_after_an_interim_one():
    for before in (answer(b"1"), b"HTTP/1.1 100 Continue\r\n\r\n"):
        wire = Wire(always).write(GET + GET).say(DEV, before + b"oops")
        assert_502(wire, before)
        wire = Wire().write(GET + GET).say(APP, before + b"oops")
        assert wire.client == before + b"oops"
        assert wire.log == [(PIN, APP)]


EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_interim_answers_of_a_session_are_bounded(size):  # S63
    told = EARLY * 64 + b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"x")
    wire = Wire(always).write(GET).say(DEV, *(told[at : at + size] for at in range(0, len(told), size)))
    assert_502(wire, EARLY * 64)
    assert wire.log == [(RESET, DEV), (CLOSE_CLIENT,)]


def test_interim_answers_are_counted_per_request_and_the_apps_are_not():
    told = EARLY * 64 + answer(b"x")
    wire = Wire(always).write(GET + GET).say(DEV, told).say(DEV, told)
    assert wire.client == told * 2
    assert wire.conversation.idle
    wire = Wire().write(GET).say(APP, EARLY * 1000 + answer(b"x"))
    assert wire.client == EARLY * 1000 + answer(b"x")
    assert wire.conversation.idle


PADDED = [
    b"5 \r\nhello\r\n0\r\n\r\n",
    b"5\t ;a\r\nhello\r\n0 \r\n\r\n",
    b"5\r\nhello\r\n0\r\nContent-Length: 50\r\ntransfer-encoding: x\r\n\r\n",
]


@pytest.mark.parametrize("body", PADDED)
def test_padded_sizes_and_framing_trailers_of_an_answer_are_passed_on(body):  # S59, S60
    told = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    for side, verdict in ((APP, TO_APP), (DEV, TO_DEV)):
        for _, pieces in all_cuts(told + answer(b"next")):
            wire = Wire(lambda _head, verdict=verdict: verdict).write(GET + GET).say(side, *pieces)
            assert wire.client == told + answer(b"next")
            assert wire.conversation.idle


def test_an_answer_with_too_many_extensions_breaks_off():  # S62
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"1;" + b"a" * 1023 + b"\r\nx\r\n"
    wire = Wire(always).write(GET).say(DEV, head, *[chunk] * 20)
    assert wire.client == head + chunk * 16
    assert wire.log == [(RESET_CLIENT,)]
    wire = Wire().write(GET).say(APP, head, *[chunk] * 20)
    assert wire.client == head + chunk * 20
    assert wire.log == [(PIN, APP)]


def test_good_answers_then_half_a_head():
    half = answer(b"2")[:20]
    for side, verdict in ((APP, TO_APP), (DEV, TO_DEV)):
        wire = Wire(lambda _head, verdict=verdict: verdict).write(GET + GET).say(side, answer(b"1") + half)
        assert wire.client == answer(b"1")
        wire.say(side, answer(b"2")[20:])
        assert wire.client == answer(b"1") + answer(b"2")


# Surplus bytes.


@pytest.mark.parametrize("surplus", [b"x", b"\r\n", answer(b"evil"), b"HTTP/1.1 200 OK\r\n"])
def test_surplus_bytes_of_a_session_never_reach_the_client(surplus):
    for _, pieces in all_cuts(answer(b"x") + surplus):
        wire = Wire(always).write(GET).say(DEV, *pieces)
        assert wire.client == answer(b"x")
        assert wire.log == [(RESET, DEV), (CLOSE_CLIENT,)]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (request(b"HEAD / HTTP/1.1"), b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"),
        (GET, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\nabc"),
        (GET, b"HTTP/1.1 204 No Content\r\n\r\nabc"),
    ],
)
def test_a_body_where_none_may_be_is_surplus(asked, told):
    wire = Wire(always).write(asked).say(DEV, *byte_by_byte(told))
    assert wire.client == told[:-3]
    assert wire.log == [(RESET, DEV), (CLOSE_CLIENT,)]
    wire = Wire().write(asked).say(APP, told)
    assert wire.client == told
    assert wire.log == [(PIN, APP)]


def test_surplus_with_an_answer_that_says_close():
    last = answer(b"x", b"Connection: close")
    wire = Wire(always).write(GET).say(DEV, last + b"evil")
    assert wire.client == last
    assert wire.log == [(CLOSE_CLIENT,)]


def test_surplus_of_a_session_under_the_apps_answer_ends_the_connection_after_it():
    wire = Wire(by_path, {DEV: [(GET, answer(b"1"))]}).write(GET, NEXT).say(DEV, b"evil")
    assert wire.log == [(RESET, DEV)]
    wire.say(APP, answer(b"2"))
    assert wire.client == answer(b"1") + answer(b"2")
    assert wire.log == [(RESET, DEV), (CLOSE_CLIENT,)]


def test_a_session_that_speaks_before_it_is_asked():
    wire = Wire(by_path).say(DEV, b"evil")
    assert wire.client == b""
    assert wire.log == [(RESET, DEV), (CLOSE_CLIENT,)]


def test_surplus_while_a_request_waits_for_its_turn():
    wire = Wire(by_path).write(GET + NEXT).say(DEV, answer(b"x") + b"evil")
    assert wire.client == answer(b"x")
    assert wire.app == b""
    assert wire.log == [(RESET, DEV), (CLOSE_CLIENT,)]


def test_no_host_is_needed_for_any_of_this():
    bare = GET.replace(HOST, b"")
    wire = failed(Wire(always, {APP: [(bare, answer(b"x"))]}).write(bare), delivered=False)
    assert wire.client == answer(b"x")
