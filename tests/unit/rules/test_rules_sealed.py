"""Rules that keep a digest in the place of a value: who knows the value matches, and the digest is worth nothing."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpnet.model import HeaderRule, InvalidInput
from tpnet.rules import (
    AUTO_HEADER,
    Rules,
    RuleSet,
    check_rules,
    describe,
    find_conflict,
    is_personal,
    opens,
    parse_rules,
)
from tpnet.rules.implies import implies, same_rules
from tpnet.rules.sealed import MAX_SEALED_BYTES, mark_of, sealed

ID = "6f1c" + "0123456789abcdef" + "0" * 12
unhurried = settings(deadline=None, max_examples=200)
users = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
values = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


def auto(user="bob", value=ID):
    return sealed(HeaderRule(AUTO_HEADER, value), user)


def test_what_auto_keeps_is_the_digest_that_the_reference_says():
    rules = parse_rules([], [], [], [], ID)
    (kept,) = rules.as_kept("bob")
    proof = hashlib.sha256(f"tpnet\0bob\0{AUTO_HEADER}\0{ID}".encode()).hexdigest()
    assert kept == HeaderRule(AUTO_HEADER, digest=f"{hashlib.sha256(ID.encode()).hexdigest()[:8]}-{proof}")
    assert ID not in repr(kept)
    assert opens(ID, kept, "bob")
    assert not opens(ID, kept, "eve")
    assert not opens(ID, rules.headers[0], "bob")


def test_a_value_that_a_user_gives_is_kept_as_it_is():
    assert parse_rules(["a=1"], [], [], [], "").as_kept("bob") == (HeaderRule("a", "1"),)


def test_the_request_with_the_id_is_taken_and_no_other(intercept, head):
    rules = RuleSet([intercept([auto()], name="mine")])
    assert rules.decide(head("/", f"X-Tpnet-Intercept-Id: {ID}")).name == "mine"
    for value in ("", ID[:-1], ID.upper(), auto().digest, auto().digest[9:], "x" * 5000):
        assert rules.decide(head("/", f"x-tpnet-intercept-id: {value}")) is None
    assert rules.decide(head("/", f"other: {ID}")) is None
    assert is_personal([auto()])


def test_a_value_longer_than_any_rules_is_not_hashed(intercept, head):
    longest = "x" * MAX_SEALED_BYTES
    rules = RuleSet([intercept([auto(value=longest)]), intercept([auto(value=longest + "x")])])
    assert rules.decide(head("/", f"{AUTO_HEADER}: {longest}"))
    assert rules.decide(head("/", f"{AUTO_HEADER}: {longest}x")) is None


@given(users, users, values)
@unhurried
def test_another_who_copies_the_digest_takes_nothing_and_bars_nobody(intercept, head, owner, thief, value):
    rule = auto(owner, value)
    copy, own = intercept([rule], user=thief), intercept([rule], user=owner)
    request = head("/")
    request.lines = [(AUTO_HEADER.encode(), value.encode())]
    for taken in ([copy, own], [own, copy], [own]):
        assert RuleSet(taken).decide(request).user == owner
    if thief != owner:
        assert RuleSet([copy]).decide(request) is None
        assert find_conflict(own, [copy]) is None
        assert not implies(own, copy)


@given(
    users,
    st.sampled_from(["a", "A"]),
    st.sampled_from(["1", "2", ""]),
    st.sampled_from(["1", "2", ""]),
    users,
)
@unhurried
def test_a_value_that_is_said_equals_the_same_one_that_is_not(intercept, owner, name, said, hidden, other):
    plain = intercept([HeaderRule(name, said)], user=other)
    secret = intercept([sealed(HeaderRule("a", hidden), owner)], user=owner)
    both = intercept([HeaderRule(name, said), HeaderRule("b", "1")], user=other)
    alike = said == hidden
    assert same_rules(plain, secret) is same_rules(secret, plain) is alike
    assert implies(plain, secret) is implies(secret, plain) is alike
    assert implies(both, secret) is alike
    assert not implies(secret, both)
    assert (find_conflict(plain, [secret]) is secret) is alike


def test_a_regex_is_not_said_to_take_what_is_not_known(intercept):
    wide = intercept([HeaderRule("a", ".+", regex=True)])
    assert not implies(intercept([sealed(HeaderRule("a", "1"), "bob")]), wide)
    assert not implies(wide, intercept([sealed(HeaderRule("a", "1"), "bob")]))
    assert not implies(intercept([sealed(HeaderRule("b", "1"), "bob")]), intercept([HeaderRule("a", "1")]))


def test_many_who_repeat_a_mark_cost_one_proof_each_and_their_digests_none(intercept, head, monkeypatch):
    from tpnet.rules import index

    asked = []
    whole = index.proof
    monkeypatch.setattr(index, "proof", lambda *args: asked.append(args[0]) or whole(*args))
    forged = [HeaderRule(AUTO_HEADER, digest=f"{mark_of(auto())}-{n:064x}") for n in range(50)]
    rules = RuleSet([*(intercept([rule], user="eve") for rule in forged), intercept([auto()], name="mine")])
    assert rules.decide(head("/", f"{AUTO_HEADER}: {ID}")).name == "mine"
    assert sorted(asked) == [b"bob", b"eve"]
    asked.clear()
    assert rules.decide(head("/", f"{AUTO_HEADER}: other")) is None
    assert not asked


@pytest.mark.parametrize(
    "rule",
    [
        HeaderRule("a", "1", digest=auto().digest),
        HeaderRule("a", regex=True, digest=auto().digest),
        HeaderRule("a", digest="6f1c"),
        HeaderRule("a", digest=auto().digest.upper()),
        HeaderRule("a", digest=auto().digest + "\n"),
    ],
)
def test_a_digest_stands_alone_and_is_one(rule):
    with pytest.raises(InvalidInput, match="a digest stands in the place of an exact value"):
        check_rules([rule], None)


def test_a_digest_passes_the_check():
    check_rules([auto()], None)


SECRET = "Bearer-eyJhbGciOi"


@pytest.mark.parametrize(
    "rule", [HeaderRule("Authorization", SECRET), HeaderRule("Authorization", SECRET, regex=True)]
)
def test_no_text_about_rules_says_a_value_but_in_full(rule, intercept, head):
    assert SECRET not in describe(Rules((rule,)))
    assert f"#{mark_of(rule)}" in describe(Rules((rule,)))
    assert SECRET in describe(Rules((rule,)), full=True)
    steps = RuleSet([intercept([rule]), intercept([HeaderRule("a", "1")])]).explain(head("/", "a: 1"))
    assert SECRET not in repr(steps)
    with pytest.raises(InvalidInput) as refused:
        check_rules([rule, rule], None)
    assert SECRET not in str(refused.value)
    with pytest.raises(InvalidInput) as refused:
        check_rules([HeaderRule("Host", SECRET), HeaderRule("host", SECRET + "2")], None)
    assert SECRET not in str(refused.value)


def test_in_full_a_value_that_is_not_known_is_its_mark():
    assert describe(Rules((auto(),)), full=True) == f"{AUTO_HEADER}: #{mark_of(auto())}"
    assert describe(Rules((HeaderRule("a", ""),)), full=True) == "a: "


@pytest.mark.parametrize("end", ["(", "[", "\\1", "(?=a)", "{2000}", "**", "|"])
def test_no_refusal_of_a_rule_from_elsewhere_repeats_a_regex(end):
    with pytest.raises(InvalidInput) as refused:
        check_rules([HeaderRule("a", f"{SECRET}{end}", regex=True)], None)
    assert SECRET not in str(refused.value)
    assert refused.value.message.startswith("header rule a: ")
