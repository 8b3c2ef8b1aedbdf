import pytest

from tpnet.model import Conflict, HeaderRule, PathKind, PathRule
from tpnet.rules import Rules, RuleSet, conflict_error, describe, find_conflict
from tpnet.rules.describe import printable

BOB = (HeaderRule("Coder", "Bob"),)
API = PathRule(PathKind.PREFIX, "/api")


def steps(intercepts, request):
    return [
        (s.intercept, s.user, s.checks, s.matches, s.chosen, s.note)
        for s in RuleSet(intercepts).explain(request)
    ]


def test_a_dry_run_names_the_one_that_takes_it_and_why_not_the_others(intercept, head):
    intercepts = [
        intercept(name="orders-all", user="alice"),
        intercept(BOB, API, name="orders-bob"),
        intercept((HeaderRule("Coder", "Al"),), name="orders-al", user="al"),
    ]
    assert steps(intercepts, head("/api/pay", "Coder: Bob")) == [
        (
            "orders-bob",
            "bob",
            (("header Coder = #cd9fb1e1", True), ("path starts with /api", True)),
            True,
            True,
            "this one",
        ),
        ("orders-al", "al", (("header Coder = #1af8ffa2", False),), False, False, "Coder is Bob"),
        (
            "orders-all",
            "alice",
            (("takes everything", True),),
            True,
            False,
            "not asked: 1 is personal",
        ),
    ]


ONE, TWO_OF = (HeaderRule("a", "1"),), (HeaderRule("a", "1"), HeaderRule("b", "1"))


@pytest.mark.parametrize(
    ("others", "notes"),
    [
        ([("ann", ONE, {}), ("bob", TWO_OF, {})], ["this one", "not asked: 1 is older"]),
        ([("ann", ONE, {}), ("ann", TWO_OF, {})], ["this one", "not asked: 1 is more specific"]),
        ([("ann", ONE, {}), ("ann", (HeaderRule("b", "1"),), {})], ["this one", "not asked: 1 is older"]),
        (
            [("ann", ONE, {"shared": True}), ("bob", TWO_OF, {})],
            ["this one", "not asked: 1 takes less, and i0 is shared"],
        ),
        ([("ann", ONE, {"shared": True}), ("bob", ONE, {})], ["this one", "not asked: 1 is older"]),
        (
            [("ann", ONE, {}), ("bob", (HeaderRule("b", "1"),), {}), ("ann", TWO_OF, {})],
            ["this one", "not asked: 1 is more specific", "not asked: 1 is ann's, whose i0 is older"],
        ),
        ([("ann", (), {}), ("bob", (), {})], ["this one", "not asked: 1 is older"]),
    ],
)
def test_a_dry_run_says_why_another_comes_first(others, notes, intercept, head):
    made = [
        intercept(headers, user=user, name=f"i{n}", **more) for n, (user, headers, more) in enumerate(others)
    ]
    assert [step[-1] for step in steps(made, head("/", "a: 1", "b: 1"))] == notes


@pytest.mark.parametrize(
    ("rule", "path", "lines", "check", "note"),
    [
        (None, "/x", [], "path starts with /api", "there is no header Coder; the path is /x"),
        (None, "/api", ["Coder: Al"], "path starts with /api", "Coder is Al"),
        (None, "/api", ["Coder:"], "path starts with /api", "Coder is empty"),
        (None, "/api", ["Coder: A", "Coder: B"], "path starts with /api", "Coder is A, B"),
        (
            None,
            "/api",
            [f"Coder: {n}" for n in range(5)],
            "path starts with /api",
            "Coder is 0, 1, 2, 2 more",
        ),
        (None, "/api", [b"Coder: \xff\x1b[31m"], "path starts with /api", r"Coder is \xff\x1b[31m"),
        (None, "/api", ["Coder: " + "x" * 61], "path starts with /api", "Coder is " + "x" * 60 + "…"),
        (PathRule(PathKind.EQUAL, "/a"), "/b", ["coder: Bob"], "path is /a", "the path is /b"),
        (PathRule(PathKind.REGEX, "/a.+"), "/b", ["coder: Bob"], "path matches /a.+", "the path is /b"),
        (PathRule(PathKind.REGEX, ".+"), "*", ["coder: Bob"], "path matches .+", "the path is *"),
        (PathRule(PathKind.REGEX, "/.+"), "", ["coder: Bob"], "path matches /.+", "the path is empty"),
    ],
)
def test_a_dry_run_says_what_the_request_has_instead(rule, path, lines, check, note, intercept, head):
    ((_, _, checks, matches, chosen, said),) = steps([intercept(BOB, rule or API)], head(path, *lines))
    assert (matches, chosen, said) == (False, False, note)
    assert [text for text, _ in checks] == ["header Coder = #cd9fb1e1", check]


def test_a_dry_run_says_that_hosts_differ(intercept, head):
    rules = [intercept((HeaderRule("Host", "a"),))]
    ((_, _, _, matches, _, note),) = steps(rules, head("/", "Host: a", "Host: b"))
    assert not matches
    assert note == "there are several Host headers that differ, so no rule on it holds"


@pytest.mark.parametrize(
    ("headers", "path", "text"),
    [
        ((), None, "everything"),
        (BOB, None, "Coder: Bob"),
        (BOB, API, "Coder: Bob · /api…"),
        ((), PathRule(PathKind.EQUAL, "/api"), "/api"),
        ((*BOB, HeaderRule("x", "a.+", regex=True)), None, "Coder: Bob · x =~ a.+"),
        ((), PathRule(PathKind.REGEX, "/v[12]/.*"), "path =~ /v[12]/.*"),
        (
            (HeaderRule("x-tpnet-intercept-id", "6f1c" + "0" * 28),),
            API,
            f"x-tpnet-intercept-id: 6f1c{'0' * 28} · /api…",
        ),
        ((HeaderRule("X-Tpnet-Intercept-Id", "mine"),), None, "X-Tpnet-Intercept-Id: mine"),
        ((HeaderRule("a", "\u202eb\x1b"),), None, r"a: \u202eb\x1b"),
    ],
)
def test_rules_as_a_cell_of_a_table(headers, path, text, intercept):
    assert describe(Rules(headers, path), full=True) == text
    assert describe(intercept(headers, path), full=True) == text


def test_printable_text_is_cut_where_told():
    assert printable("Zürich 日本") == "Zürich 日本"
    assert printable("abcdef", 3) == "abc…"
    assert printable("abc", 3) == "abc"
    assert printable("\udcff\n") == r"\udcff\n"


TWO = (HeaderRule("a", "1"), HeaderRule("B", "2", regex=True))


@pytest.mark.parametrize(
    ("headers", "path", "conflicts"),
    [
        (TWO, API, True),
        (TWO[::-1], API, True),
        ((HeaderRule("A", "1"), HeaderRule("b", "2", regex=True)), API, True),
        ((HeaderRule("a", "1"), HeaderRule("b", "2")), API, False),
        (TWO[:1], API, False),
        ((*TWO, *BOB), API, False),
        (TWO, None, False),
        (TWO, PathRule(PathKind.EQUAL, "/api"), False),
        (TWO, PathRule(PathKind.PREFIX, "/api/"), False),
        ((), API, False),
    ],
)
def test_the_same_header_and_path_rules_conflict(headers, path, conflicts, intercept):
    other, third = intercept(TWO, API), intercept(BOB)
    found = find_conflict(intercept(headers, path), [third, other])
    assert found is (other if conflicts else None)


@pytest.mark.parametrize(
    ("headers", "path", "age", "message", "hint"),
    [
        (
            BOB,
            None,
            725,
            "alice's intercept orders-a (on for 12 min) already takes requests with Coder: Bob.",
            "Use another value, or --http-header=auto for one of your own.",
        ),
        (
            (),
            None,
            3 * 3600,
            "alice's intercept orders-a (on for 3 h) already takes everything.",
            "Use --http-header=auto to take only your own requests.",
        ),
        (
            (),
            API,
            200_000,
            "alice's intercept orders-a (on for 2 d) already takes requests with /api….",
            "Use --http-header=auto to take only your own requests.",
        ),
        (
            (HeaderRule("x-tpnet-intercept-id", "6f1c" + "0" * 28),),
            None,
            -5,
            "alice's intercept orders-a (on for 0 s) already takes requests with x-tpnet-intercept-id: #278195eb.",
            "End it with tpnet leave orders-a, or give each a path of its own.",
        ),
    ],
)
def test_a_conflict_names_the_other_intercept_and_the_way_out(headers, path, age, message, hint, intercept):
    other = intercept(headers, path, name="orders-a", user="alice", created=1000.0)
    error = conflict_error(other, 1000.0 + age)
    assert isinstance(error, Conflict)
    assert (error.message, error.hint) == (message, hint)
