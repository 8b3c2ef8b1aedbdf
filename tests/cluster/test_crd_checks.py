"""What the API server refuses of an intercept by itself: the same as the flags of ``tpnet intercept``."""

import pytest
import yaml
from kubelab.tools import wait_until
from who import admin, path

from tpnet.control.kubernetes.convert import to_api
from tpnet.control.kubernetes.install import manifests
from tpnet.model import HeaderRule, InvalidInput, PathKind, PathRule
from tpnet.rules import check_rules
from tpnet.rules.sealed import sealed

DIGEST = sealed(HeaderRule("X", "1"), "bob").digest
NAME = "The name of a header has at least one character"
CONTROL = "cannot hold a control character"
BLANK = "A blank at the beginning or end is never part of a header's value."
EMPTY = "A regex must not match the empty string"
SLASH = "A path begins with a slash. Write it as in the request, such as /api."
QUERY = "The path that is compared has no query, no # and no blank"
TWICE = "A header rule is given twice. Drop one of them."
HOST = "A request has one Host, so it cannot be two."
SYNTAX = "error parsing regexp"

H, R = HeaderRule, lambda name, value: HeaderRule(name, value, regex=True)
EQUAL, PREFIX, REGEX = PathKind

HEADERS = [
    ([H("Coder", "Bob")], ""),
    ([H("coder", "")], ""),
    ([H("a!#$%&'*+-.^_`|~0", "b\tc")], ""),
    ([H("X", "é日本")], ""),
    ([H("X", "a,b c=d:e")], ""),
    ([H("X", "x" * 4096)], ""),
    ([R("X", "a.+")], ""),
    ([R("X", "(?i)bob|eve")], ""),
    ([R("X", "[ ]a[ ]")], ""),
    ([H("X", "1"), H("X", "2")], ""),
    ([H("X", "1"), R("X", "1")], ""),
    ([H("Host", "a"), R("host", "b.+")], ""),
    ([H(f"h{n}", "v") for n in range(32)], ""),
    ([H("X", digest=DIGEST)], ""),
    ([H("X", digest=DIGEST), H("X", "1"), H("Y", digest=DIGEST)], ""),
    ([H("", "Bob")], NAME),
    ([H("a b", "Bob")], NAME),
    ([H("a:b", "Bob")], NAME),
    ([H("é", "Bob")], NAME),
    ([H("a\n", "Bob")], NAME),
    ([H("X", "a\nb")], CONTROL),
    ([H("X", "a\x7f")], CONTROL),
    ([H("X", "a\x85")], CONTROL),
    ([H("X", " a")], BLANK),
    ([H("X", "a\t")], BLANK),
    ([R("X", "a ")], BLANK),
    ([R("X", "")], EMPTY),
    ([R("X", ".*")], EMPTY),
    ([R("X", "(a|b)?")], EMPTY),
    ([R("X", "(")], SYNTAX),
    ([R("X", "(?=a)b")], SYNTAX),
    ([R("X", r"(a)\1")], SYNTAX),
    ([R("X", "x" * 1025)], "A regex cannot be longer than 1024 characters."),
    ([H("X", "x" * 4097)], "may not be more than 4096"),
    ([H("X", "1"), H("x", "1")], TWICE),
    ([R("X", "a"), R("X", "a")], TWICE),
    ([H("X", digest=DIGEST), H("x", digest=DIGEST)], TWICE),
    ([H("X", digest=DIGEST[1:])], "spec.headers[0].digest"),
    ([H("X", digest=DIGEST.upper())], "spec.headers[0].digest"),
    ([H("X", digest=DIGEST + "\n")], "spec.headers[0].digest"),
    ([H("X", "1", digest=DIGEST)], "A header rule has a value, or in its place a digest."),
    ([H("X", regex=True, digest=DIGEST)], "has no digest"),
    ([H("Host", "a"), H("host", "b")], HOST),
    ([H(f"h{n}", "v") for n in range(33)], "must have at most 32 items"),
]
PATHS = [
    (PathRule(EQUAL, "/api/version"), ""),
    (PathRule(EQUAL, "*"), ""),
    (PathRule(PREFIX, "/"), ""),
    (PathRule(PREFIX, "/é%20&;"), ""),
    (PathRule(REGEX, "/(staging-)?api/.*"), ""),
    (PathRule(REGEX, ".*api.*"), ""),
    (PathRule(EQUAL, "api"), SLASH),
    (PathRule(PREFIX, "*"), SLASH),
    (PathRule(EQUAL, ""), "at least 1 chars"),
    (PathRule(EQUAL, "/a?b=c"), QUERY),
    (PathRule(PREFIX, "/a#b"), QUERY),
    (PathRule(PREFIX, "/a b"), QUERY),
    (PathRule(PREFIX, "/a\tb"), QUERY),
    (PathRule(EQUAL, "/a\x00b"), CONTROL),
    (PathRule(REGEX, ".*"), EMPTY),
    (PathRule(REGEX, "(/a)?"), EMPTY),
    (PathRule(REGEX, "/("), SYNTAX),
    (PathRule(REGEX, "/" + "x" * 1024), "A regex cannot be longer than 1024 characters."),
]
# What CEL cannot say: agents refuse it.
LEFT_TO_AGENTS = [
    ([H("X", "é" * 4000)], None),
    ([H("X", "1")], PathRule(REGEX, "api/.*")),
]


@pytest.fixture(scope="module")
def ask(cluster):
    """Create an intercept, but only for show; the answer."""
    wanted = {"Namespace", "CustomResourceDefinition"}
    cluster.apply(yaml.safe_dump_all([obj for obj in manifests() if obj["kind"] in wanted]))
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=20s")
    who = admin(cluster)
    me = who.ask(
        "POST",
        "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"},
    ).body["status"]["userInfo"]["username"]

    def create(headers=(), rule=None, plural="intercepts", **spec):
        body = {
            "user": me,
            "session": "s",
            "target": {"kind": "Service", "name": "orders"},
            "headers": [header if isinstance(header, dict) else to_api(header) for header in headers],
            "tunnelPort": 20000,
            **spec,
        }
        if rule is not None:
            body["path"] = to_api(rule)
        obj = {
            "apiVersion": "tpnet.dev/v1alpha1",
            "kind": "Intercept",
            "metadata": {"name": "i"},
            "spec": body,
        }
        return who.ask("POST", f"{path(plural, 'default')}?dryRun=All&fieldValidation=Strict", obj)

    return create


def agrees(answer, headers, rule, message):
    try:
        check_rules(headers, rule)
        fine = True
    except InvalidInput:
        fine = False
    assert fine is (not message)
    assert answer.allowed is fine, answer.message
    assert message in answer.message


@pytest.mark.parametrize(("headers", "message"), HEADERS, ids=range(len(HEADERS)))
def test_header_rules_are_refused_as_the_flags_are(ask, headers, message):
    agrees(ask(headers), headers, None, message)


@pytest.mark.parametrize(("rule", "message"), PATHS, ids=range(len(PATHS)))
def test_path_rules_are_refused_as_the_flags_are(ask, rule, message):
    headers = [H("Coder", "Bob")]
    agrees(ask(headers, rule), headers, rule, message)


@pytest.mark.parametrize(("headers", "rule"), LEFT_TO_AGENTS, ids=range(len(LEFT_TO_AGENTS)))
def test_what_the_api_server_cannot_tell_is_left_to_the_agents(ask, headers, rule):
    assert ask(headers, rule).allowed
    with pytest.raises(InvalidInput):
        check_rules(headers, rule)


@pytest.mark.parametrize("port", [1, 65535, "http", "a-1"])
def test_a_port_is_a_number_or_a_name(ask, port):
    assert ask([H("X", "1")], port=port).allowed


@pytest.mark.parametrize("port", [0, -1, 65536, "", "Http", "-a", "80 ", "a" * 64, 1.5, [80]])
def test_anything_else_is_no_port(ask, port):
    answer = ask([H("X", "1")], port=port)
    assert answer.code in {400, 422}, answer.message
    assert "spec.port" in answer.message


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"target": {"kind": "Job", "name": "x"}}, 'Unsupported value: "Job"'),
        ({"target": {"kind": "Service", "name": ""}}, "spec.target.name"),
        ({"onFailure": "retry"}, 'Unsupported value: "retry"'),
        ({"tunnelPort": 0}, "spec.tunnelPort"),
        ({"user": ""}, "spec.user"),
        ({"weight": 3}, 'unknown field "spec.weight"'),
        ({"path": {"kind": "equal"}}, "spec.path.value: Required value"),
        ({"path": [{"kind": "equal", "value": "/"}, {"kind": "prefix", "value": "/"}]}, "spec.path"),
    ],
)
def test_other_fields_are_held_to_their_kind(ask, spec, message):
    answer = ask([H("X", "1")], **spec)
    assert answer.code in {400, 422}
    assert message in answer.message


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({"user": "eve"}, "The user of an intercept cannot be changed."),
        ({"target": {"name": "cart"}}, "The target of an intercept cannot be changed."),
        ({"headers": []}, "The header rules of an intercept cannot be changed."),
        ({"port": 81}, "The port of an intercept cannot be changed."),
        ({"port": None}, "The port of an intercept cannot be changed."),
        ({"path": {"kind": "equal", "value": "/b"}}, "The path rule of an intercept cannot be changed."),
        ({"path": None}, "The path rule of an intercept cannot be changed."),
        ({"onFailure": "error"}, "What an intercept does on failure cannot be changed."),
        ({"session": "t"}, ""),
        ({"tunnelPort": 20001}, ""),
        ({"handler": "localhost:9000"}, ""),
    ],
)
def test_what_an_intercept_asks_for_stays_and_where_it_goes_may_change(cluster, ask, patch, message):
    who = admin(cluster)
    rule = PathRule(PREFIX, "/a")
    with cluster.namespace("fixed", wait=False) as name:
        shown = ask([H("X", "1")], rule, port=80).body
        shown["metadata"] = {"name": "i"}
        made = who.ask("POST", path("intercepts", name), shown)
        assert made.allowed, made.message
        answer = who.merge("intercepts", name, "i", {"spec": patch})
        assert answer.allowed is (not message), answer.message
        assert message in answer.message


def test_a_header_rule_without_value_and_digest_is_none(ask):
    assert ask([{"name": "X", "value": ""}]).allowed
    answer = ask([{"name": "X"}])
    assert answer.code == 422
    assert "A header rule has a value, or in its place a digest." in answer.message


def test_kubectl_explains_every_field(cluster, ask):
    assert ask([H("X", "1")]).allowed
    field = ("explain", "tpi.spec.onFailure")
    # Discovery comes a moment after the kind.
    wait_until(lambda: cluster.kubectl(*field, check=False).returncode == 0, 20, "kubectl to know tpi")
    text = cluster.kubectl(*field).stdout
    assert "What becomes of a matched request when the developer's end is not there" in " ".join(text.split())
    assert "DESCRIPTION:\n    <empty>" not in cluster.kubectl("explain", "tpi.status.nodes.endpoints").stdout
