"""Every text that an object of the API server can hold, in everything that shows it: seen, never obeyed, no line forged.

The objects are walked from the schema itself, so that a new field is tried as well. What the schema's patterns keep out
is tried all the same: objects of before there were patterns stay, and so do API servers that do not know them.
"""

import io
import json
import re

import cli_cluster_samples as on_cluster
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cli_foreign_text import HOSTILE, OBEYED, STYLE

from tpnet.control.dry_run import explain_head, request_head
from tpnet.control.kubernetes.convert import from_api
from tpnet.control.kubernetes.schema import KINDS
from tpnet.control.kubernetes.view import model_intercept, status_of, target_statuses
from tpnet.model import AgentStatus, InvalidInput, NodeAgentSpec, SessionSpec, Status
from tpnet_cli import main
from tpnet_cli.main import run

SCHEMAS = {
    kind.resource.kind: kind.definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for kind in KINDS
}
FORGED = "✓ all is well"


def texts_of(schema, where=()):
    """The path of every field that holds a text which its owner chooses."""
    for name, below in schema.get("properties", {}).items():
        yield from texts_of(below, (*where, name))
    if "items" in schema:
        yield from texts_of(schema["items"], where)
    if (schema.get("type") == "string" or "anyOf" in schema) and "enum" not in schema:
        yield where


FIELDS = [
    (kind, path)
    for kind, schema in SCHEMAS.items()
    for path in texts_of(schema)
    if path not in {("kind",), ("apiVersion",)}
]


def filled(schema, poison, where=()):
    """An object with all of its fields. ``poison``: the text of a field by its path, if it is not to be a plain one."""
    if "properties" in schema:
        return {name: filled(below, poison, (*where, name)) for name, below in schema["properties"].items()}
    if "items" in schema:
        return [filled(schema["items"], poison, where)]
    if "enum" in schema:
        return "False" if "False" in schema["enum"] else schema["enum"][0]
    kind = schema.get("type", "string")
    if kind == "string":
        plain = "2026-01-01T00:00:00Z" if schema.get("format") == "date-time" else "plain"
        return poison.get(where, plain)
    return {"boolean": False, "integer": max(1, schema.get("minimum", 1)), "object": {}}[kind]


def objects(kind, poison):
    """Two: what an agent refuses has other texts than what it does not."""
    for accepted in (True, False):
        obj = filled(SCHEMAS[kind], poison)
        name = f"i-{accepted}".lower()
        obj["metadata"] = {
            "name": name,
            "namespace": "shop",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "generation": 1,
        }
        if kind == "Intercept":
            obj["spec"]["headers"][0].pop("digest")
            if accepted:
                obj["status"]["conditions"] = []
            elif ("status", "conditions", "type") not in poison:
                obj["status"]["conditions"][0]["type"] = "Accepted"
        yield obj


class Walked(on_cluster.FakeCluster):
    """A cluster whose objects come through the code that reads the API server's."""

    def __init__(self, poison):
        super().__init__()
        self._items = list(objects("Intercept", poison.get("Intercept", {})))
        agent, _ = objects("NodeAgent", poison.get("NodeAgent", {}))
        self._agent = from_api(NodeAgentSpec, agent["spec"])
        session, _ = objects("Session", poison.get("Session", {}))
        self._session = from_api(SessionSpec, session["spec"])

    def status(self):
        about = AgentStatus(self._agent.version, 0, "", "2 nodes", self._agent.redirect, "", "")
        return Status(about, target_statuses(self._items), tuple(status_of(item) for item in self._items))

    def explain(self, *args):
        found = [model_intercept(item, n, 80) for n, item in enumerate(self._items)]
        return explain_head(found, request_head("GET", "/", []), lambda one: f"{one.user} is away", "none")

    def facts(self):
        """What a session daemon says, whose agents' addresses are theirs to write."""
        agent = {
            **on_cluster.SESSION["agents"][0],
            "endpoint": (*self._agent.endpoints, "")[0],
            "address": self._agent.tunnel_address,
        }
        entry = {**on_cluster.SESSION["intercepts"][0], "problem": self._session.user}
        return {**on_cluster.SESSION, "agents": [agent], "intercepts": [{**entry, "name": "shop/i-true"}]}


class Tty(io.StringIO):
    def isatty(self):
        return True


def shown(args, cluster, columns):
    """All that a terminal gets of a command, with its exit code."""
    out = Tty()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tpnet.control.kubernetes.client.connect", cluster.connect)
        patch.setattr("tpnet_cli.own.session_facts", lambda where, user: cluster.facts())
        for name in ("listing", "status", "watch"):
            patch.setattr(
                f"tpnet_cli.commands.{name}.session_facts", lambda where, user: cluster.facts(), raising=False
            )
        patch.setattr("sys.stdout", out)
        patch.setattr("sys.stderr", out)
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", str(columns))
        return run(args), out.getvalue()


COMMANDS = [["list"], ["status"], ["watch", "--once"], ["explain", "orders", "/"]]
foreign = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(max_size=12),
    st.just(f"x\n{FORGED}"),
    st.integers(1, 90).map(lambda blanks: f"x{' ' * blanks}{FORGED}"),  # where a line ends, the next begins
)


@pytest.fixture
def kubeconfig(home, monkeypatch):
    monkeypatch.setenv("HOME", str(home))
    (home / ".kube").mkdir()
    (home / ".kube/config").write_text("current-context: lab\n")


@pytest.mark.parametrize("args", COMMANDS, ids=lambda args: args[0])
@given(
    text=foreign,
    fields=st.sets(st.sampled_from(FIELDS), min_size=1) | st.just(set(FIELDS)),
    form=st.sampled_from([None, "wide", "json", "yaml"]),
    columns=st.sampled_from([60, 80, 200]),
    padding=st.integers(0, 100),
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_field_is_obeyed_and_none_forges_a_line(kubeconfig, args, text, fields, form, columns, padding):
    poison = {kind: {path: "y" * padding + text for one, path in fields if one == kind} for kind in SCHEMAS}
    asked = [*args, "-n", "shop", *(["-o", form] if form else [])]
    code, out = shown(asked, Walked(poison), columns)
    assert code in {0, 2}, out  # a rule that cannot be one is refused
    plain = STYLE.sub("", out)
    assert not OBEYED.search(plain.replace("\n", ""))
    assert not re.search(f"^{FORGED}", plain, re.MULTILINE)
    if not code and form in {"json", "yaml"}:
        assert (json.loads if form == "json" else yaml.safe_load)(out)


@given(foreign, st.integers(0, 100))
@settings(deadline=None)
def test_no_refusal_is_obeyed_or_forges_a_line(text, padding):
    out = Tty()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", out)
        main._complain(
            f"The intercept {'y' * padding}{text} is bob's.", f"tpnet leave {text}".replace("\n", " ")
        )
    plain = STYLE.sub("", out.getvalue())
    assert not OBEYED.search(plain.replace("\n", ""))
    assert not re.search(f"^{FORGED}", plain, re.MULTILINE)


def test_every_kind_and_field_is_tried():
    assert {kind for kind, _ in FIELDS} == {"Intercept", "Session", "NodeAgent"}
    assert ("Intercept", ("spec", "port")) in FIELDS
    assert ("Intercept", ("status", "nodes", "endpoints", "reason")) in FIELDS
    assert len(FIELDS) > 30
    for kind, schema in SCHEMAS.items():
        with_all = filled(schema, {path: "poison" for one, path in FIELDS if one == kind})
        assert str(with_all).count("poison") == sum(one == kind for one, _ in FIELDS)
    with pytest.raises(InvalidInput):
        from_api(NodeAgentSpec, {})
