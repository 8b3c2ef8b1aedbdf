"""An upgrade to a protocol that carries requests takes no later request along to a session."""

from __future__ import annotations

import pytest
from http_wire import (
    APP,
    CLOSE_CLIENT,
    DEV,
    GET_APP,
    GET_DEV,
    HOST,
    NEXT,
    PIN,
    RESET,
    Wire,
    all_cuts,
    always,
    answer,
    by_path,
    post,
    request,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tpnet.http.h1.head import PLAIN, UPGRADE, RequestHead, read_request
from tpnet.http.h1.upgrade import without_carriers

SETTINGS = b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"
CURL = request(b"GET /dev HTTP/1.1", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", SETTINGS)
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n"


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        ([b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", SETTINGS], []),
        ([b"connection:upgrade,http2-settings", b"UPGRADE:H2C", SETTINGS.lower()], []),
        ([b"Connection: Upgrade", b"Connection: HTTP2-Settings", SETTINGS, b"X: y", b"Upgrade: h2c"], [b"X: y"]),
        ([b"Connection: keep-alive, Upgrade", b"Upgrade: h2c"], [b"Connection: keep-alive"]),
        ([b"Connection: close,\tUpgrade ,TE", b"Upgrade: h2c", b"TE: trailers"], [b"Connection: close, TE", b"TE: trailers"]),
        ([b"Connection: Upgrade", b"Upgrade: h2"], []),
        ([b"Connection: Upgrade", b"Upgrade: h2c-14"], []),
        ([b"Connection: Upgrade", b"Upgrade: HTTP/2.0, SHTTP/1.3"], [b"Connection: Upgrade", b"Upgrade: SHTTP/1.3"]),
        ([b"Connection: Upgrade", b"Upgrade: TLS/1.0"], []),
        ([b"Upgrade: h2c"], []),
        (
            [b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: websocket, h2c", SETTINGS],
            [b"Connection: Upgrade", b"Upgrade: websocket"],
        ),
        (
            [b"Connection: Upgrade", b"Upgrade: websocket", b"Upgrade: h2c"],
            [b"Connection: Upgrade", b"Upgrade: websocket"],
        ),
        ([b"X-Upgrade: h2c", b"Upgrade: h2c"], [b"X-Upgrade: h2c"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "line", [b"GET http://b.test:80/dev HTTP/1.1", b"\r\n\r\nGET /dev?Upgrade:h2c HTTP/1.1"]
)
def test_what_asks_for_http_2_is_left_out_for_a_session_and_nothing_else(fields, left, line):
    asked, expected = request(line, *fields), request(line, *left)
    assert without_carriers(asked) == expected
    for _, pieces in all_cuts(asked):
        wire = Wire(always).write(*pieces)
        assert wire.dev == expected
        assert wire.letters == ["F"]
        wire = Wire().write(*pieces)
        assert wire.app == asked


@pytest.mark.parametrize("protocol", [b"websocket", b"x-http", b"h2cx", b"tlsx", b"http2", b"xh2c"])
def test_other_upgrades_reach_a_session_as_they_are(protocol):
    asked = request(b"GET /dev HTTP/1.1", b"Connection: Upgrade", b"Upgrade: " + protocol)
    wire = Wire(always).write(asked).say(DEV, SWITCHING % protocol)
    assert wire.dev == asked
    assert wire.log == [(PIN, DEV)]
    assert wire.letters == ["F"]


@pytest.mark.parametrize("between", [True, False])
def test_each_request_after_a_matched_upgrade_goes_to_its_own_side(between):  # S66
    """A handler that knows no more of the upgrade answers in HTTP/1.1; the next request is anybody's."""
    for _, pieces in all_cuts(CURL + GET_APP + GET_DEV):
        scripts = {
            DEV: [(request(b"GET /dev HTTP/1.1"), answer(b"1")), (GET_DEV, answer(b"3"))],
            APP: [(GET_APP, answer(b"2"))],
        }
        wire = Wire(by_path, scripts)
        for piece in [b"".join(pieces)] if between else pieces:
            wire.write(piece)
        assert wire.client == answer(b"1") + answer(b"2") + answer(b"3")
        assert wire.conversation.idle


def test_a_handler_that_switches_all_the_same_is_refused():
    for _, pieces in all_cuts(SWITCHING % b"h2c"):
        wire = Wire(always).write(CURL).say(DEV, *pieces)
        assert wire.client.startswith(b"HTTP/1.1 502 ")
        assert wire.log == [(RESET, DEV), (CLOSE_CLIENT,)]


def test_a_handler_that_switches_to_http_2_instead_of_websocket_is_refused():
    asked = request(b"GET /dev HTTP/1.1", b"Connection: Upgrade", b"Upgrade: websocket, h2c")
    wire = Wire(always).write(asked).say(DEV, SWITCHING % b"h2c")
    assert wire.client.startswith(b"HTTP/1.1 502 ")
    assert wire.log == [(RESET, DEV), (CLOSE_CLIENT,)]
    wire = Wire(always).write(asked).say(DEV, SWITCHING % b"websocket")
    assert wire.log == [(PIN, DEV)]


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
def test_the_app_may_switch_and_it_is_told_if_that_takes_requests_along(protocol):
    asked = request(b"GET /app HTTP/1.1", b"Connection: Upgrade", b"Upgrade: websocket, h2c")
    for _, pieces in all_cuts(SWITCHING % protocol):
        wire = Wire(by_path).write(asked).say(APP, *pieces).write(GET_DEV)
        assert wire.app == asked + GET_DEV
        assert wire.log == [(PIN, APP)]
        assert wire.letters == (["F", "P"] if protocol == b"h2c" else ["F"])
        if protocol == b"h2c":
            assert wire.events[-1][2] == "the app switched to a protocol that carries requests"


def test_bodies_follow_a_head_without_its_upgrade():
    for framing, body in (
        (b"Content-Length: 5", b"hello"),
        (b"Transfer-Encoding: chunked", b"1\r\nx\r\n0\r\n\r\n"),
    ):
        fields = [b"Connection: Upgrade", b"Upgrade: h2c", framing]
        for _, pieces in all_cuts(post(*fields, body=body) + NEXT):
            wire = Wire(always).write(*pieces)
            assert wire.dev == post(framing, body=body) + NEXT


def test_a_matched_upgrade_that_waits_its_turn_is_decided_once():
    wire = Wire(by_path).write(GET_APP + CURL)
    assert wire.dev == b""
    wire.say(APP, answer(b"1"))
    assert wire.dev == request(b"GET /dev HTTP/1.1")
    assert wire.letters == ["F", "F"]


def test_the_app_gets_a_matched_upgrade_after_all_without_the_upgrade():
    """Requests behind it were sent on as HTTP/1.1 already."""
    wire = Wire(always).write(CURL + NEXT)
    wire.do(wire.conversation.upstream_failed(DEV, "lost", delivered=False))
    assert wire.app == request(b"GET /dev HTTP/1.1") + NEXT


NAMES = st.sampled_from([b"Upgrade", b"connection", b"HTTP2-Settings", b"X", b"upgrade"])
VALUES = st.lists(
    st.sampled_from(
        [b"h2c", b"websocket", b"Upgrade", b"HTTP2-Settings", b"keep-alive", b"TLS/1.2", b"", b" "]
    ),
    max_size=4,
).map(b",".join)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(NAMES, VALUES), max_size=5))
def test_a_head_without_its_upgrade_is_one_that_asks_for_none(fields):
    asked = read_request(request(b"GET / HTTP/1.1", *(b"%s:%s" % field for field in fields)))
    assert isinstance(asked, RequestHead)
    plain = read_request(without_carriers(asked.raw))
    assert isinstance(plain, RequestHead)
    assert not plain.carried
    assert plain.close == asked.close
    assert plain.values(b"x") == asked.values(b"x")
    others = {b"websocket", b"Upgrade", b"HTTP2-Settings", b"keep-alive"}
    wanted = {one.strip() for value in asked.values(b"upgrade") for one in value.split(b",")}
    assert plain.kind == (UPGRADE if wanted & others else PLAIN)
    assert plain.values(b"http2-settings") == []
    assert b"HTTP2-Settings" not in b",".join(plain.values(b"connection"))
    assert HOST in plain.raw
    assert without_carriers(plain.raw) == plain.raw
