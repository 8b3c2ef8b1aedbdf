"""Who speaks first, who says nothing, and how a conversation ends."""

from __future__ import annotations

import pytest
from http_wire import (
    APP,
    CLOSE_CLIENT,
    DEV,
    GET_APP,
    GET_DEV,
    NEXT,
    PIN,
    RESET,
    RESET_CLIENT,
    SHUT,
    SHUT_CLIENT,
    SWITCHING,
    WEBSOCKET,
    Wire,
    always,
    answer,
    by_path,
    chunked,
    post,
    request,
    to,
)

# Who speaks first, who says nothing.


def test_an_app_that_speaks_first_is_pinned():  # S56
    wire = Wire(always)
    wire.say(APP, b"220 mail.test ESMTP\r\n")
    assert wire.client == b"220 mail.test ESMTP\r\n"
    assert wire.log == [(PIN, APP)]
    wire.write(GET_DEV)
    assert wire.app == GET_DEV


def test_an_app_that_speaks_during_the_first_head_is_pinned():
    wire = Wire(always).write(GET_DEV[:30]).say(APP, b"408")
    assert wire.app == GET_DEV[:30]
    assert wire.client == b"408"
    assert wire.log == [(PIN, APP)]


def test_an_app_that_speaks_between_messages_is_pinned():
    told = answer(b"bye", status=b"408 Request Timeout")
    wire = Wire().write(GET_APP).say(APP, answer(b"x")).say(APP, told)
    assert wire.client == answer(b"x") + told
    assert wire.log == [(PIN, APP)]


def test_more_than_an_answer_from_the_app_is_passed_on():
    wire = Wire().write(GET_APP).say(APP, answer(b"x") + b"more")
    assert wire.client == answer(b"x") + b"more"
    assert wire.log == [(PIN, APP)]
    wire = Wire().write(request(b"GET / HTTP/1.1", b"Connection: close")).say(APP, answer(b"x") + b"more")
    assert wire.client == answer(b"x") + b"more"
    assert wire.log == [(CLOSE_CLIENT,)]


def test_an_app_that_gives_up_waiting_does_not_disturb_a_session():
    wire = Wire(always).write(GET_DEV).say(APP, b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert wire.log == [(RESET, APP)]
    assert wire.client == b""
    wire.say(DEV, answer(b"x"))
    assert wire.client == answer(b"x")
    assert wire.log == [(RESET, APP)]
    assert wire.conversation.idle


def test_time_alone_decides_nothing():  # S69
    wire = Wire(always)
    assert not wire.conversation.undecided
    assert wire.conversation.undecided_timeout() == []
    assert wire.write(GET_DEV).dev == GET_DEV
    assert not wire.conversation.undecided


@pytest.mark.parametrize("said", [b"G", b"\r\n", b"\r", b"GET / HTTP/1.1\r"])
def test_no_first_line_in_time_is_pinned(said):
    wire = Wire(always).write(said)
    assert wire.conversation.undecided
    wire.do(wire.conversation.undecided_timeout())
    assert wire.app == said
    assert wire.log == [(PIN, APP)]
    assert not wire.conversation.undecided


def test_a_first_line_is_decision_enough():
    wire = Wire(always).write(b"GET / HTTP/1.1\r\nHos")
    assert not wire.conversation.undecided
    assert not wire.conversation.idle
    assert wire.conversation.undecided_timeout() == []
    wire.write(b"t: a\r\n\r\n")
    assert wire.dev == b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    assert wire.conversation.undecided_timeout() == []


# A head that is not complete, and for more of which there is no room.


@pytest.mark.parametrize("size", [1, 20, len(GET_DEV) - 1])
def test_a_head_that_there_is_no_room_for_is_the_apps(size):
    wire = Wire(always).write(GET_DEV[:size])
    assert wire.conversation.kept == size
    wire.do(wire.conversation.no_room())
    assert wire.log == [(PIN, APP)]
    assert wire.letters == ["P"]
    assert wire.conversation.kept == 0
    wire.write(GET_DEV[size:])
    assert wire.app == GET_DEV


def test_a_head_that_there_is_no_room_for_waits_for_what_a_session_owes():
    wire = Wire(by_path).write(GET_DEV + GET_APP[:20])
    assert wire.conversation.kept == 20
    wire.do(wire.conversation.no_room())
    assert wire.log == []
    assert not wire.conversation.reading_client
    wire.say(DEV, answer(b"x"))
    assert wire.client == answer(b"x")
    assert wire.app == GET_APP[:20]
    assert wire.log == [(PIN, APP)]


def test_what_is_not_kept_needs_no_room():
    wire = Wire(always)
    assert wire.conversation.no_room() == []
    wire.write(GET_DEV)
    assert wire.conversation.kept == 0
    assert wire.conversation.no_room() == []
    assert wire.dev == GET_DEV


# Ends.


def test_a_client_that_says_nothing_and_ends_is_the_apps():
    for said in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a"):
        wire = Wire(always)
        if said:
            wire.write(said)
        wire.do(wire.conversation.client_eof())
        assert wire.app == said
        assert wire.log == [(SHUT, APP), (PIN, APP)]


def test_a_client_that_has_asked_and_ends_gets_its_answer(side):  # F17
    wire = Wire(to(side)).write(GET_APP)
    wire.do(wire.conversation.client_eof()).do(wire.conversation.client_eof())
    assert wire.log == [(SHUT, side)]
    wire.say(side, answer(b"x"))
    assert wire.client == answer(b"x")
    assert wire.log == [(SHUT, side), (CLOSE_CLIENT,)]


def test_a_client_that_ends_while_a_request_waits_gets_both_answers():
    wire = Wire(by_path).write(GET_DEV + GET_APP)
    assert wire.conversation.client_eof() == []
    wire.say(DEV, answer(b"1"))
    assert wire.log == [(SHUT, APP)]
    wire.say(APP, answer(b"2"))
    assert wire.client == answer(b"1") + answer(b"2")
    assert wire.log == [(SHUT, APP), (CLOSE_CLIENT,)]


def test_a_client_that_ends_between_messages_ends_it_all(side):
    wire = Wire(to(side), {side: [(GET_APP, answer(b"x"))]}).write(GET_APP + b"\r\n")
    assert wire.conversation.idle
    wire.do(wire.conversation.client_eof())
    assert wire.log == [(CLOSE_CLIENT,)]
    assert wire.conversation.client_eof() == []


@pytest.mark.parametrize("half", [NEXT[:3], NEXT[:20], NEXT[:-1], b"\r\n" + NEXT[:3]])
def test_a_later_head_that_is_cut_short_is_the_apps(side, half):  # S68
    for before in (True, False):
        wire = Wire(to(side)).write(GET_APP + half)
        if before:
            wire.say(side, answer(b"x"))
        wire.do(wire.conversation.client_eof())
        if not before:
            wire.say(side, answer(b"x"))
        assert wire.app == (GET_APP if side is APP else b"") + half
        assert wire.dev == (GET_APP if side == DEV else b"")
        assert wire.client == answer(b"x")
        assert wire.log == [(SHUT, APP), (PIN, APP)]
        assert wire.letters == ["F", "P"]


@pytest.mark.parametrize(
    "start",
    [
        post(b"Content-Length: 9", body=b"x"),
        post(b"Expect: x", b"Transfer-Encoding: chunked", body=b"5\r\nhel"),
    ],
)
def test_a_client_that_ends_within_a_body_half_closes(side, start):
    wire = Wire(to(side)).write(start)
    wire.do(wire.conversation.client_eof())
    assert wire.received[side] == start
    assert wire.log == [(SHUT, side)]
    wire.say(side, answer(b"no", status=b"400 Bad Request"))
    assert wire.log == [(SHUT, side), (CLOSE_CLIENT,)]


def test_a_client_that_ends_within_a_unit_of_its_chunks():
    start = post(b"Expect: x", b"Transfer-Encoding: chunked", body=b"5\r\nhello\r")
    wire = Wire().write(start)
    assert wire.app == start[:-1]
    wire.do(wire.conversation.client_eof())
    assert wire.app == start


def test_a_client_that_ends_within_a_held_body_is_refused():
    wire = Wire(always).write(chunked(b"5\r\nhel"))
    wire.do(wire.conversation.client_eof())
    assert wire.dev == b""
    assert wire.client.startswith(b"HTTP/1.1 400 ")
    assert wire.letters == ["F", "B"]


def test_a_client_that_ends_its_upload_after_the_answer(side):
    wire = Wire(to(side)).write(post(b"Content-Length: 9", body=b"x")).say(side, answer(b"x"))
    wire.do(wire.conversation.client_eof())
    assert wire.log == [(CLOSE_CLIENT,)]


def test_an_idle_app_that_ends_ends_the_client():  # F19
    wire = Wire(by_path, {DEV: [(GET_DEV, answer(b"x"))]}).write(GET_DEV, NEXT[:9])
    wire.do(wire.conversation.upstream_eof(APP))
    assert wire.log == [(CLOSE_CLIENT,)]
    assert wire.app == b""


def test_an_app_that_ends_before_anything_is_pinned():
    wire = Wire(by_path).write(b"GE")
    wire.do(wire.conversation.upstream_eof(APP))
    assert wire.app == b"GE"
    assert wire.log == [(SHUT_CLIENT,), (PIN, APP)]
    assert wire.letters == ["P"]


def test_an_app_that_ends_under_a_sessions_answer_is_dialled_anew_when_needed():
    wire = Wire(always).write(GET_DEV)
    wire.do(wire.conversation.upstream_eof(APP))
    assert wire.log == [(RESET, APP)]
    wire.say(DEV, answer(b"x")).write(NEXT)
    assert wire.client == answer(b"x")
    assert wire.log == [(RESET, APP)]
    assert wire.dev == GET_DEV + NEXT


def test_an_app_that_fails_under_a_sessions_answer_likewise():
    wire = Wire(always).write(GET_DEV)
    assert wire.conversation.upstream_failed(APP, "lost", delivered=False) == []
    wire.say(DEV, answer(b"x"))
    assert wire.log == []
    assert wire.conversation.idle


def test_an_app_that_ends_within_its_answer_is_passed_on_as_such():
    for told in (
        b"HTTP/1.1 2",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r",
    ):
        wire = Wire().write(GET_APP).say(APP, told)
        wire.do(wire.conversation.upstream_eof(APP))
        assert wire.client == told
        assert wire.log == [(CLOSE_CLIENT,)]


def test_an_app_that_ends_without_an_answer_may_still_read():
    wire = Wire().write(post(b"Content-Length: 9", body=b"x"))
    wire.do(wire.conversation.upstream_eof(APP))
    assert wire.log == [(SHUT_CLIENT,)]
    wire.write(b"12345678")
    assert wire.app.endswith(b"x12345678")
    assert wire.log == [(SHUT_CLIENT,), (CLOSE_CLIENT,)]


def test_an_app_that_has_answered_and_ends_may_still_read():
    wire = Wire().write(post(b"Content-Length: 9", body=b"x")).say(APP, answer(b"x"))
    wire.do(wire.conversation.upstream_eof(APP))
    assert wire.log == [(SHUT_CLIENT,)]
    wire.write(b"12345678")
    assert wire.app.endswith(b"x12345678")
    assert wire.log == [(SHUT_CLIENT,), (CLOSE_CLIENT,)]


def test_an_app_that_fails_resets_the_client():  # F18
    for said in (b"", GET_APP, NEXT[:5]):
        wire = Wire()
        if said:
            wire.write(said)
        wire.do(wire.conversation.upstream_failed(APP, "lost", delivered=True))
        assert wire.log == [(RESET_CLIENT,)]
        assert wire.conversation.upstream_failed(APP, "lost", delivered=True) == []


def test_a_pinned_side_that_fails_resets_the_client():
    wire = Wire(always).write(WEBSOCKET).say(DEV, SWITCHING)
    conversation = wire.conversation
    assert conversation.upstream_failed(APP, "lost", delivered=True) == []
    assert conversation.upstream_eof(APP) == ()
    assert conversation.upstream_data(APP, b"x") == ()
    assert conversation.upstream_confirmed(DEV) == []
    assert conversation.upstream_failed(DEV, "lost", delivered=True) == [(RESET_CLIENT,)]
    assert conversation.over


def test_after_the_end_nothing_matters():
    conversation = Wire().write(get := post(b"Content-Length: x")).conversation
    assert conversation.over
    assert get
    for commands in (
        conversation.client_data(NEXT),
        conversation.client_eof(),
        conversation.upstream_data(APP, b"x"),
        conversation.upstream_eof(APP),
        conversation.upstream_failed(APP, "lost", delivered=False),
        conversation.upstream_confirmed(DEV),
        conversation.undecided_timeout(),
        conversation.no_room(),
        conversation.release_held(),
    ):
        assert list(commands) == []
    assert conversation.client_splice is None
    assert conversation.upstream_splice(APP) == 0
    assert not conversation.idle
    assert not conversation.undecided
