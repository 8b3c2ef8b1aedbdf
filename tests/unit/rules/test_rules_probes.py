"""Which requests are the kubelet's, by the pod's own spec."""

import pytest

from tpnet.rules import Probe, ProbeSet

OWN = (("User-Agent", "Checker/1"), ("X-Probe", "yes"))


@pytest.mark.parametrize("path", ["/healthz", "/healthz?full=1", "/a%20b?x=%41", "/a(b)"])
def test_a_probe_is_known_by_its_path_and_all_of_its_own_headers(head, path):
    probes = ProbeSet([Probe("/other", OWN), Probe(path, OWN)])
    same = head("/", "X-PROBE:  yes ", "host: 10.0.0.1", "user-agent: Checker/1")
    assert probes.has(path.encode(), same)
    assert not probes.has(path.encode() + b"x", same)
    assert not probes.has(path.encode() + b"?y", same)
    for lines in (
        [],
        ["user-agent: Checker/1"],
        ["user-agent: Checker/1", "x-probe: no"],
        ["user-agent: Checker/1", "x-probe: yes", "x-probe: yes"],
        ["user-agent: checker/1", "x-probe: yes"],
    ):
        assert not probes.has(path.encode(), head("/", *lines)), lines


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/a b", b"/a%20b"),
        ("/%7Eme", b"/~me"),
        ("/\u00fc", b"/%C3%BC"),
        ('/a"b', b"/a%22b"),
        ("/50%", b"/50%25"),
        ("/a?b=c&d", b"/a?b=c&d"),
    ],
)
def test_how_a_path_is_written_on_the_wire_does_not_matter(head, path, sent):
    """``sent``: as Go's net/url writes it, and so the kubelet."""
    assert ProbeSet([Probe(path)]).has(sent, head(), from_node=True)


def test_a_probe_without_headers_of_its_own_is_known_by_the_node_alone(head):
    probes = ProbeSet([Probe("/healthz")])
    assert not probes.has(b"/healthz", head("/", "user-agent: curl/8"))
    assert probes.has(b"/healthz", head("/", "user-agent: curl/8"), from_node=True)
    assert not probes.has(b"/", head("/", "user-agent: curl/8"), from_node=True)


def test_from_the_node_the_path_is_enough(head):
    assert ProbeSet([Probe("/healthz", OWN)]).has(b"/healthz", head(), from_node=True)


def test_what_an_intercept_takes_by_a_header_that_no_probe_sends_is_no_probe(head):
    bob = head("/", "coder: bob", "user-agent: Checker/1", "x-probe: yes")
    probes = ProbeSet([Probe("/healthz", OWN), Probe("/ready", (*OWN, ("Coder", "bob")))])
    for from_node in (False, True):
        assert not probes.has(b"/healthz", bob, {b"coder"}, from_node=from_node)
        assert probes.has(b"/healthz", bob, {b"x-probe"}, from_node=from_node)
        assert probes.has(b"/ready", bob, {b"coder"}, from_node=from_node)


def test_a_header_that_is_given_twice_is_sent_twice(head):
    probes = ProbeSet([Probe("/", (("Accept", "a"), ("accept", "b")))])
    assert probes.has(b"/", head("/", "Accept: a", "Accept: b"))
    assert not probes.has(b"/", head("/", "Accept: a"))
