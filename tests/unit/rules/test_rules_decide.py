from itertools import pairwise

import pytest

from tpnet.model import HeaderRule, InvalidInput, PathKind, PathRule
from tpnet.rules import RuleSet, find_conflict, older_takes
from tpnet.rules.precedence import precedence, specificity

ANY = ()
BOB = (HeaderRule("Coder", "Bob"),)


def equal(text):
    return PathRule(PathKind.EQUAL, text)


def prefix(text):
    return PathRule(PathKind.PREFIX, text)


def regex(text):
    return PathRule(PathKind.REGEX, text)


def takes(intercept, headers, path, head):
    """Whether index and dry run say yes; they must agree."""
    rules = RuleSet([intercept(headers, path)])
    decided = rules.decide(head) is not None
    assert [step.chosen for step in rules.explain(head)] == [decided]
    return decided


@pytest.mark.parametrize(
    ("rules", "lines", "yes"),
    [
        ([("Coder", "Bob")], ["Coder: Bob"], True),
        ([("Coder", "Bob")], ["coder: Bob"], True),
        ([("CODER", "Bob")], ["cOdEr:Bob"], True),
        ([("Coder", "Bob")], ["Coder: bob"], False),
        ([("Coder", "Bob")], ["Coder: Bobby"], False),
        ([("Coder", "Bob")], [], False),
        ([("Coder", "Bob")], ["Coder: Al", "Coder: Bob"], True),
        ([("Coder", "Al, Bob")], ["Coder: Al", "Coder: Bob"], False),
        ([("Coder", "Bob")], ["Coder: Al, Bob"], False),
        ([("Coder", "")], ["Coder:"], True),
        ([("Coder", "")], [], False),
        ([("Coder", "B", "regex")], ["Coder: Bob"], False),
        ([("Coder", "B.*", "regex")], ["Coder: Bob"], True),
        ([("Coder", "ob", "regex")], ["Coder: Bob"], False),
        ([("Coder", "B.+", "regex")], ["Coder: Al", "Coder: Bob"], True),
        ([("Coder", "B.+", "regex")], ["Coder:"], False),
        ([("Coder", "(?i)bob", "regex")], ["Coder: BOB"], True),
        ([("Coder", "Al|Bob", "regex")], ["Coder: Bob"], True),
        ([("X", r"\xff\xfe", "regex")], [b"X: \xff\xfe"], True),
        ([("X", "..", "regex")], [b"X: \xff\xfe"], True),
        ([("City", "Zürich")], ["City: Zürich"], True),
        ([("City", "Zürich")], ["City: Zürich".encode("latin-1")], False),
        ([("City", "Zürich", "regex")], ["City: Zürich"], True),
        ([("City", "Z.rich", "regex")], ["City: Zürich"], False),
        ([("City", "Z..rich", "regex")], ["City: Zürich"], True),
        ([("X-User", "v")], ["X_User: v"], False),
        ([("X_User", "v")], ["X_User: v"], True),
        ([("Host", "a")], ["Host: a"], True),
        ([("Host", "a")], ["Host: a", "host: a"], True),
        ([("Host", "a")], ["Host: a", "Host: b"], False),
        ([("Host", ".", "regex")], ["Host: a", "Host: b"], False),
        ([("a", "1"), ("b", "2")], ["a: 1", "b: 2"], True),
        ([("a", "1"), ("b", "2")], ["a: 1"], False),
        ([("a", "1"), ("b", "2")], ["a: 1", "b: 1"], False),
        ([("Via", "x"), ("Via", "y")], ["Via: y", "Via: x"], True),
        ([("Via", "x"), ("Via", "y")], ["Via: x"], False),
        ([("a", "1"), ("a", "[12]", "regex")], ["a: 1"], True),
        ([("a", "1"), ("a", "2", "regex")], ["a: 1"], False),
    ],
)
def test_all_header_rules_must_hold_on_some_field_line(rules, lines, yes, intercept, head):
    headers = [HeaderRule(name, value, bool(is_regex)) for name, value, *is_regex in rules]
    assert takes(intercept, headers, None, head("/", *lines)) is yes


@pytest.mark.parametrize(
    ("rule", "path", "yes"),
    [
        (equal("/api"), "/api", True),
        (equal("/api"), "/api/", False),
        (equal("/api"), "/API", False),
        (equal("*"), "*", True),
        (equal("/ü"), "/ü", True),
        (equal("/ü"), "/%C3%BC", False),
        (prefix("/api"), "/api", True),
        (prefix("/api"), "/api/x", True),
        (prefix("/api"), "/apix", True),
        (prefix("/api"), "//api", False),
        (prefix("/api"), "/%61pi", False),
        (prefix("/api"), "/API", False),
        (prefix("/api"), "/ap", False),
        (prefix("/"), "/", True),
        (prefix("/"), "*", False),
        (regex("/v[12]/.*"), "/v2/", True),
        (regex("/v[12]/.*"), "/v2", False),
        (regex("/v"), "/v2", False),
        (regex(".+"), "*", False),
        (regex("/a|/b"), "/b", True),
        (regex("/.."), b"/\xff\xfe", True),
        (None, "*", True),
    ],
)
@pytest.mark.parametrize("headers", [ANY, BOB])
def test_the_raw_path_must_hold_too(rule, path, yes, headers, intercept, head):
    assert takes(intercept, headers, rule, head(path, "Coder: Bob")) is yes
    assert takes(intercept, BOB, rule, head(path)) is False


def in_order(intercept):
    two = (*BOB, HeaderRule("b", "2"))
    return [
        intercept((*two, HeaderRule("c", "3"))),
        intercept(two, equal("/a")),
        intercept(two),
        intercept(BOB, equal("/a")),
        intercept(BOB, prefix("/abc")),
        intercept(BOB, prefix("/aé")),
        intercept(BOB, prefix("/ab")),
        intercept(BOB, regex("/a.*"), serial=3),
        intercept(BOB, regex("/abcdefgh.*"), serial=4),
        intercept(BOB),
        intercept(ANY, equal("/a")),
        intercept(ANY, prefix("/a")),
        intercept(ANY, regex("/a")),
        intercept(ANY),
    ]


def test_precedence_is_header_rules_then_path_then_age(intercept):
    ordered = in_order(intercept)
    reverse = ordered[::-1]
    assert sorted(reverse, key=precedence) == ordered
    for earlier, later in pairwise(ordered):
        assert precedence(earlier) < precedence(later)
        assert specificity(earlier) <= specificity(later)


def test_the_best_of_those_that_match_takes_the_request(intercept, head):
    ordered = in_order(intercept)
    request = head("/a", "Coder: Bob", "b: 2", "c: 3")
    while True:
        rules = RuleSet(ordered)
        chosen = rules.decide(request)
        assert [step.intercept for step in rules.explain(request) if step.chosen] == (
            [chosen.name] if chosen else []
        )
        names = {step.intercept for step in rules.explain(request) if step.matches}
        matching = [one for one in ordered if one.name in names]
        assert matching[:1] == ([chosen] if chosen else [])
        if chosen is None:
            break
        ordered.remove(chosen)
    assert {i.path for i in ordered} == {prefix("/abc"), prefix("/aé"), prefix("/ab"), regex("/abcdefgh.*")}


def test_of_two_alike_the_older_takes_the_request_wherever_they_stand(intercept, head):
    for path in (None, equal("/a"), prefix("/a"), regex("/[a]")):
        older, younger = intercept(BOB, path), intercept(BOB, path)
        assert RuleSet([younger, older]).decide(head("/a", "coder: Bob")) is older
    first, second = intercept(ANY, regex("/a.?")), intercept(ANY, regex("/.b?"))
    assert RuleSet([second, first]).decide(head("/a")) is first


def test_a_longer_prefix_wins_over_shorter_ones_and_over_neighbours(intercept, head):
    texts = ["/", "/a", "/a/b", "/a/b/c", "/a/bb", "/a/b-", "/b", "/a0"]
    rules = RuleSet([intercept(ANY, prefix(text), name=text) for text in texts])
    found = {
        path: rules.decide(head(path)).name
        for path in ("/x", "/a/x", "/a/b/d", "/a/b/c/d", "/a/b~", "/b/", "/a/bbb")
    }
    assert found == {
        "/x": "/",
        "/a/x": "/a",
        "/a/b/d": "/a/b",
        "/a/b/c/d": "/a/b/c",
        "/a/b~": "/a/b",
        "/b/": "/b",
        "/a/bbb": "/a/bb",
    }
    assert rules.decide(head("*")) is None


def test_no_intercepts_take_nothing(head):
    assert RuleSet([]).decide(head("/", "Coder: Bob")) is None
    assert RuleSet([]).explain(head("/")) == []


def test_a_regex_that_does_not_compile_is_refused(intercept):
    with pytest.raises(InvalidInput, match="cannot be compiled"):
        RuleSet([intercept((HeaderRule("a", "("),)), intercept((HeaderRule("a", "(", regex=True),))])


def test_many_header_names_are_looked_up_by_those_of_the_request(intercept, head):
    rules = RuleSet([intercept((HeaderRule(f"x-{n}", "1"),), name=str(n)) for n in range(20)])
    request = head("/", "x-7: 1", "X-7: 1", "other: 1", "x-3: 2")
    assert rules.decide(request).name == "7"
    assert request.asked == 3  # the names, x-7 once, x-3


def test_a_request_is_not_asked_for_headers_that_could_not_better_the_answer(intercept, head):
    rules = RuleSet(
        [intercept((HeaderRule("a", "1"), HeaderRule("b", "1"))), intercept((HeaderRule("c", "1"),))]
    )
    request = head("/", "a: 1", "b: 1", "c: 1")
    assert rules.decide(request) is rules.intercepts[0]
    assert request.asked == 2


def test_a_path_that_could_not_better_the_answer_is_not_looked_at(intercept, head):
    class Watched:
        values = staticmethod(head("/", "Coder: Bob").values)
        looked = 0

        @property
        def path(self):
            self.looked += 1
            return b"/a"

    rules = RuleSet([intercept(BOB), intercept(ANY, prefix("/a"))])
    request = Watched()
    assert rules.decide(request) is rules.intercepts[0]
    assert request.looked == 1


def test_between_users_the_older_wins_and_a_shared_one_yields_to_what_is_narrower(intercept, head):
    narrow = (*BOB, HeaderRule("b", "2"))
    both, team = head("/a", "Coder: Bob", "b: 2"), head("/a", "Coder: Bob")
    for shared in (False, True):
        older = intercept(BOB, user="ann", shared=shared)
        younger = intercept(narrow, user="bob")
        wider = intercept(ANY, user="bob")
        rules = RuleSet([younger, wider, older])
        assert rules.decide(both) is (younger if shared else older)
        assert rules.decide(team) is older
        assert rules.decide(head("/a")) is wider


@pytest.mark.parametrize(
    ("older", "new", "refused"),
    [
        (("ann", BOB, None, False), ("bob", BOB, None, False), True),
        (("ann", BOB, None, True), ("bob", BOB, None, False), True),
        (("ann", BOB, None, False), ("ann", BOB, None, False), True),
        (("ann", BOB, None, False), ("bob", (*BOB, HeaderRule("b", "2")), None, False), True),
        (("ann", BOB, None, False), ("bob", BOB, prefix("/a"), False), True),
        (
            ("ann", (HeaderRule("coder", "B.+", True), HeaderRule("x", "1")), None, False),
            ("bob", (*BOB, HeaderRule("X", "1")), None, False),
            True,
        ),
        (("ann", BOB, None, True), ("bob", BOB, prefix("/a"), False), False),
        (("ann", BOB, None, False), ("ann", BOB, prefix("/a"), False), False),
        (("ann", BOB, prefix("/a"), False), ("bob", BOB, None, False), False),
        (("ann", ANY, None, False), ("bob", BOB, None, False), False),
        (("ann", ANY, None, False), ("bob", ANY, prefix("/a"), False), True),
        (("ann", ANY, None, False), ("bob", (HeaderRule("Host", ".+", True),), None, False), True),
    ],
)
def test_who_could_never_get_a_request_is_refused_and_told_who_takes_it(older, new, refused, intercept):
    first, second = (
        intercept(headers, path, user=user, shared=shared) for user, headers, path, shared in (older, new)
    )
    assert find_conflict(second, [first]) is (first if refused else None)
    assert f"{first.user}'s intercept {first.name}, which is older" in older_takes(
        first.user, first.name, first
    )
