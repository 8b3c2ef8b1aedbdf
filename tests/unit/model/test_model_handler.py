"""Every spelling of a handler, and what is said of those that are none."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tpnet.model import Handler, InvalidInput, parse_handler, split_handler

PORTS = st.integers(1, 65535)
NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,10}[a-z0-9](\.[a-z][a-z0-9]{0,8}){0,2}", fullmatch=True)
FOURS = st.ip_addresses(v=4).map(str)
SIXES = st.ip_addresses(v=6).map(str)


@given(host=NAMES | FOURS, port=PORTS, other=PORTS)
def test_names_and_ipv4_addresses_with_the_port_in_the_text_or_beside_it(host, port, other):
    assert parse_handler(f"{host}:{port}", other) == parse_handler(host, port) == Handler(host, port)
    assert split_handler(host) == (host, None)


@given(host=SIXES, port=PORTS, other=PORTS)
def test_ipv6_addresses_with_brackets_in_every_spelling(host, port, other):
    assert parse_handler(f"[{host}]:{port}", other) == parse_handler(f"[{host}]", port) == Handler(host, port)
    assert str(Handler(host, port)) == f"[{host}]:{port}"


@given(host=SIXES, port=PORTS)
def test_ipv6_address_without_brackets_is_an_address_or_refused_with_both_readings(host, port):
    try:
        assert parse_handler(host, port) == Handler(host, port)
    except InvalidInput as error:
        # Its last group could be a port.
        readings = re.findall(r"\[[0-9a-f:]+\](?::[0-9]+)?", error.hint)
        assert {parse_handler(one, port) for one in readings} >= {Handler(host, port)}
        assert len(readings) == 2


@given(host=SIXES, port=PORTS)
def test_ipv6_address_and_port_without_brackets_is_never_taken_for_something_else(host, port):
    assume("." not in host)
    with pytest.raises(InvalidInput) as caught:
        split_handler(f"{host}:{port}")
    assert f"[{host}]:{port}" in caught.value.hint


@given(port=PORTS)
def test_what_names_no_host_means_this_computer(port):
    spellings = [f"{port}", f":{port}", f"localhost:{port}"]
    assert {parse_handler(text) for text in spellings} == {Handler("localhost", port)}
    assert parse_handler("", port) == parse_handler("localhost", port) == Handler("localhost", port)


@given(st.text() | st.text("[]:.%/-_ 01a\n\u0661", max_size=12))
def test_any_text_is_a_handler_whose_spelling_means_the_same_or_is_refused(text):
    try:
        handler = parse_handler(text, 80)
    except InvalidInput as error:
        assert error.hint
        return
    assert parse_handler(str(handler)) == handler


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        ("http://localhost:5173/", "is a URL", "localhost:5173"),
        ("https://[::1]:5173/a?b", "is a URL", "[::1]:5173"),
        ("host:", "is not HOST:PORT", "localhost:8080"),
        ("host:http", "is not HOST:PORT", "localhost:8080"),
        ("a b", "is not HOST:PORT", ""),
        ("me@host", "is not HOST:PORT", ""),
        ("host:1\n", "is not HOST:PORT", ""),
        ("host:\u0661", "is not HOST:PORT", ""),
        ("host:-1", "is not HOST:PORT", ""),
        ("[::1", "is not HOST:PORT", "[::1]:8080"),
        ("[::1]8080", "is not HOST:PORT", "[::1]:8080"),
        ("[localhost]:80", "is not HOST:PORT", ""),
        ("[fe80::1%eth0]:80", "is not HOST:PORT", ""),
        ("a:b:c", "is not HOST:PORT", ""),
        ("host:0", "no port that there is", "1 to 65535"),
        ("host:65536", "no port that there is", "1 to 65535"),
        ("0", "no port that there is", ""),
        ("::1:5173", "is an address, or an address and a port", "[::1]:5173 or [::1:5173]"),
    ],
)
def test_what_is_none_is_refused_and_what_is_right_said(text, words, hint):
    with pytest.raises(InvalidInput, match=re.escape(words)) as caught:
        split_handler(text)
    assert hint in caught.value.hint


def test_a_handler_without_any_port_is_refused():
    with pytest.raises(InvalidInput, match="names no port"):
        parse_handler("dev-box")
