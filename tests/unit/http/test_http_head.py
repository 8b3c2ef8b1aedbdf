"""What a request head tells, and what reading it costs."""

from __future__ import annotations

import time

import pytest
from http_wire import HOST, Outcome, Wire, byte_by_byte, request

from tpnet.http.h1.body import BROKEN, DONE, MORE, ChunkedReader
from tpnet.http.h1.grammar import CHUNKED, MAX_HEAD, Bad, PartialHead
from tpnet.http.h1.head import CONNECT, HEAD, PLAIN, UPGRADE, RequestHead, read_request
from tpnet.model import HeaderRule, Intercept, PathKind, PathRule
from tpnet.rules import RuleSet


def head(data):
    read = read_request(data)
    assert isinstance(read, RequestHead), read
    assert read.raw == data
    return read


@pytest.mark.parametrize(
    ("line", "path"),
    [
        (b"GET /", b"/"),
        (b"GET /api/x?q=/y?z", b"/api/x"),
        (b"GET //api", b"//api"),
        (b"GET /%61pi", b"/%61pi"),
        (b"GET /a#b", b"/a#b"),
        (b"GET /?", b"/"),
        (b"GET http://b.test/x?q", b"/x"),
        (b"GET http://b.test", b"/"),
        (b"GET http://b.test?q", b"/"),
        (b"OPTIONS *", b"*"),
        (b"CONNECT b.test:1", b""),
        (b"GET ftp+x.y-1://[::1]:80/z", b"/z"),
    ],
)
def test_path_is_raw_and_without_its_query(line, path):
    assert head(request(line + b" HTTP/1.1")).path == path


def test_values_are_those_of_each_line_trimmed():
    read = head(
        request(
            b"GET / HTTP/1.1", b"X-A: 1, 2", b"x-a:\t 3 \t", b"X-AB: no", b"X-A:", b"X.A: no", b"Y: X-A: no"
        )
    )
    assert read.values(b"x-a") == [b"1, 2", b"3", b""]
    assert read.values(b"x.a") == [b"no"]
    assert read.values(b"missing") == []
    assert set(read.names()) == {b"host", b"x-a", b"x-ab", b"x.a", b"y"}


def test_values_of_the_request_line_and_of_blank_lines_are_none():
    read = head(b"\r\n\r\n" + request(b"GET /x:y HTTP/1.1"))
    assert read.names() == {b"host"}
    assert read.values(b"host") == [b"a.test"]
    assert head(b"GET / HTTP/1.1\r\n\r\n").names() == set()


def test_host_of_an_absolute_target_is_the_targets():  # S32
    read = head(request(b"GET http://b.test:80/x HTTP/1.1"))
    assert read.values(b"host") == [b"b.test:80"]
    bare = head(request(b"GET http://b.test HTTP/1.1", host=b""))
    assert bare.values(b"host") == [b"b.test"]
    assert bare.names() == {b"host"}
    assert head(request(b"OPTIONS * HTTP/1.1")).values(b"host") == [b"a.test"]


def test_folded_values_are_joined_for_whoever_asks():
    read = head(request(b"GET / HTTP/1.1", b"X: a\r\n\t b", b"Connection: keep-alive,\r\n close"))
    assert read.reason
    assert read.values(b"x") == [b"a b"]
    assert read.close


def test_what_a_head_says_of_its_message():
    assert head(request(b"POST / HTTP/1.1", b"Content-Length: 7")).body == 7
    assert head(request(b"POST / HTTP/1.1", b"Transfer-Encoding: Chunked")).body == CHUNKED
    kinds = {
        b"GET / HTTP/1.1": PLAIN,
        b"HEAD / HTTP/1.1": HEAD,
        b"CONNECT a:1 HTTP/1.1": CONNECT,
    }
    for line, kind in kinds.items():
        assert head(request(line)).kind == kind
    assert head(request(b"GET / HTTP/1.1", b"Upgrade: x")).kind == UPGRADE
    assert head(request(b"GET / HTTP/1.0", b"Upgrade: x")).kind == PLAIN
    assert head(request(b"CONNECT a:1 HTTP/1.1", b"Upgrade: x", b"Content-Length: 0")).kind == CONNECT
    assert head(request(b"GET / HTTP/1.1", b"Expect: 100-continue")).expects
    assert head(request(b"GET / HTTP/1.0")).close
    assert head(request(b"GET / HTTP/1.0")).version == 10
    assert not head(request(b"GET / HTTP/1.1")).close


def test_heads_follow_each_other_at_an_offset():
    first, second = request(b"GET /1 HTTP/1.1"), request(b"GET /2 HTTP/1.1", b"X: y")
    read = read_request(first + second + b"rest", len(first))
    assert isinstance(read, RequestHead)
    assert read.raw == second
    assert read.values(b"x") == [b"y"]
    assert read.names() == {b"host", b"x"}


def test_half_a_head_is_a_scan_that_holds_it():
    scan = read_request(b"xx" + request(b"GET / HTTP/1.1")[:-1], 2)
    assert isinstance(scan, PartialHead)
    assert scan.first_line
    assert scan.buffer == request(b"GET / HTTP/1.1")[:-1]
    assert scan.feed(b"\n") == len(scan.buffer)


def test_reasons_are_halves_of_sentences():
    for line in (b"GET / HTTP/3", b"nonsense"):
        bad = read_request(request(line))
        assert isinstance(bad, Bad)
        assert bad.outcome is Outcome.PIN
        assert bad.reason.startswith("it")


@pytest.mark.parametrize(
    "data",
    [
        request(b"GET / HTTP/1.1", b"X: " + b"a" * (MAX_HEAD - 100)),
        request(b"GET /" + b"a" * (MAX_HEAD - 100) + b" HTTP/1.1"),
        b"\r\n" * 31_000 + request(b"GET / HTTP/1.1"),
        request(b"GET / HTTP/1.1", *[b"a:"] * 15_000),
    ],
    ids=["value", "target", "blank lines", "fields"],
)
def test_a_head_that_drips_costs_in_proportion_to_its_length(data):
    start = time.process_time()
    wire = Wire().write(*byte_by_byte(data))
    assert wire.app == data
    assert time.process_time() - start < 3


def test_a_chunk_size_that_drips_is_bounded():
    reader = ChunkedReader()
    for size in range(1, 4097):
        assert reader.feed(b"5;" + b"a" * (size - 2) if size > 1 else b"5", 0) == (0, MORE)
    assert reader.feed(b"5;" + b"a" * 4095, 0) == (0, BROKEN)


def test_chunks_are_followed_from_any_offset():
    reader = ChunkedReader()
    assert reader.feed(b"head5\r\nhel", 4) == (10, MORE)
    assert reader.feed(b"lo\r", 0) == (2, MORE)
    assert reader.feed(b"\r\n0\r\nX: y\r\n", 0) == (11, MORE)
    assert reader.feed(b"\r\nnext", 0) == (2, DONE)


# With the real rules.


def rules(headers=(), path=None):
    return RuleSet([Intercept("one", "ann", "s", "t", ("t",), 80, headers=headers, path=path)])


def decides(rule_set, data):
    return rule_set.decide(head(data)) is not None


def test_rules_see_octets():  # S25
    data = request(b"GET / HTTP/1.1", b"X: dev-\xff\xfe")
    assert decides(rules((HeaderRule("X", "dev-.*", regex=True),)), data)
    assert decides(rules((HeaderRule("x", "dev-[\\xfe-\\xff]+", regex=True),)), data)


def test_rules_tell_an_underscore_from_a_hyphen():  # S29
    rule_set = rules((HeaderRule("X-User", "v"),))
    assert decides(rule_set, request(b"GET / HTTP/1.1", b"x-user: v"))
    assert not decides(rule_set, request(b"GET / HTTP/1.1", b"X_User: v"))


def test_rules_see_the_targets_host():  # S32
    data = request(b"GET http://b.test/x HTTP/1.1")
    assert decides(rules((HeaderRule("Host", "b.test"),), PathRule(PathKind.EQUAL, "/x")), data)
    assert not decides(rules((HeaderRule("Host", "a.test"),)), data)
    assert decides(rules((HeaderRule("Host", "b.test"),)), data.replace(HOST, b""))


def test_the_server_as_a_whole_has_no_path():  # S33
    data = request(b"OPTIONS * HTTP/1.1")
    assert decides(rules(path=PathRule(PathKind.EQUAL, "*")), data)
    for rule in (PathRule(PathKind.PREFIX, "/"), PathRule(PathKind.REGEX, ".*/?.*")):
        assert not decides(rules(path=rule), data)


def test_paths_are_compared_raw():  # S57
    rule_set = rules(path=PathRule(PathKind.PREFIX, "/api"))
    for target in (b"/api", b"/api/x", b"/apix", b"/api?q"):
        assert decides(rule_set, request(b"GET " + target + b" HTTP/1.1"))
    for target in (b"//api", b"/%61pi", b"/API", b"/", b"/?/api"):
        assert not decides(rule_set, request(b"GET " + target + b" HTTP/1.1"))
