"""A session's end that fails, ends, or answers what it must not: what the client and the app get then."""

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
    SHUT,
    SHUT_CLIENT,
    TO_APP,
    TO_DEV,
    Outcome,
    Verdict,
    Wire,
    all_cuts,
    answer,
    byte_by_byte,
    chunked,
    post,
    request,
)

from tpnet.http.h1.exchange import KEEP
from tpnet.http.h1.grammar import MAX_HEAD

GET = request(b"GET /dev HTTP/1.1")
POST = post(b"Content-Length: 5", body=b"hello")
PUT = request(b"PUT /dev HTTP/1.1", b"Content-Length: 5", body=b"hello")


def always(_head):
    return TO_DEV


def by_path(head):
    return TO_DEV if head.path.startswith(b"/dev") else TO_APP


def failed(wire, *, delivered):
    wire.do(wire.conversation.upstream_failed(DEV, "lost", delivered=delivered))
    wire._pump()
    return wire


def assert_502(wire, before=b""):
    assert wire.client.startswith(before + b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"\r\nConnection: close\r\n" in wire.client[len(before) :]
    assert wire.log[-1] == (CLOSE_CLIENT,)
    assert wire.letters[-1] == "failed"


# What is asked again over a fresh connection, where a kept one has ended.


def kept(*requests, end="eof", **options):
    """A conversation whose session has answered once, is asked more over that connection, and then ends or breaks it."""
    wire = Wire(always).write(GET).say(DEV, answer(b"1"))
    wire.received[DEV].clear()
    wire.write(*requests)
    asked = wire.dev
    wire.received[DEV].clear()
    return asked, lose(wire, end, **options)


def lose(wire, end="eof", *, delivered=True, again=True):
    if end == "eof":
        return wire.do(wire.conversation.upstream_eof(DEV))
    return wire.do(wire.conversation.upstream_failed(DEV, "lost", delivered=delivered, again=again))


@pytest.mark.parametrize("end", ["eof", "broken"])
@pytest.mark.parametrize("requests", [(GET,), (PUT,), (GET, GET), (PUT, GET)])
def test_what_a_kept_connection_did_not_answer_is_asked_again_over_a_fresh_one(requests, end):
    asked, wire = kept(*requests, end=end)
    assert wire.dev == asked == b"".join(requests)
    assert wire.app == b""
    assert (RESET, DEV) in wire.log or end == "broken"
    wire.do(wire.conversation.upstream_confirmed(DEV))
    wire.say(DEV, *[answer(b"2") for _ in requests])
    assert wire.client == answer(b"1") + answer(b"2") * len(requests)
    assert wire.letters == ["F"] * (1 + len(requests))


@pytest.mark.parametrize("end", ["eof", "broken"])
def test_it_is_asked_once_more_and_not_twice(end):
    _, wire = kept(GET, end=end)
    lose(wire, end)
    assert wire.app == GET
    wire.say(APP, answer(b"2"))
    assert wire.client == answer(b"1") + answer(b"2")


def test_what_must_not_be_sent_twice_is_not_unless_it_surely_was_not_delivered():
    for end in ("eof", "broken"):
        _, wire = kept(POST, end=end)
        assert wire.dev == wire.app == b""
        assert_502(wire, answer(b"1"))
    asked, wire = kept(POST, end="broken", delivered=False)
    assert wire.dev == asked == POST


def test_one_request_that_must_not_be_sent_twice_keeps_those_with_it_from_it():
    _, wire = kept(GET, POST)
    assert wire.dev == b""
    assert wire.app == GET
    wire.say(APP, answer(b"2"))
    assert_502(wire, answer(b"1") + answer(b"2"))


def test_a_session_to_which_there_is_no_way_is_not_asked_again():
    _, wire = kept(GET, end="broken", again=False)
    assert (wire.dev, wire.app) == (b"", GET)


def test_a_first_request_is_not_asked_again():
    for end in ("eof", "broken"):
        wire = lose(Wire(always).write(GET), end)
        assert (wire.dev, wire.app) == (GET, GET)


@pytest.mark.parametrize("said", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent"])
@pytest.mark.parametrize("end", ["eof", "broken"])
def test_after_any_byte_of_an_answer_nothing_is_asked_again(said, end):
    wire = Wire(always).write(GET).say(DEV, answer(b"1")).write(GET).say(DEV, said)
    wire.received[DEV].clear()
    lose(wire, end)
    assert wire.dev == wire.app == b""


def test_a_client_that_has_half_closed_has_so_towards_the_fresh_connection_too():
    wire = Wire(always).write(GET).say(DEV, answer(b"1")).write(GET)
    wire.do(wire.conversation.client_eof())
    lose(wire)
    assert wire.log == [(SHUT, DEV), (RESET, DEV), (SHUT, DEV)]
    wire.say(DEV, answer(b"2"))
    assert wire.log[-1] == (CLOSE_CLIENT,)


def test_a_held_request_is_held_from_the_fresh_connection_too():
    head = b"PUT /dev HTTP/1.1"
    whole = request(head, b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n0\r\n\r\n")
    wire = Wire(always).write(GET).say(DEV, answer(b"1"))
    wire.received[DEV].clear()
    wire.write(whole[:-7])
    lose(wire)
    assert wire.conversation.holding
    assert wire.dev == b""
    wire.write(whole[-7:])
    assert wire.dev == whole
    wire.say(DEV, answer(b"2"))
    assert wire.client == answer(b"1") + answer(b"2")


# What may be given to the app.


@pytest.mark.parametrize(
    "data", [GET, POST, PUT, chunked(b"5\r\nhello\r\n0\r\n\r\n"), request(b"SPECIAL / HTTP/1.1")]
)
def test_what_was_not_delivered_goes_to_the_app_once(data):  # F01, F02
    for _, pieces in all_cuts(data):
        wire = failed(Wire(always, {APP: [(data, answer(b"app"))]}).write(*pieces), delivered=False)
        assert wire.app == data
        assert wire.client == answer(b"app")
        assert wire.letters == ["F", "fallback"]
        assert wire.log == []
        assert wire.conversation.idle


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"])
def test_what_was_delivered_goes_to_the_app_if_it_may_be_sent_twice(method):  # F03
    data = request(method + b" /dev HTTP/1.1")
    wire = failed(Wire(always).write(data), delivered=True)
    assert wire.app == data
    wire.say(APP, answer(b"" if method == b"HEAD" else b"app"))
    assert wire.conversation.idle


@pytest.mark.parametrize("method", [b"POST", b"PATCH", b"LOCK", b"get"])
def test_what_was_delivered_and_must_not_be_sent_twice_is_502(method):
    wire = failed(Wire(always).write(request(method + b" /dev HTTP/1.1") + NEXT), delivered=True)
    assert wire.app == b""
    assert_502(wire)
    assert wire.events[-1][1:] == (TO_DEV, "lost")


def test_502_to_a_head_request_has_no_body():
    wire = Wire(lambda _head: Verdict(Outcome.FORWARD, DEV, on_failure_app=False)).write(
        request(b"HEAD / HTTP/1.1")
    )
    failed(wire, delivered=False)
    assert_502(wire)
    assert wire.client.endswith(b"\r\n\r\n")


def test_a_route_may_ask_for_errors():
    wire = failed(
        Wire(lambda _head: Verdict(Outcome.FORWARD, DEV, on_failure_app=False)).write(GET), delivered=False
    )
    assert wire.app == b""
    assert_502(wire)


def test_a_body_under_way_goes_on_to_the_app():
    start = request(b"PUT /dev HTTP/1.1", b"Content-Length: 100000", body=bytes(10_000))
    wire = failed(Wire(always).write(start), delivered=True)
    assert wire.app == start
    wire.write(bytes(90_000), NEXT)
    assert wire.app == start + bytes(90_000)
    wire.say(APP, answer(b"x"))
    assert wire.dev == start + NEXT


def test_a_body_that_waits_for_its_confirmation_goes_to_the_app_whatever_its_size():  # F01
    size = 1 << 20
    data = post(b"Content-Length: %d" % size, body=bytes(size))
    pieces = [data[at : at + 65_536] for at in range(0, len(data), 65_536)]
    wire = Wire(always, {APP: [(data, answer(b"app"))]}).write(*pieces)
    assert not wire.conversation.reading_client
    failed(wire, delivered=False)
    assert wire.app == data
    assert wire.client == answer(b"app")
    assert wire.conversation.reading_client


def test_a_body_that_was_not_kept_is_502():
    wire = Wire(always)
    wire.do(wire.conversation.upstream_confirmed(DEV))
    wire.write(request(b"PUT /dev HTTP/1.1", b"Content-Length: %d" % KEEP, body=b"x"))
    assert_502(failed(wire, delivered=True))


def test_a_chunked_body_is_kept_up_to_a_bound():
    for size, kept in ((KEEP - 1000, True), (KEEP, False)):
        wire = Wire(always)
        wire.do(wire.conversation.upstream_confirmed(DEV))
        data = request(b"PUT /dev HTTP/1.1", b"Transfer-Encoding: chunked")
        for piece in (data, b"%x\r\n" % size, bytes(size), b"\r\n0\r\n\r\n"):
            wire.write(piece)
        failed(wire, delivered=True)
        assert (wire.app != b"") == kept
        assert wire.over != kept


def test_bytes_sent_while_held_are_counted_once_released():
    wire = Wire(always)
    wire.do(wire.conversation.upstream_confirmed(DEV))
    wire.write(chunked(b"20000\r\n"), bytes(KEEP + 1))
    assert wire.conversation._state.exchanges.kept == 0
    assert_502(failed(wire, delivered=True))


def test_a_request_that_was_sent_at_once_is_kept_up_to_a_bound():
    head = request(b"PUT /dev HTTP/1.1", b"Expect: 100-continue", b"Transfer-Encoding: chunked")
    for size, kept in ((KEEP - 1000, True), (KEEP, False)):
        wire = Wire(always)
        wire.do(wire.conversation.upstream_confirmed(DEV))
        wire.write(head, b"%x\r\n" % size, bytes(size), b"\r\n0\r\n\r\n")
        failed(wire, delivered=True)
        assert (wire.app != b"") == kept


def test_a_400_that_is_due_is_still_given_when_the_session_fails():
    wire = Wire(always).write(GET + chunked(b"5\r\nhello\r\n"))
    wire.do(wire.conversation.release_held())
    wire.write(b"zz")
    failed(wire, delivered=True)
    assert wire.app == GET
    wire.say(APP, answer(b"x"))
    assert wire.client.startswith(answer(b"x") + b"HTTP/1.1 400 ")
    assert wire.log == [(CLOSE_CLIENT,)]


def test_an_upgrade_goes_to_the_app_too():
    websocket = request(b"GET /dev HTTP/1.1", b"Connection: upgrade", b"Upgrade: websocket")
    wire = failed(Wire(always).write(websocket + b"\x81\x00"), delivered=True)
    wire.say(APP, b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    assert wire.app == websocket + b"\x81\x00"
    assert wire.log == [(PIN, APP)]


def test_pipelined_requests_go_to_the_app_up_to_the_first_that_must_not():
    wire = failed(Wire(always).write(GET + PUT + POST + GET), delivered=True)
    assert wire.app == GET + PUT
    assert wire.client == b""
    wire.say(APP, answer(b"1"))
    assert wire.log == []
    wire.say(APP, answer(b"2"))
    assert_502(wire, answer(b"1") + answer(b"2"))
    assert wire.letters == ["F"] * 4 + ["fallback", "fallback", "failed"]


def test_pipelined_requests_of_which_one_was_answered():
    wire = failed(Wire(always).write(GET + PUT).say(DEV, answer(b"1")), delivered=True)
    assert wire.app == PUT
    wire.say(APP, answer(b"2"))
    assert wire.client == answer(b"1") + answer(b"2")


def test_a_request_that_waits_behind_a_failed_one_keeps_its_place():
    wire = failed(Wire(by_path).write(GET + NEXT), delivered=True)
    assert wire.app == GET
    wire.say(APP, answer(b"1"))
    assert wire.app == GET + NEXT
    wire.say(APP, answer(b"2"))
    assert wire.client == answer(b"1") + answer(b"2")
    wire = failed(Wire(by_path).write(PUT.replace(b"PUT", b"ADD") + NEXT), delivered=True)
    assert wire.app == b""
    assert_502(wire)


def test_a_client_that_has_half_closed_has_so_towards_the_app_too():
    wire = Wire(always).write(GET)
    wire.do(wire.conversation.client_eof())
    failed(wire, delivered=True)
    assert wire.app == GET
    assert wire.log == [(SHUT, DEV), (SHUT, APP)]
    wire.say(APP, answer(b"x"))
    assert wire.log[-1] == (CLOSE_CLIENT,)


def test_a_held_request_goes_to_the_app_and_is_held_no_more():
    wire = failed(Wire(always).write(GET + chunked(b"5\r\nhel")), delivered=True)
    assert wire.app == GET
    assert not wire.conversation.holding
    wire.say(APP, answer(b"1"))
    assert_502(wire, answer(b"1"))


def test_an_app_that_has_gone_meanwhile_is_dialled_anew():
    wire = Wire(always).write(GET)
    wire.do(wire.conversation.upstream_eof(APP))
    failed(wire, delivered=False)
    assert wire.app == GET
    wire.say(APP, answer(b"x"))
    assert wire.client == answer(b"x")
    assert wire.log == [(RESET, APP)]
    assert wire.conversation.idle


# A session that is known not to be there.

FAIL = TO_DEV._replace(outcome=Outcome.FAIL, reason="session down", on_failure_app=False)


def fails_dev(head):
    return FAIL if head.path.startswith(b"/dev") else TO_APP


@pytest.mark.parametrize(
    "data", [GET, PUT, request(b"HEAD /dev HTTP/1.1"), request(b"PUT /dev HTTP/1.1", b"Content-Length: 9")]
)
def test_a_request_to_a_session_that_is_known_to_be_down_is_502_in_its_turn(data):
    for _, pieces in all_cuts(NEXT + data + NEXT):
        wire = Wire(fails_dev).write(*pieces)
        assert (wire.app, wire.dev, wire.client) == (NEXT, b"", b"")
        wire.say(APP, answer(b"1"))
        assert wire.client.startswith(answer(b"1") + b"HTTP/1.1 502 ")
        assert (b"session down" in wire.client) == (not data.startswith(b"HEAD"))
        assert wire.log == [(CLOSE_CLIENT,)]
        assert wire.events[1:] == [("E", FAIL, "session down")]
        assert (wire.app, wire.dev) == (NEXT, b"")


def test_a_first_request_to_a_session_that_is_known_to_be_down_is_502():
    wire = Wire(fails_dev).write(GET + NEXT)
    assert (wire.app, wire.dev) == (b"", b"")
    assert wire.client.startswith(b"HTTP/1.1 502 ")
    assert wire.events == [("E", FAIL, "session down")]


def test_what_the_driver_says_of_a_failure_is_what_is_counted_and_told():
    wire = Wire(lambda _head: FAIL._replace(outcome=Outcome.FORWARD)).write(GET)
    wire.do(wire.conversation.upstream_failed(DEV, "handler refused", delivered=False))
    assert wire.events[-1][0] == "failed"
    assert wire.events[-1][2] == "handler refused"
    assert b"the handler did not answer: handler refused." in wire.client


# Answers that break off.

CUT_SHORT = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nx",
]


@pytest.mark.parametrize("told", CUT_SHORT)
def test_an_answer_that_a_failure_cuts_short_ends_in_a_reset(told):  # F04
    wire = failed(Wire(always).write(GET).say(DEV, told), delivered=True)
    assert wire.client == told
    assert wire.log == [(RESET_CLIENT,)]
    assert wire.app == b""
    assert wire.letters == ["F", "failed"]


@pytest.mark.parametrize("told", CUT_SHORT[:3])
def test_an_answer_that_its_end_cuts_short_is_visibly_short(told):
    wire = Wire(always).write(GET).say(DEV, told)
    wire.do(wire.conversation.upstream_eof(DEV))
    assert wire.client == told
    assert wire.log == [(CLOSE_CLIENT,)]
    assert wire.letters == ["F", "failed"]


def test_a_session_that_ends_without_an_answer_has_failed():
    wire = Wire(always).write(GET)
    wire.do(wire.conversation.upstream_eof(DEV))
    assert wire.app == GET
    assert wire.log == [(RESET, DEV)]
    wire = Wire(always).write(POST)
    wire.do(wire.conversation.upstream_eof(DEV))
    assert_502(wire)


@pytest.mark.parametrize("said", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent"])
def test_after_any_byte_of_an_answer_nothing_is_sent_again(said):
    for end in ("eof", "failed"):
        wire = Wire(always).write(GET).say(DEV, said)
        seen = bytes(wire.client)
        if end == "eof":
            wire.do(wire.conversation.upstream_eof(DEV))
        else:
            failed(wire, delivered=True)
        assert wire.app == b""
        assert_502(wire, seen)


@pytest.mark.parametrize("told", [answer(b"x"), b"HTTP/1.1 200 OK\r\n\r\nx"])
@pytest.mark.parametrize("side", [APP, DEV])
def test_a_side_that_has_answered_and_half_closes_still_gets_the_rest_of_an_upload(side, told):  # S67
    asked = post(b"Content-Length: 9", body=b"x")
    wire = Wire(always if side == DEV else lambda _head: TO_APP).write(asked).say(side, told)
    wire.do(wire.conversation.upstream_eof(side))
    assert wire.client == told
    assert wire.log == [(SHUT_CLIENT,)]
    wire.write(b"12345", b"678" + NEXT)
    assert wire.received[side] == asked + b"12345678"
    assert wire.log == [(SHUT_CLIENT,), (CLOSE_CLIENT,)]


@pytest.mark.parametrize("half_closed", [True, False])
def test_a_session_that_has_answered_and_fails_under_an_upload(half_closed):
    wire = Wire(always).write(post(b"Content-Length: 9", body=b"x")).say(DEV, answer(b"x"))
    if half_closed:
        wire.do(wire.conversation.upstream_eof(DEV))
    failed(wire, delivered=True)
    assert wire.client == answer(b"x")
    assert wire.log[-1] == (CLOSE_CLIENT,)
    assert wire.letters == ["F"]


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
