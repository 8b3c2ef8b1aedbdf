"""What singles somebody's requests out, and what (nearly) every request has."""

import pytest

from tpnet.model import HeaderRule, PathKind, PathRule
from tpnet.rules import is_personal
from tpnet.rules.implies import implies
from tpnet.rules.personal import EVERYBODYS, EVERYBODYS_PREFIXES, cel

ALWAYS = sorted(EVERYBODYS) + [prefix + "x" for prefix in EVERYBODYS_PREFIXES]


@pytest.mark.parametrize("name", ALWAYS)
@pytest.mark.parametrize("spelled", [str.lower, str.upper, str.title])
@pytest.mark.parametrize(("value", "regex"), [("shop", False), (".+", True), ("[^ ]+", True)])
def test_what_every_request_has_singles_nobody_out(name, spelled, value, regex):
    assert not is_personal([HeaderRule(spelled(name), value, regex)])
    assert not is_personal([HeaderRule(spelled(name), value, regex), HeaderRule("Coder", ".+", regex=True)])
    assert is_personal([HeaderRule(spelled(name), value, regex), HeaderRule("Coder", "Bob")])


def test_only_an_exact_header_of_ones_own_is_personal():
    assert not is_personal([])
    assert not is_personal([HeaderRule("Coder", "Bob", regex=True)])
    assert is_personal([HeaderRule("x-tpnet-intercept-id", "6f1c" * 8)])
    assert is_personal([HeaderRule("Cookie", "session=bob")])


def test_the_policy_has_every_name():
    assert all(f"'{name}'" in cel() for name in (*EVERYBODYS, *EVERYBODYS_PREFIXES))


def path(kind, value):
    return PathRule(PathKind(kind), value)


@pytest.mark.parametrize(
    ("narrow", "wide", "yes"),
    [
        (None, None, True),
        (path("equal", "/a"), None, True),
        (None, path("prefix", "/"), False),
        (path("equal", "/a"), path("equal", "/a"), True),
        (path("equal", "/a"), path("equal", "/b"), False),
        (path("prefix", "/a"), path("equal", "/a"), False),
        (path("equal", "/a/b"), path("prefix", "/a"), True),
        (path("equal", "/b"), path("prefix", "/a"), False),
        (path("prefix", "/ab"), path("prefix", "/a"), True),
        (path("prefix", "/a"), path("prefix", "/ab"), False),
        (path("equal", "/a1"), path("regex", "/a."), True),
        (path("equal", "/b1"), path("regex", "/a."), False),
        (path("prefix", "/a1"), path("regex", "/a.*"), False),
        (path("regex", "/a"), path("prefix", "/a"), False),
        (path("equal", "*"), path("regex", ".+"), False),
        (path("equal", "*"), path("prefix", "/"), False),
    ],
)
def test_a_path_rule_implies_another(narrow, wide, yes, intercept):
    assert implies(intercept((), narrow), intercept((), wide)) is yes


def test_a_value_implies_a_regex_that_it_matches(intercept):
    bob, regex = HeaderRule("coder", "Bob"), HeaderRule("Coder", "B.*", regex=True)
    assert implies(intercept((bob,)), intercept((regex,)))
    assert not implies(intercept((regex,)), intercept((bob,)))
    assert not implies(intercept((HeaderRule("coder", "Al"),)), intercept((regex,)))
    assert not implies(intercept((HeaderRule("name", "Bob"),)), intercept((regex,)))
    assert implies(intercept((bob, HeaderRule("x", "1"))), intercept((regex,)))
