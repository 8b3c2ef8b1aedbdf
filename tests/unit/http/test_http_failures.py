"""A session's end that fails, ends, or answers what it must not: what the client and the app get then."""

from __future__ import annotations

import pytest
from http_wire import (
    APP,
    CLOSE_CLIENT,
    DEV,
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
    always,
    answer,
    assert_502,
    by_path,
    chunked,
    failed,
    post,
    request,
)

from tpnet.http.h1.exchange import KEEP

GET = request(b"GET /dev HTTP/1.1")
POST = post(b"Content-Length: 5", body=b"hello")
PUT = request(b"PUT /dev HTTP/1.1", b"Content-Length: 5", body=b"hello")


# What is asked again over a fresh connection, where a kept one has ended.


def kept(*requests, end="eof", **options):
    """A conversation whose session has answered once, is asked more over that connection, and then ends or breaks it."""
    wire = Wire(always).write(GET).say(DEV, answer(b"1"))
    wire.received[DEV].clear()
    wire.write(*requests)
    asked = wire.dev
    wire.received[DEV].clear()
    return asked, lose(wire, end, **options)


def lose(wire, end="eof", *, delivered=True, again=True, unseen=False):
    if end == "eof":
        return wire.do(wire.conversation.upstream_eof(DEV, unseen=unseen))
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


@pytest.mark.parametrize("requests", [(POST,), (POST, GET), (GET, POST), (POST, POST)])
def test_what_the_handler_surely_has_not_seen_is_asked_again_whatever_its_method(requests):
    asked, wire = kept(*requests, unseen=True)
    assert wire.dev == asked == b"".join(requests)
    assert wire.app == b""
    wire.do(wire.conversation.upstream_confirmed(DEV))
    wire.say(DEV, *[answer(b"2") for _ in requests])
    assert wire.client == answer(b"1") + answer(b"2") * len(requests)


def test_what_a_fresh_connection_has_surely_not_seen_either_is_the_apps():
    _, wire = kept(POST, unseen=True)
    lose(wire, unseen=True)
    assert wire.app == POST
    wire = lose(Wire(always).write(POST), unseen=True)
    assert (wire.dev, wire.app) == (POST, POST)


def test_a_request_that_was_sent_before_the_last_response_came_may_have_been_seen():
    wire = Wire(always).write(GET).say(DEV, answer(b"1")).write(POST, POST).say(DEV, answer(b"2"))
    wire.received[DEV].clear()
    lose(wire, unseen=True)
    assert wire.dev == wire.app == b""
    assert_502(wire, answer(b"1") + answer(b"2"))


@pytest.mark.parametrize(
    "said", [b"\r\n", b"H", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent"]
)
def test_after_any_byte_of_an_answer_it_was_seen(said):
    wire = Wire(always).write(GET).say(DEV, answer(b"1")).write(POST).say(DEV, said)
    wire.received[DEV].clear()
    if not wire.over:
        lose(wire, unseen=True)
    assert wire.dev == wire.app == b""
    assert b"502" in wire.client


def test_a_body_that_was_not_kept_is_not_asked_again_though_it_was_not_seen():
    wire = Wire(always).write(GET).say(DEV, answer(b"1"))
    wire.write(request(b"POST /dev HTTP/1.1", b"Content-Length: %d" % KEEP, body=b"x"))
    wire.received[DEV].clear()
    lose(wire, unseen=True)
    assert wire.dev == wire.app == b""
    assert_502(wire, answer(b"1"))


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
