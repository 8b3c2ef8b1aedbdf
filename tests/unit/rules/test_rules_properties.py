import hashlib
import re

import re2
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tpnet.model import HeaderRule, InvalidInput, PathKind, PathRule
from tpnet.rules import RuleSet, check_rules, describe, find_conflict, parse_rules
from tpnet.rules import regex as rules_regex
from tpnet.rules.implies import implies, is_narrower
from tpnet.rules.precedence import precedence
from tpnet.rules.regex import RegexSet, never_begins_with, regex_fault

ID = "0123456789abcdef0123456789abcdef"
unhurried = settings(deadline=None, max_examples=200)

anything = st.text(st.characters(exclude_categories=()), max_size=30)
pieces = st.lists(
    st.sampled_from(
        [
            "auto",
            "all",
            "a",
            "B",
            "=",
            "=~",
            ":",
            " ",
            "\t",
            "~",
            "/",
            "?",
            "#",
            "*",
            "(",
            ")",
            "[",
            "]",
            "+",
            "\\",
            "{9}",
            ",",
            "é",
        ]
    ),
    max_size=8,
).map("".join)
flags = st.lists(anything | pieces | st.sampled_from(["auto", "all", "a=b"]), max_size=3)


@given(flags, flags, flags, flags)
@unhurried
@example(["=\udc80"], [], [], [])
@example([], [], [], ["\udc80"])
@example([], [], [], [")\t"])
def test_any_flag_text_parses_or_is_refused_with_a_sentence(headers, equal, prefix, regex):
    try:
        rules = parse_rules(headers, equal, prefix, regex, ID)
    except InvalidInput as refusal:
        assert refusal.message.isprintable()
        assert refusal.message.endswith(".")
    else:
        check_rules(rules.headers, rules.path)
        assert describe(rules).isprintable()


# Few names, values and paths, so that rules and requests meet often.
NAMES = ["host", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]
VALUES = ["1", "2", "12", "", "é"]
REGEXES = ["1.*", "[12]", ".+", "1|2", "é"]
header_rules = st.builds(
    lambda name, upper, kind: HeaderRule(name.upper() if upper else name, *kind),
    st.sampled_from(NAMES),
    st.booleans(),
    st.sampled_from(
        [(value, False, digest) for value in VALUES for digest in ("", "own", "ann's")]
        + [(regex, True, "") for regex in REGEXES]
    ),
)
path_rules = st.sampled_from(
    [
        None,
        *[PathRule(PathKind.EQUAL, text) for text in ("/", "/a", "/ab", "*", "/é")],
        *[PathRule(PathKind.PREFIX, text) for text in ("/", "/a", "/ab", "/abc", "/b", "/é")],
        *[PathRule(PathKind.REGEX, text) for text in ("/a.*", "/.", ".+", "/a|/ab", "/..")],
    ]
)
rule_pairs = st.tuples(
    st.lists(header_rules, max_size=3, unique_by=lambda r: (r.name.lower(), r.value, r.regex, r.digest)),
    path_rules,
)
few_names = st.lists(
    st.tuples(st.lists(header_rules.filter(lambda r: r.name.lower() in NAMES[:3]), max_size=3), path_rules),
    max_size=12,
)
lines = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from([v.encode() for v in VALUES] + [b"\xff", b"x"])),
    max_size=8,
)
paths = st.sampled_from(["/", "/a", "/ab", "/abc", "/abd", "/b", "/é", "/x", "*", ""])


def naive_match(intercept, head):
    """The rules as the reference has them, with Python's own regexes."""
    for rule in intercept.headers:
        values = [value for name, value in head.lines if name == rule.name.lower().encode()]
        if rule.name.lower() == "host" and len(set(values)) > 1:
            return False
        if rule.digest:
            words = (b"tpnet", intercept.user.encode(), rule.name.lower().encode())
            proofs = {hashlib.sha256(b"\0".join([*words, value])).hexdigest() for value in values}
            if rule.digest[9:] not in proofs:
                return False
        elif rule.regex:
            if not any(re.fullmatch(rule.value.encode(), value) for value in values):
                return False
        elif rule.value.encode() not in values:
            return False
    if intercept.path is None:
        return True
    kind, text = intercept.path.kind, intercept.path.value.encode()
    if head.path == b"*":
        return kind is PathKind.EQUAL and text == b"*"
    if kind is PathKind.EQUAL:
        return head.path == text
    if kind is PathKind.PREFIX:
        return head.path.startswith(text)
    return re.fullmatch(text, head.path) is not None


def naive_personal(intercept):
    return any(not rule.regex and rule.name.lower() not in {"host", "via"} for rule in intercept.headers)


def naive_before(one, other):
    """Whether the one of two of one user's comes before the other, clause by clause."""
    if naive_personal(one) is not naive_personal(other):
        return naive_personal(one)
    rules = [len({(r.name.lower(), r.value, r.regex, r.digest) for r in i.headers}) for i in (one, other)]
    if rules[0] != rules[1]:
        return rules[0] > rules[1]
    order = [PathKind.EQUAL, PathKind.PREFIX, PathKind.REGEX, None]
    kinds = [order.index(i.path.kind if i.path else None) for i in (one, other)]
    if kinds[0] != kinds[1]:
        return kinds[0] < kinds[1]
    if order[kinds[0]] is PathKind.PREFIX:
        lengths = [len(i.path.value.encode()) for i in (one, other)]
        if lengths[0] != lengths[1]:
            return lengths[0] > lengths[1]
    return one.serial < other.serial


def naive_older(one, other):
    if naive_personal(one) is not naive_personal(other):
        return naive_personal(one)
    return one.serial < other.serial


def least(intercepts, before):
    best = None
    for each in intercepts:
        if best is None or before(each, best):
            best = each
    return best


def naive_taker(intercepts, head):
    """As the reference says it."""
    matching = [each for each in intercepts if naive_match(each, head)]
    anchor = least(matching, naive_older)
    while anchor is not None and anchor.shared:
        narrow = [one for one in matching if is_narrower(one, anchor)]
        if not narrow:
            break
        anchor = least(narrow, naive_older)
    return anchor and least([one for one in matching if one.user == anchor.user], naive_before)


def request_of(head, path, pairs):
    request = head(path)
    request.lines = [(name.encode(), value) for name, value in pairs]
    return request


owned = st.tuples(rule_pairs, st.sampled_from(["ann", "bob", "cy"]), st.booleans())


def make(intercept, asked):
    return [intercept(*pair, user=user, shared=shared) for pair, user, shared in asked]


@given(
    st.lists(owned, max_size=12) | st.lists(rule_pairs.map(lambda pair: (pair, "bob", False)), max_size=12),
    st.lists(st.tuples(paths, lines), min_size=1, max_size=4),
    st.randoms(),
)
@unhurried
def test_the_index_decides_as_a_naive_scan_would(intercept, head, asked, requests, random):
    intercepts = make(intercept, asked)
    random.shuffle(intercepts)
    rules = RuleSet(intercepts)
    for path, pairs in requests:
        request = request_of(head, path, pairs)
        taker = naive_taker(intercepts, request)
        assert rules.decide(request) is taker
        steps = {step.intercept: step for step in rules.explain(request)}
        assert steps.keys() == {each.name for each in intercepts}
        for each in intercepts:
            assert steps[each.name].matches is naive_match(each, request)
            assert steps[each.name].chosen is (each is taker)
        if taker is not None:
            assert next(iter(steps)) == taker.name


@given(
    st.lists(rule_pairs, min_size=1, max_size=5),
    st.lists(st.tuples(rule_pairs, st.sampled_from(["bob", "cy"]), st.booleans()), max_size=8),
    st.lists(st.tuples(paths, lines), min_size=1, max_size=6),
)
@unhurried
def test_what_others_make_later_changes_nothing_of_where_ones_personal_requests_go(
    intercept, head, mine, theirs, requests
):
    own = [intercept(*pair, user="ann") for pair in mine]
    others = make(intercept, theirs)
    alone, together = RuleSet(own), RuleSet([*own, *others])
    for path, pairs in requests:
        request = request_of(head, path, pairs)
        taker = alone.decide(request)
        if taker is not None and naive_personal(taker):
            assert together.decide(request) is taker


@given(st.lists(owned, min_size=1, max_size=8), st.lists(st.tuples(paths, lines), min_size=1, max_size=6))
@unhurried
def test_who_is_refused_would_have_got_nothing_but_their_own_older_ones_requests(
    intercept, head, asked, requests
):
    *asked_before, new = make(intercept, asked)
    older = []
    for one in asked_before:  # who has lost does not stand
        if find_conflict(one, older) is None:
            older.append(one)
    if find_conflict(new, older) is not None:
        before, after = RuleSet(older), RuleSet([*older, new])
        for path, pairs in requests:
            request = request_of(head, path, pairs)
            if after.decide(request) is new:
                assert before.decide(request).user == new.user


@given(owned, owned, st.lists(st.tuples(paths, lines), min_size=1, max_size=6))
@unhurried
def test_what_is_implied_matches_wherever_the_implying_does(intercept, head, one, other, requests):
    narrow, wide = make(intercept, [one, other])
    assert implies(narrow, narrow)
    if implies(narrow, wide):
        for path, pairs in requests:
            request = request_of(head, path, pairs)
            assert naive_match(wide, request) or not naive_match(narrow, request)


@given(st.lists(owned, min_size=2, max_size=8), st.randoms())
@unhurried
def test_both_orders_are_total(intercept, asked, random):
    intercepts = make(intercept, asked)
    ordered = RuleSet(intercepts).intercepts
    random.shuffle(intercepts)
    assert RuleSet(intercepts).intercepts == ordered
    for place, one in enumerate(ordered):
        for other in ordered[place + 1 :]:
            assert naive_older(one, other)
            assert (precedence(one) < precedence(other)) is naive_before(one, other)


@given(rule_pairs, rule_pairs)
@unhurried
def test_a_conflict_is_mutual_and_everything_conflicts_with_itself(intercept, one, other):
    first, second = intercept(*one), intercept(*other)
    assert (find_conflict(first, [second]) is None) == (
        find_conflict(second, [first]) is None
    )  # both are bob's
    assert find_conflict(intercept(one[0][::-1], one[1]), [first]) is first


patterns = (
    st.lists(
        st.sampled_from(
            [
                "/",
                "a",
                "b",
                ".",
                "[/a]",
                "[^/]",
                "(?i)",
                "^",
                "$",
                "\\b",
                "\\B",
                "(",
                ")",
                "|",
                "*",
                "+",
                "?",
                "é",
            ]
        ),
        min_size=1,
        max_size=6,
    )
    .map("".join)
    .filter(lambda pattern: regex_fault(pattern) is None)
)
texts = st.text("/aAb", max_size=5).map(str.encode) | st.binary(max_size=5)


@given(st.lists(patterns, min_size=1, max_size=6), texts)
@unhurried
def test_a_set_of_regexes_matches_as_each_does_alone(asked, text):
    options = rules_regex._options(1)
    alone = [n for n, pattern in enumerate(asked) if re2.compile(pattern.encode(), options).fullmatch(text)]
    assert sorted(RegexSet([pattern.encode() for pattern in asked]).match(text)) == alone


@given(patterns, texts)
@unhurried
@example("\\B/a", b"a")
def test_a_regex_said_never_to_begin_with_a_slash_never_does(pattern, text):
    if never_begins_with(pattern, b"/"):
        assert not RegexSet([pattern.encode()]).match(b"/" + text)


def test_regexes_that_do_not_fit_one_set_are_spread_over_several(monkeypatch):
    whole = rules_regex._options
    monkeypatch.setattr(rules_regex, "_options", lambda count: whole(1))
    asked = [b"[a-z]{%d}x[0-9]+" % n for n in range(20, 60)]
    regexes = RegexSet(asked)
    assert len(regexes._parts) > 1
    assert [regexes.match(b"a" * n + b"x1") for n in range(20, 60)] == [[n] for n in range(40)]


def test_a_hostile_value_is_matched_right_where_the_automaton_does_not_fit():
    pattern = "(.*a.{40}){3}"
    assert regex_fault(pattern) is None
    regexes = RegexSet([pattern.encode()])
    for bits in range(1, 40):
        value = bytes(b"ab"[(bits * n * n >> 3) & 1] for n in range(600))
        assert bool(regexes.match(value)) == bool(re.fullmatch(pattern.encode(), value))
