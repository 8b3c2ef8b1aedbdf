"""What one decision costs, counted: lines of ours that run, and questions to the head."""

import sys

import pytest

from tpnet.model import HeaderRule, PathKind, PathRule
from tpnet.rules import RuleSet


def rule(name, value, regex=False):
    return HeaderRule(name, value, regex)


# What the nth of many intercepts asks for, and a request that the seventh takes.
FAMILIES = {
    "a header value each": (
        lambda n: ([rule("coder", f"dev-{n}")], None),
        ("/", "coder: dev-7"),
    ),
    "a header value each, among many lines": (
        lambda n: ([rule("coder", f"dev-{n}")], None),
        ("/", *[f"x-{i}: {i}" for i in range(50)], "coder: dev-7"),
    ),
    "a header name each": (
        lambda n: ([rule(f"x-dev-{n}", "1")], None),
        ("/", "x-dev-7: 1", "accept: */*"),
    ),
    "one shared header and one of their own": (
        lambda n: ([rule("a-env", "dev"), rule("coder", f"dev-{n}")], None),
        ("/", "a-env: dev", "coder: dev-7"),
    ),
    "one of their own and one shared header": (
        lambda n: ([rule("coder", f"dev-{n}"), rule("env", "dev")], None),
        ("/", "env: dev", "coder: dev-7"),
    ),
    "two headers shared by many each": (
        lambda n: ([rule("a", str(n // 33)), rule("b", str(n % 33))], None),
        ("/", "a: 0", "b: 7"),
    ),
    "a regex each": (
        lambda n: ([rule("coder", f"dev-{n}(-.+)?", regex=True)], None),
        ("/", "coder: dev-7-x"),
    ),
    "an equal path each": (
        lambda n: ([], PathRule(PathKind.EQUAL, f"/svc/{n}")),
        ("/svc/7",),
    ),
    "a path prefix each": (
        lambda n: ([rule("coder", "bob")], PathRule(PathKind.PREFIX, f"/svc/{n}/")),
        ("/svc/7/x", "coder: bob"),
    ),
    "a path prefix each, all next to the request's": (
        lambda n: ([], PathRule(PathKind.PREFIX, "/" if n == 7 else f"/svc/{n}/")),
        ("/svc~",),
    ),
    "a path regex each": (
        lambda n: ([rule("coder", "bob")], PathRule(PathKind.REGEX, f"/svc/{n}/.*")),
        ("/svc/7/x", "coder: bob"),
    ),
}


def cost(rules, request):
    """Lines of tpnet.rules that run in one decision."""
    lines = 0

    def on_line(frame, event, arg):
        nonlocal lines
        lines += event == "line"
        return on_line

    def on_call(frame, event, arg):
        return on_line if "/tpnet/rules/" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        rules.decide(request)
    finally:
        sys.settrace(before)
    return lines


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("users", [1, 1000])
def test_a_thousand_intercepts_decide_at_the_cost_of_few(family, users, intercept, head):
    ask, (path, *lines) = FAMILIES[family]
    costs = {}
    for size in (1, 20, 1000):
        numbers = [7, *[n for n in range(size) if n != 7]][:size]
        rules = RuleSet([intercept(*ask(n), name=str(n), user=f"u{n % users}") for n in numbers])
        hit, miss = head(path, *lines), head("*", "coder: nobody", "a-env: prod")
        assert rules.decide(hit).name == "7"
        assert rules.decide(miss) is None
        hit.asked = miss.asked = 0
        costs[size] = (cost(rules, hit), cost(rules, miss), hit.asked, miss.asked)
    assert costs[1000] == costs[20]
    assert 0 < costs[1000][0] <= costs[1][0] + 3
    assert 0 < costs[1000][1] <= costs[1][1] + 3


def test_repeated_field_lines_are_compared_once_each(intercept, head):
    rules = RuleSet([intercept([rule("coder", "b.b", regex=True)])])
    once, often = head("/", "coder: x", "coder: y"), head("/", *["coder: x", "coder: y"] * 500)
    assert cost(rules, often) == cost(rules, once)
