import asyncio
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpnet.agent.answers import Answers, one_port, request_head
from tpnet.agent.sessions import endpoint_text
from tpnet.agent.workers import LONGEST_PAUSE, pause_before
from tpnet.model import InvalidInput, NotThere, TargetInfo


def infos(*ports):
    return [TargetInfo("netns/a", ports)]


def test_the_port_that_is_meant_is_the_intercepted_one_or_the_only_one():
    assert one_port("a", {80}, infos(80, 81)) == 80
    assert one_port("a", set(), infos(81)) == 81
    with pytest.raises(InvalidInput, match=r"These are intercepted: 80, 81\."):
        one_port("a", {81, 80}, infos())
    with pytest.raises(InvalidInput, match=r"These are listening: 1, 2\."):
        one_port("a", set(), infos(2, 1))
    with pytest.raises(NotThere, match="Nothing listens"):
        one_port("a", set(), infos())
    with pytest.raises(NotThere, match="Nothing that others can reach") as caught:
        one_port("a", set(), [TargetInfo("netns/a", loopback=(80, 81))])
    assert caught.value.hint == "Listening there: 80, 81. Name it with --port."


def test_explain_of_a_port_that_nothing_listens_on():
    calls = Answers(SimpleNamespace(book=SimpleNamespace(intercepts={})))

    async def resolve(target):
        return [TargetInfo(target, (80,), loopback=(81,))]

    calls.resolve = resolve
    for port in (80, 81):
        said = asyncio.run(calls.explain("a", port, "GET", "/", [])).reason
        assert said == f"no intercept stands on port {port}"
    with pytest.raises(NotThere, match=r"^Nothing listens on port 82 of a\.") as caught:
        asyncio.run(calls.explain("a", 82, "GET", "/", []))
    assert caught.value.hint == "Listening there: 80, 81."


def test_a_request_nobody_sent_is_read_as_one_that_was():
    head = request_head("POST", "/a/b?c=d", [("X", "1"), ("x", "é")])
    assert (head.method, head.path) == (b"POST", b"/a/b")
    assert head.values(b"x") == [b"1", "é".encode()]


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("", "/", []),
        ("GET", "", []),
        ("G ET", "/", []),
        ("GET", "/ /", []),
        ("GET", "/", [("", "x")]),
        ("GET", "/", [("a", "b\nc: d")]),
        ("GET\r\nx: y", "/", []),
        ("GET", "/", [("a", "b\x00")]),
        ("GET", "/\udcff", []),
        ("GET", "/", [("content-length", "1"), ("content-length", "2")]),
    ],
)
def test_what_is_no_request_is_refused(method, path, headers):
    with pytest.raises(InvalidInput):
        request_head(method, path, headers)


@given(st.text(), st.text(), st.lists(st.tuples(st.text(), st.text()), max_size=3))
def test_any_text_is_a_request_or_is_refused(method, path, headers):
    try:
        head = request_head(method, path, headers)
    except InvalidInput:
        return
    assert head.raw.count(b"\r\n") == len(headers) + 2


def test_pauses_between_workers_grow_and_end():
    assert [round(pause_before(failures), 2) for failures in range(6)] == [0, 0, 0.2, 0.4, 0.8, 1.6]
    assert pause_before(500) == LONGEST_PAUSE


def test_endpoints_are_written_as_laptops_read_them():
    assert endpoint_text("10.0.0.1", 5) == "10.0.0.1:5"
    assert endpoint_text("fd00::1", 5) == "[fd00::1]:5"
