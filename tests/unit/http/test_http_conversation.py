"""Routing on one connection: order, upgrades, tunnels, interim and early answers, half-closes, waiting, splicing."""

from __future__ import annotations

import random

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
    RESET,
    RESET_CLIENT,
    SEND,
    SEND_CLIENT,
    SHUT,
    SHUT_CLIENT,
    SWITCHING,
    TO_APP,
    WEBSOCKET,
    Conversation,
    Outcome,
    Record,
    Verdict,
    Wire,
    all_cuts,
    always,
    answer,
    by_path,
    byte_by_byte,
    chunked,
    post,
    request,
    to,
)

from tpnet.http.h1.exchange import KEEP

# Order.


def test_pipelined_requests_to_two_sides_are_answered_in_order():  # S37
    for _, pieces in all_cuts(GET_APP + GET_DEV + NEXT):
        wire = Wire(
            by_path, {APP: [(GET_APP, answer(b"1")), (NEXT, answer(b"3"))], DEV: [(GET_DEV, answer(b"2"))]}
        ).write(*pieces)
        assert wire.app == GET_APP + NEXT
        assert wire.dev == GET_DEV
        assert wire.client == answer(b"1") + answer(b"2") + answer(b"3")
        assert wire.conversation.idle


def test_request_to_another_side_waits_and_the_client_is_not_read():
    wire = Wire(by_path).write(GET_DEV + GET_APP)
    conversation = wire.conversation
    assert (wire.dev, wire.app) == (GET_DEV, b"")
    assert not conversation.reading_client
    assert conversation.client_data(NEXT) == ()
    wire.say(DEV, answer(b"1"))
    assert wire.app == GET_APP + NEXT
    assert conversation.reading_client
    assert not conversation.idle
    wire.say(APP, answer(b"2") + answer(b"3"))
    assert wire.client == answer(b"1") + answer(b"2") + answer(b"3")
    assert wire.letters == ["F", "F", "F"]


def test_rules_are_asked_once_per_request():
    asked = []
    wire = Wire(lambda head: asked.append(head.target) or by_path(head)).write(GET_DEV + GET_APP + GET_DEV)
    wire.say(DEV, answer(b"1")).say(APP, answer(b"2")).say(DEV, answer(b"3"))
    assert asked == [b"/dev", b"/app", b"/dev"]
    assert wire.conversation.idle


def test_a_thousand_requests_that_alternate():  # S38
    requests, scripts, answers = [], {APP: [], DEV: []}, []
    for at in range(1000):
        side = DEV if at % 2 else APP
        requests.append(request(b"GET /%s/%d HTTP/1.1" % (b"dev" if at % 2 else b"app", at)))
        answers.append(answer(b"%d" % at))
        scripts[side].append((requests[-1], answers[-1]))
    everything = b"".join(requests)
    for size in (len(everything), 4096, 7):
        pieces = [everything[at : at + size] for at in range(0, len(everything), size)]
        wire = Wire(by_path, scripts).write(*pieces)
        assert wire.app == b"".join(requests[::2])
        assert wire.dev == b"".join(requests[1::2])
        assert wire.client == b"".join(answers)


def test_many_requests_to_one_side_go_through_but_not_without_bound(side):
    count = 1000
    wire = Wire(to(side)).write(GET_APP * count)
    sent = len(wire.received[side]) // len(GET_APP)
    assert sent == 256
    assert not wire.conversation.reading_client
    for _ in range(count):
        wire.say(side, answer(b"x"))
    assert wire.received[side] == GET_APP * count
    assert wire.client == answer(b"x") * count
    assert wire.conversation.reading_client
    assert wire.conversation.idle


def test_what_comes_is_what_goes_the_very_object(side):
    conversation = Conversation(to(side), Record())
    asked, told = bytes(bytearray(post(b"Content-Length: 3", body=b"abc"))), answer(b"x")
    ((what, where, data),) = conversation.client_data(asked)
    assert (what, where) == (SEND, side)
    assert data is asked
    ((what, data),) = conversation.upstream_data(side, told)
    assert what == SEND_CLIENT
    assert data is told


def test_nothing_follows_a_message_that_says_close(side):  # S39
    last = request(b"GET / HTTP/1.1", b"Connection: close")
    wire = Wire(to(side)).write(last + NEXT, NEXT)
    assert wire.conversation.reading_client
    wire.say(side, answer(b"x"))
    assert wire.received[side] == last
    assert wire.client == answer(b"x")
    assert wire.log == [(CLOSE_CLIENT,)]
    assert wire.write(NEXT).received[side] == last


@pytest.mark.parametrize(
    "told",
    [
        answer(b"x", b"Connection: close"),
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_an_answer_that_says_close_ends_the_connection(side, told):
    wire = Wire(to(side)).write(GET_APP + NEXT).say(side, told)
    assert wire.client == told
    assert wire.log == [(CLOSE_CLIENT,)]


def test_an_old_answer_may_keep_the_connection(side):  # S40
    old = request(b"GET / HTTP/1.0", b"Connection: keep-alive")
    told = b"HTTP/1.0 200 OK\r\nconnection: Keep-Alive\r\nContent-Length: 1\r\n\r\nx"
    wire = Wire(to(side), {side: [(old, told), (old, told)]}).write(old, old)
    assert wire.client == told * 2
    assert wire.conversation.idle


# Bodies of answers.

HEAD = request(b"HEAD / HTTP/1.1")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (HEAD, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"),
        (HEAD, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (HEAD, b"HTTP/1.1 200 OK\r\n\r\n"),
        (GET_APP, b"HTTP/1.1 204 No Content\r\n\r\n"),
        (GET_APP, b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"),
        (GET_APP, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n"),
        (GET_APP, b"HTTP/1.1 304 Not Modified\r\n\r\n"),
        (GET_APP, b"HTTP/1.1 200\r\ncontent-length:0\r\n\r\n"),
        (GET_APP, b"HTTP/1.1 200 \r\nContent-Length: 3 \r\n\r\nabc"),
        (GET_APP, b"HTTP/1.1 999 \xff\t!\r\nContent-Length: 3\r\n\r\nabc"),
        (
            GET_APP,
            b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a="b"\r\nhello\r\n00\r\nX-Sum: 1\r\n\r\n',
        ),
        (GET_APP, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + HELLO),
        (GET_APP, b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"x")),
        (
            GET_APP,
            b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + answer(b"x"),
        ),  # S44
        (GET_APP, b"HTTP/1.1 102 Processing\r\nContent-Length: 0\r\n\r\n" + answer(b"x")),
        (request(b"GET / HTTP/1.0", b"Connection: keep-alive", b"Upgrade: x"), answer(b"x")),
    ],
)  # S43
def test_answers_end_where_they_end(side, asked, told):
    for _, pieces in all_cuts(told):
        script = {side: [(asked, told), (NEXT, answer(b"next"))]}
        wire = Wire(to(side), script, cut=lambda _told, pieces=pieces: pieces if _told is told else [_told])
        wire.write(asked + NEXT)
        assert wire.received[side] == asked + NEXT
        assert wire.client == told + answer(b"next")
        assert wire.conversation.idle
        assert wire.log == []


def test_an_answer_without_framing_ends_with_its_connection(side):  # S45
    wire = Wire(to(side)).write(GET_APP).say(side, *byte_by_byte(EOF_ANSWER + b"abc" + NEXT))
    assert wire.client == EOF_ANSWER + b"abc" + NEXT
    assert wire.log == []
    assert wire.conversation.upstream_splice(side) > 1 << 40
    wire.do(wire.conversation.upstream_eof(side))
    assert wire.log == [(CLOSE_CLIENT,)]


def test_an_early_answer_is_delivered_and_the_upload_goes_on(side):  # S46
    size = 10 << 20
    head = post(b"Content-Length: %d" % size)
    wire = Wire(to(side)).write(head, bytes(100_000))
    wire.say(side, answer(b"early"))
    assert wire.client == answer(b"early")
    assert not wire.conversation.idle
    wire.write(bytes(size - 100_000), GET_APP)
    assert len(wire.received[side]) == len(head) + size + len(GET_APP)
    wire.say(side, answer(b"x"))
    assert wire.client == answer(b"early") + answer(b"x")


def test_an_early_answer_and_a_chunked_upload_to_another_side_next():
    wire = (
        Wire(by_path)
        .write(chunked(b"5\r\nhel"))
        .say(APP, answer(b"early"))
        .write(b"lo\r\n0\r\n\r\n" + GET_DEV)
    )
    assert wire.app == chunked(HELLO)
    assert wire.dev == GET_DEV


def test_an_early_answer_that_says_close_waits_for_the_side_to_close(side):
    no = answer(b"no", b"Connection: close", status=b"413 Content Too Large")
    start = post(b"Content-Length: 100", body=b"x")
    wire = Wire(to(side)).write(start).say(side, no)
    assert wire.client == no
    assert wire.log == []
    wire.write(b"y")
    assert wire.received[side] == start + b"y"
    conversation = wire.conversation
    wire.do(conversation.upstream_failed(side, "lost", delivered=True))
    assert wire.log == [(CLOSE_CLIENT,)]


def test_an_early_answer_that_says_close_and_a_body_that_ends(side):
    no = answer(b"no", b"Connection: close")
    wire = Wire(to(side)).write(post(b"Content-Length: 5", body=b"h")).say(side, no).write(b"ello")
    assert wire.log == [(CLOSE_CLIENT,)]
    assert wire.received[side].endswith(b"hello")


# Upgrades and tunnels.


def test_websocket_is_pinned_to_the_side_that_was_chosen(side):  # S47, S48
    up, down = random.Random(1).randbytes(1 << 20), random.Random(2).randbytes(1 << 20)
    wire = Wire(to(side)).write(WEBSOCKET).say(side, SWITCHING[:40]).say(side, SWITCHING[40:] + down[:10])
    assert wire.log == [(PIN, side)]
    assert (wire.conversation.pinned, wire.conversation.pinned_side) == (True, side)
    assert wire.client == SWITCHING + down[:10]
    wire.write(up).say(side, down[10:])
    assert wire.received[side] == WEBSOCKET + up
    assert wire.client == SWITCHING + down
    conversation = wire.conversation
    assert conversation.client_eof() == ((SHUT, side),)
    assert conversation.upstream_eof(side) == ((SHUT_CLIENT,),)


def test_bytes_sent_before_the_switch_reach_the_side_after_it(side):
    wire = Wire(to(side)).write(WEBSOCKET + b"\x81\x00")
    assert wire.received[side] == WEBSOCKET
    assert not wire.conversation.reading_client
    wire.say(side, b"HTTP/1.1 103 Early Hints\r\n\r\n" + SWITCHING + b"\x82\x00")
    assert wire.received[side] == WEBSOCKET + b"\x81\x00"
    assert wire.client == b"HTTP/1.1 103 Early Hints\r\n\r\n" + SWITCHING + b"\x82\x00"
    assert wire.conversation.reading_client


UPGRADE_BODY = post(b"Upgrade: x", b"Connection: upgrade", b"Content-Length: 1", body=b"x")


@pytest.mark.parametrize("asked", [WEBSOCKET, UPGRADE_BODY])
def test_an_upgrade_that_is_not_taken_is_a_request_like_others(side, asked):  # S49
    told = answer(b"x", b"Upgrade: websocket", b"Connection: upgrade")
    for _, pieces in all_cuts(told):
        wire = Wire(to(side)).write(asked).say(side, *pieces).write(NEXT).say(side, answer(b"y"))
        assert wire.received[side] == asked + NEXT
        assert not wire.conversation.pinned
        assert wire.client == told + answer(b"y")
        assert wire.conversation.idle


@pytest.mark.parametrize("asked", [WEBSOCKET, UPGRADE_BODY])
@pytest.mark.parametrize("behind", [b"\x81\x00", NEXT, GET_DEV, b"\r\n"])
def test_bytes_behind_an_upgrade_that_is_not_taken_are_no_request(side, asked, behind):  # S65
    no = answer(b"no", b"Upgrade: websocket", status=b"426 Upgrade Required")
    for _, pieces in all_cuts(no):
        wire = Wire(to(side)).write(NEXT + asked + behind).say(side, answer(b"1")).say(side, *pieces)
        wire.write(NEXT)
        assert wire.received[side] == NEXT + asked
        assert wire.received[APP if side == DEV else DEV] == b""
        assert wire.client == answer(b"1") + no
        assert wire.log == [(CLOSE_CLIENT,)]


def test_a_switch_that_nobody_asked_for():
    wire = Wire(always).write(GET_DEV).say(DEV, SWITCHING)
    assert wire.client.startswith(b"HTTP/1.1 502 ")
    assert wire.log == [(RESET, DEV), (CLOSE_CLIENT,)]
    wire = Wire().write(GET_APP).say(APP, SWITCHING)
    assert wire.client == SWITCHING
    assert wire.log == [(PIN, APP)]


CONNECT = request(b"CONNECT b.test:443 HTTP/1.1")


@pytest.mark.parametrize("told", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 299 \r\nContent-Length: 9\r\n\r\n"])
def test_connect_that_is_granted_is_a_tunnel(side, told):
    for _, pieces in all_cuts(told):
        wire = Wire(to(side)).write(CONNECT + b"up").say(side, *pieces[:-1], pieces[-1] + b"down")
        assert wire.received[side] == CONNECT + b"up"
        assert wire.client == told + b"down"
        assert wire.log == [(PIN, side)]


def test_connect_that_is_refused_closes_and_early_bytes_go_nowhere(side):
    no = answer(b"no", status=b"407 Proxy Authentication Required")
    wire = Wire(to(side)).write(CONNECT + NEXT).say(side, no)
    assert wire.received[side] == CONNECT
    assert wire.client == no
    assert wire.log == [(CLOSE_CLIENT,)]


# Holding back, keeping, waiting.


def test_a_short_chunked_request_reaches_a_session_whole():
    wire = Wire(always)
    for piece in byte_by_byte(chunked(HELLO)[:-1]):
        wire.write(piece)
        assert wire.dev == b""
    assert wire.conversation.holding
    wire.write(b"\n")
    assert wire.dev == chunked(HELLO)
    assert not wire.conversation.holding


def test_a_slow_chunked_request_is_released():
    start = chunked(b"5\r\nhel")
    wire = Wire(always).write(start)
    wire.do(wire.conversation.release_held()).do(wire.conversation.release_held())
    assert wire.dev == start
    wire.write(b"lo\r\n0\r\n\r\n")
    assert wire.dev == chunked(HELLO)
    wire.say(DEV, answer(b"x"))
    assert wire.conversation.idle


def test_a_long_chunked_request_is_held_no_longer_than_it_is_kept():
    start = chunked(b"100000\r\n")
    wire = Wire(always).write(start)
    for sent in range(0, KEEP, 1024):
        held = len(start) + sent < KEEP
        assert wire.conversation.holding == held
        assert (wire.dev == b"") == held
        wire.write(bytes(1024))
    assert not wire.conversation.holding


def test_a_broken_chunk_after_the_release_breaks_the_session_off():
    wire = Wire(always).write(chunked(b"5\r\nhello\r\n"))
    wire.do(wire.conversation.release_held())
    wire.write(b"5x")
    assert wire.dev == chunked(b"5\r\nhello\r\n")
    assert wire.client.startswith(b"HTTP/1.1 400 ")
    assert wire.log == [(RESET, DEV), (CLOSE_CLIENT,)]


def test_an_answer_to_a_request_that_is_still_held_is_none():
    wire = Wire(always).write(GET_DEV + chunked(b"5\r\nhel")).say(DEV, answer(b"1") + answer(b"2"))
    assert wire.client.startswith(answer(b"1") + b"HTTP/1.1 502 ")
    assert wire.dev == GET_DEV


def test_a_broken_body_waits_for_the_answers_before_it(side):
    wire = Wire(to(side)).write(GET_APP + chunked(b"zz"))
    assert wire.client == b""
    assert wire.log == []
    wire.say(side, answer(b"1"))
    assert wire.client.startswith(answer(b"1") + b"HTTP/1.1 400 ")
    assert wire.log == ([(RESET, APP)] if side is APP else []) + [(CLOSE_CLIENT,)]


def test_what_a_side_says_to_a_broken_body_after_other_answers_is_not_passed_on(side):
    wire = Wire(to(side)).write(GET_APP + chunked(b"zz")).say(side, answer(b"1") + answer(b"2"))
    assert wire.client.startswith(answer(b"1") + b"HTTP/1.1 400 ")
    assert wire.log[-1] == (CLOSE_CLIENT,)


@pytest.mark.parametrize(
    ("told", "end"), [(answer(b"x"), (CLOSE_CLIENT,)), (answer(b"x")[:-1], (RESET_CLIENT,))]
)
def test_a_broken_body_under_an_answer_gets_no_400(side, told, end):
    wire = (
        Wire(to(side))
        .write(post(b"Expect: x", b"Transfer-Encoding: chunked", body=b"5\r\nhello\r\n"))
        .say(side, told)
    )
    wire.write(b"zz")
    assert wire.client == told
    assert wire.log == [end]
    assert wire.letters == ["F", "B"]


def test_a_large_body_to_a_session_waits_for_its_confirmation():
    size = 300_000
    head = post(b"Content-Length: %d" % size)
    wire = Wire(always).write(head, *[bytes(10_000)] * 30, NEXT)
    conversation = wire.conversation
    assert KEEP <= len(wire.dev) < KEEP + 10_000
    assert not conversation.reading_client
    assert conversation.client_splice is None
    wire.do(conversation.upstream_confirmed(APP)).do(conversation.upstream_confirmed("another"))
    assert not conversation.reading_client
    wire.do(conversation.upstream_confirmed(DEV))
    assert conversation.reading_client
    wire.write()
    assert wire.dev == head + bytes(size) + NEXT


def test_pipelined_requests_to_a_session_wait_for_its_confirmation():
    big = request(b"GET /dev HTTP/1.1", b"X: " + b"a" * 9000)
    wire = Wire(always).write(big * 20)
    assert len(wire.dev) < KEEP + len(big)
    assert not wire.conversation.reading_client
    wire.do(wire.conversation.upstream_confirmed(DEV))
    assert wire.dev == big * 20
    wire.say(DEV, answer(b"x") * 20)
    assert wire.client == answer(b"x") * 20
    assert wire.conversation.idle


def test_answers_make_room_for_requests_that_wait_for_confirmation():
    big = post(b"Content-Length: 40000", body=bytes(40_000))
    wire = Wire(always).write(big, big, big)
    assert wire.dev == big + big
    assert not wire.conversation.reading_client
    wire.say(DEV, answer(b"x") + answer(b"y"))
    assert wire.dev == big * 3


# Splicing.


def test_a_body_may_be_spliced_to_the_app():
    head = post(b"Content-Length: 1000000")
    wire = Wire()
    assert wire.conversation.client_splice is None
    wire.write(head + b"x")
    conversation = wire.conversation
    assert conversation.client_splice == (APP, 999_999)
    assert conversation.client_spliced(999_998) == []
    assert conversation.client_splice == (APP, 1)
    assert conversation.client_spliced(1) == []
    assert conversation.client_splice is None
    wire.say(APP, answer(b"x"))
    wire.write(NEXT)
    assert wire.app == head + b"x" + NEXT


def test_a_body_may_be_spliced_to_a_session_once_it_is_there():
    for first in (True, False):
        wire = Wire(always)
        conversation = wire.conversation
        if first:
            wire.do(conversation.upstream_confirmed(DEV))
        wire.write(post(b"Content-Length: 1000000", body=b"x"))
        assert (conversation.client_splice is not None) == first
        wire.do(conversation.upstream_confirmed(DEV))
        assert conversation.client_splice == (DEV, 999_999)


def test_a_small_body_to_a_session_is_kept_not_spliced():
    wire = Wire(always)
    wire.do(wire.conversation.upstream_confirmed(DEV))
    wire.write(post(b"Content-Length: 100", body=b"x"))
    assert wire.conversation.client_splice is None


def test_a_spliced_body_of_a_last_request_ends_it():
    wire = Wire().write(post(b"Connection: close", b"Content-Length: 10")).say(APP, answer(b"x"))
    assert wire.log == []
    wire.do(wire.conversation.client_spliced(10))
    assert wire.log == [(CLOSE_CLIENT,)]


def test_an_answer_may_be_spliced(side):
    wire = Wire(to(side)).write(GET_APP + NEXT)
    conversation = wire.conversation
    assert conversation.upstream_splice(side) == 0
    wire.say(side, b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx")
    assert conversation.upstream_splice(side) == 999
    assert conversation.upstream_splice("another") == 0
    assert conversation.upstream_spliced(side, 998) == []
    assert conversation.upstream_spliced(side, 1) == []
    assert conversation.upstream_splice(side) == 0
    wire.say(side, answer(b"y"))
    assert wire.client.endswith(b"x" + answer(b"y"))
    assert conversation.idle


def test_a_chunked_answer_is_not_spliced_and_one_until_the_end_is(side):
    wire = (
        Wire(to(side)).write(GET_APP).say(side, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n")
    )
    assert wire.conversation.upstream_splice(side) == 0
    wire = Wire(to(side)).write(GET_APP).say(side, EOF_ANSWER)
    assert wire.conversation.upstream_spliced(side, 12345) == []
    assert wire.conversation.upstream_splice(side) > 1 << 40


# Sessions that keep to themselves.


def test_sessions_of_two_developers_on_one_connection():
    verdicts = {b"/a": Verdict(Outcome.FORWARD, "a"), b"/b": Verdict(Outcome.FORWARD, "b")}
    a, b = request(b"GET /a HTTP/1.1"), request(b"GET /b HTTP/1.1")
    scripts = {
        "a": [(a, answer(b"1")), (a, answer(b"3"))],
        "b": [(b, answer(b"2"))],
        APP: [(NEXT, answer(b"4"))],
    }
    wire = Wire(lambda head: verdicts.get(head.path, TO_APP), scripts).write(a + b + a + NEXT)
    assert wire.client == answer(b"1") + answer(b"2") + answer(b"3") + answer(b"4")
    assert [verdict.side for _, verdict, _ in wire.events] == ["a", "b", "a", None]


def test_an_idle_session_that_ends_is_dialled_anew():
    wire = Wire(by_path, {DEV: [(GET_DEV, answer(b"1")), (GET_DEV, answer(b"2"))]}).write(GET_DEV)
    wire.do(wire.conversation.upstream_eof(DEV))
    assert wire.log == [(RESET, DEV)]
    wire.write(GET_DEV)
    assert wire.dev == GET_DEV * 2
    assert wire.client == answer(b"1") + answer(b"2")


def test_an_idle_session_that_fails_is_nobodys_loss():
    wire = Wire(by_path, {DEV: [(GET_DEV, answer(b"1"))], APP: [(GET_APP, answer(b"2"))]}).write(GET_DEV)
    assert wire.conversation.upstream_failed(DEV, "lost", delivered=True) == []
    wire.write(GET_APP)
    assert wire.client == answer(b"1") + answer(b"2")
