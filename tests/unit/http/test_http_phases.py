"""The table of phases is what conversations go by: they take each of its transitions, and no other."""

from __future__ import annotations

import pytest
from http_wire import (
    APP,
    CLOSE_CLIENT,
    DEV,
    GET_APP,
    GET_DEV,
    NEXT,
    SWITCHING,
    WEBSOCKET,
    Wire,
    always,
    answer,
    by_path,
    post,
    request,
)
from test_http_quick import TheLongWay

from tpnet.http.h1.phases import BETWEEN, OVER, PINNED, TRANSITIONS, Phase, diagram
from tpnet.http.h1.state import State

BODY = post(b"Content-Length: 9", body=b"x")
LAST = request(b"GET / HTTP/1.1", b"Connection: close")
FAILED = request(b"POST /dev HTTP/1.1")


def eof(wire):
    return wire.do(wire.conversation.client_eof())


def app_eof(wire):
    return wire.do(wire.conversation.upstream_eof(APP))


def dev_failed(wire):
    return wire.do(wire.conversation.upstream_failed(DEV, "lost", delivered=True))


def app_failed(wire):
    return wire.do(wire.conversation.upstream_failed(APP, "lost", delivered=True))


def unguarded(wire):
    wire.record.guarding = False
    return wire


PLAYS = [
    lambda: Wire(by_path).write(GET_APP[:9], GET_APP[9:]).say(APP, answer(b"x")),
    lambda: Wire(by_path).write(BODY, b"12345678"),
    lambda: Wire(by_path).write(post(b"Connection: close", b"Content-Length: 9", body=b"x"), b"12345678"),
    lambda: Wire(by_path).write(LAST).say(APP, answer(b"x")),
    lambda: Wire(by_path).write(LAST).say(APP, b"oops"),
    lambda: Wire(by_path).write(GET_DEV + GET_APP).say(DEV, answer(b"x")),
    lambda: (
        Wire(always).write(post(b"Content-Length: 200000"), bytes(70_000), bytes(10)).say(DEV, answer(b"x"))
    ),
    lambda: eof(Wire(by_path).write(GET_APP + NEXT[:5])),
    lambda: eof(Wire(by_path).write(GET_DEV + NEXT[:5])),
    lambda: eof(Wire(by_path).write(GET_APP + b"\r\n")),
    lambda: eof(Wire(by_path).write(BODY)),
    lambda: Wire(by_path).write(GET_APP + post(b"Content-Length: x")),
    lambda: Wire(by_path).write(GET_APP + post(b"Transfer-Encoding: chunked", body=b"z")),
    lambda: dev_failed(Wire(by_path).write(FAILED + NEXT)),
    lambda: dev_failed(Wire(by_path).write(FAILED + NEXT[:7])),
    lambda: dev_failed(Wire(by_path).write(request(b"POST /dev HTTP/1.1", b"Connection: close"))),
    lambda: Wire(by_path).write(b"hello\r\n"),
    lambda: app_eof(Wire(by_path).write(b"G")),
    lambda: Wire(by_path).write(BODY).say(APP, b"oops"),
    lambda: Wire(by_path).write(WEBSOCKET.replace(b"/dev", b"/") + b"\x81").say(APP, SWITCHING),
    lambda: app_failed(Wire(by_path).write(b"hello\r\n")),
    lambda: app_failed(Wire(by_path)),
    lambda: app_failed(Wire(by_path).write(GET_APP[:5])),
    lambda: app_failed(Wire(by_path).write(BODY)),
    lambda: app_failed(Wire(by_path).write(WEBSOCKET.replace(b"/dev", b"/") + b"\x81")),
]


@pytest.fixture
def taken(monkeypatch):
    """Every step that is taken, with the phase that it is taken in."""
    steps = set()
    step = State.step

    def recorded(state, which):
        steps.add((state.phase, which))
        step(state, which)

    monkeypatch.setattr(State, "step", recorded)
    monkeypatch.setattr(Wire, "kind", TheLongWay)
    return steps


def test_each_transition_is_taken(taken):
    for play in PLAYS:
        play()
    assert taken == {(phase, step) for phase, steps in TRANSITIONS.items() for step in steps}


def test_every_phase_is_reached_and_all_can_end():
    reached = {after for steps in TRANSITIONS.values() for after in steps.values()} | {BETWEEN}
    assert reached == set(Phase)
    assert all(OVER in steps.values() for phase, steps in TRANSITIONS.items() if phase is not OVER)
    assert [phase for phase in Phase if phase.ended] == [PINNED, OVER]


def test_the_diagram_has_every_transition_once():
    lines = diagram().splitlines()
    arrows = [line for line in lines if "-->" in line and "[*]" not in line]
    assert len(arrows) == len(set(arrows)) == sum(map(len, TRANSITIONS.values()))


def test_nothing_leads_out_of_the_end():
    wire = Wire().write(post(b"Content-Length: x"))
    assert wire.log == [(CLOSE_CLIENT,)]
    with pytest.raises(KeyError):
        wire.conversation._state.step(next(iter(TRANSITIONS[BETWEEN])))
