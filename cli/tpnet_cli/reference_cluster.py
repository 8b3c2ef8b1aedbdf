"""The reference of what tpnet adds to a cluster, as Markdown: its kinds of objects, its roles and its policies.

``tpnet_cli.reference`` calls it. The kinds come from the classes that the definitions are made of, roles and
policies from the files that ``tpnet install`` applies, comments included. It must never say of a field, a verb
or a message anything that is not written there.
"""

from __future__ import annotations

import re
from importlib import resources
from typing import TYPE_CHECKING, Any

import yaml

from tpnet.agent.cluster.decide import CONFLICT, CONFLICT_ELSEWHERE, NO_SESSION, REFUSED, SESSION_GONE
from tpnet.agent.cluster.report import ACCEPTED, READY
from tpnet.control.kubernetes.schema import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Json = dict[str, Any]

_OBJECTS = """\
# Objects

This page is made from the definitions themselves: `make docs`. `kubectl explain intercept.spec` says the same
in a terminal. What they are for: [what happens in a cluster](../explanation/kubernetes.md).

All are of the group `tpnet.dev`. `kubectl get tpnet -A` lists all kinds at once.
"""

REASONS = (
    (ACCEPTED, "True", "Accepted", "no other intercept takes these requests, and nothing forbids it"),
    (
        ACCEPTED,
        "False",
        CONFLICT,
        "an older intercept takes the same requests; the message names it and whose it is",
    ),
    (
        ACCEPTED,
        "False",
        REFUSED,
        "a system namespace, the namespace's label, a rule that can never hold, or a session of somebody else's",
    ),
    (READY, "True", "Redirected", "every ready endpoint is redirected and was probed"),
    (READY, "False", f"{CONFLICT}, {REFUSED}", "it is not accepted, for this reason"),
    (
        READY,
        "False",
        NO_SESSION,
        "it names no session, and none of its user's has taken it yet: `tpnet connect`",
    ),
    (READY, "False", SESSION_GONE, "its session has ended, or is no longer renewed"),
    (READY, "False", "Pending", "something that it needs has not been looked at yet"),
    (
        READY,
        "False",
        "NoEndpoints",
        "there is no target, no such port, or no ready pod; the message says which",
    ),
    (READY, "False", "NotListening", "pods are ready, and nothing listens on the port in any of them"),
    (READY, "False", "Partly", "some ready endpoints are redirected; the message names those that are not"),
)
"""Condition, status, reason, and what that means."""

NODE_REASONS = (
    (CONFLICT, "an older intercept takes the same requests on this node"),
    (CONFLICT_ELSEWHERE, "it has lost on another node, so it is carried out on none"),
    (NO_SESSION, "as above"),
    (REFUSED, "as above"),
    (SESSION_GONE, "as above"),
)
"""Reason in a node's part, and what that means."""

_RIGHTS = """\
# Rights

This page is made from the files that `tpnet install` applies: `make docs`. Two things decide about each request to
the API server, and both must allow it: the roles say which kinds and verbs, the policies say whose objects. What they
are there for: [security](../explanation/security.md). `tpnet grant` makes the bindings for people.
"""

_POLICIES = """\
# Policies

Each is a ValidatingAdmissionPolicy, which the API server evaluates by itself on every write; there is no webhook. If one
cannot be evaluated, the write is refused (`failurePolicy: Fail`). A refusal is also noted in the audit log.

Each message stands above the CEL expression that has to hold. Words in capitals are filled in: YOU is the name by which
the API server knows you; of `[one | other]` one is said.
"""


# Objects.


def objects_page() -> str:
    """docs/reference/objects.md."""
    return "\n".join([_OBJECTS, *(part for kind in KINDS for part in _kind(kind.definition()))])


def _kind(definition: Json) -> Iterator[str]:
    spec, names = definition["spec"], definition["spec"]["names"]
    (version,) = spec["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    where = "in a namespace" if spec["scope"] == "Namespaced" else "of the cluster, without a namespace"
    yield f"## {names['kind']}\n"
    yield f"{_plain(schema['description'])}\n"
    yield f"`apiVersion: {spec['group']}/{version['name']}`, `kind: {names['kind']}`, {where}."
    yield f"kubectl: `{names['plural']}`, `{names['singular']}`, short `{names['shortNames'][0]}`.\n"
    yield f"### Columns of `kubectl get {names['shortNames'][0]}`\n"
    yield _table(
        ("column", "says", "from", ""),
        (
            (each["name"].upper(), _plain(each["description"]), f"`{each['jsonPath']}`", _wide(each))
            for each in version["additionalPrinterColumns"]
        ),
    )
    yield "### Fields\n"
    parts = [name for name in ("spec", "status") if name in schema["properties"]]
    required = schema["required"]
    yield _table(
        ("field", "type", "", "means"),
        (row for name in parts for row in _fields(name, schema["properties"][name], needed=name in required)),
    )
    checks = [check for name in parts for check in _checks(name, schema["properties"][name])]
    if checks:
        yield "### What is refused\n"
        yield "Beside what the types forbid, the API server refuses a write with one of these messages.\n"
        yield _table(("field", "message"), ((f"`{where}`", _plain(text)) for where, text in checks))
    if "conditions" in schema["properties"].get("status", {}).get("properties", {}):
        yield "### Conditions\n"
        yield _table(
            ("type", "status", "reason", "means"),
            ((kind, status, _code(reason), text) for kind, status, reason, text in REASONS),
        )
        yield "In `status.nodes[].reason`, where a node does not carry an intercept out:\n"
        yield _table(("reason", "means"), ((_code(reason), text) for reason, text in NODE_REASONS))


def _wide(column: Json) -> str:
    return "with `-o wide`" if column.get("priority") else ""


def _fields(path: str, schema: Json, *, needed: bool) -> Iterator[tuple[str, ...]]:
    """A row for a field, and for all below it."""
    given = "required" if needed else f"default `{_value(schema['default'])}`" if "default" in schema else ""
    yield f"`{path}`", _type(schema), given, _plain(schema.get("description", ""))
    inner, below = (schema["items"], f"{path}[]") if "items" in schema else (schema, path)
    for name, field in inner.get("properties", {}).items():
        yield from _fields(f"{below}.{name}", field, needed=name in inner.get("required", ()))


def _checks(path: str, schema: Json) -> Iterator[tuple[str, str]]:
    """The message of each rule of a field and of all below it, with where it stands."""
    for check in schema.get("x-kubernetes-validations", ()):
        yield path, check["message"]
    if "items" in schema:
        yield from _checks(f"{path}[]", schema["items"])
    for name, field in schema.get("properties", {}).items():
        yield from _checks(f"{path}.{name}", field)


def _type(schema: Json) -> str:
    if schema.get("x-kubernetes-int-or-string"):
        return "number or text"
    if "enum" in schema:
        return _code(", ".join(schema["enum"]))
    kind = schema["type"]
    if kind == "array":
        keys = schema.get("x-kubernetes-list-map-keys", ())
        each = f", one for each `{keys[0]}`" if keys else ""
        return f"list of {_type(schema['items']).partition(',')[0]}s, {schema['maxItems']} at most{each}"
    if kind == "integer":
        return f"number{_range(schema, 'minimum', 'maximum', '')}"
    if kind == "string":
        formats = {"date-time": "time", "ipv6": "IPv6 address"}
        if "format" in schema:
            return formats[schema["format"]]
        return f"text{_range(schema, 'minLength', 'maxLength', ' characters')}"
    return {"boolean": "`true` or `false`", "object": "object"}[kind]


def _range(schema: Json, least: str, most: str, what: str) -> str:
    if least in schema and most in schema:
        return f", {schema[least]} to {schema[most]}{what}"
    if most in schema:
        return f", {schema[most]}{what} at most"
    return f", {schema[least]} or more" if least in schema else ""


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# Roles and policies.


def rights_page() -> str:
    """docs/reference/rbac.md."""
    roles = _manifest("rbac.yaml")
    parts = [_RIGHTS]
    for text, obj in _documents(roles):
        if obj["kind"] in {"ClusterRole", "Role"}:
            parts += _role(text, obj, _bound(obj, [other for _, other in _documents(roles)]))
    parts.append(_POLICIES)
    documents = [obj for _, obj in _documents(_manifest("policy.yaml"))]
    parts += [
        part for obj in documents if obj["kind"] == "ValidatingAdmissionPolicy" for part in _policy(obj)
    ]
    return "\n".join(parts)


def _manifest(name: str) -> str:
    return (resources.files("tpnet.control.kubernetes") / "manifests" / name).read_text(encoding="utf-8")


def _documents(text: str) -> Iterator[tuple[str, Json]]:
    """Each document of a file: its text, comments included, and what it says."""
    for part in re.split(r"^---\n", text, flags=re.MULTILINE):
        obj = yaml.safe_load(part)
        if obj:
            yield part, obj


def _bound(role: Json, objects: Iterable[Json]) -> list[str]:
    """To whom the file itself binds a role."""
    name, namespace = role["metadata"]["name"], role["metadata"].get("namespace")
    return [
        f"{subject['kind']} `{'/'.join(filter(None, (subject.get('namespace'), subject['name'])))}`"
        for obj in objects
        if obj["kind"].endswith("Binding")
        and obj["roleRef"] == {"apiGroup": obj["roleRef"]["apiGroup"], "kind": role["kind"], "name": name}
        and obj["metadata"].get("namespace") == namespace
        for subject in obj["subjects"]
    ]


def _role(text: str, obj: Json, bound: list[str]) -> Iterator[str]:
    meta = obj["metadata"]
    within = f", in the namespace `{meta['namespace']}`" if "namespace" in meta else ""
    yield f"## {obj['kind']} `{meta['name']}`{within}\n"
    before = _comment_before(text)
    if before:
        yield f"{_plain(before)}\n"
    yield f"Bound to: {', '.join(bound)}.\n" if bound else "Bound to nobody by `tpnet install`.\n"
    yield _table(("resources", "verb", "what for"), _rules(text))


def _comment_before(text: str) -> str:
    """The comment that a document begins with, as one line."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return " ".join(lines)


def _rules(text: str) -> Iterator[tuple[str, str, str]]:
    """A row for each verb of a role. The reasons are the comments behind it, and behind what it is about."""
    lines = text.splitlines()
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    for rule in _child(root, "rules").value:
        named = _child(rule, "resources")
        (group,) = (node.value for node in _child(rule, "apiGroups").value)
        what = ", ".join(_code(node.value) for node in named.value) + (f" ({group})" if group else "")
        verbs = _child(rule, "verbs")
        notes = [
            _comment_behind(lines[named.start_mark.line]),
            _comment_behind(lines[verbs.start_mark.line - 1]),
        ]
        note = "; ".join(filter(None, notes))
        yield f"{what}{f': {_plain(note)}' if note else ''}", "", ""
        for node in verbs.value:
            yield "", _code(node.value), _plain(_comment_behind(lines[node.start_mark.line]))


def _child(node: Any, name: str) -> Any:
    """The node under a key of a YAML mapping."""
    return next(value for key, value in node.value if key.value == name)


def _comment_behind(line: str) -> str:
    return line.partition(" # ")[2].strip()


def _policy(obj: Json) -> Iterator[str]:
    spec = obj["spec"]
    yield f"## `{obj['metadata']['name']}`\n"
    (rule,) = spec["matchConstraints"]["resourceRules"]
    yield f"Asked on {_code(', '.join(rule['operations']))} of {_code(', '.join(rule['resources']))}.\n"
    for check in spec["validations"]:
        yield f"- {_plain(_message(check['messageExpression']))}\n"
        yield f"  ```\n  {_one_line(check['expression'])}\n  ```\n"
    yield "Where `variables` are:\n"
    named = (f"{each['name']} = {_one_line(each['expression'])}" for each in spec["variables"])
    yield "```\n" + "\n".join(named) + "\n```\n"


_FILLED_IN = {
    "request.namespace": "NAMESPACE",
    "request.name": "NAME",
    "request.userInfo.username": "YOU",
    "variables.me": "YOU",
    "variables.owner": "OWNER",
    "variables.agent": "NODE",
    "variables.where": "NAMESPACE/NAME",
    "variables.limit": "LABEL",
}
_TOKEN = re.compile(r"'(?:[^'\\]|\\.)*'|.", re.DOTALL)


def _message(expression: str) -> str:
    """What a CEL expression of texts and names says, with words in capitals for the names."""
    said = ""
    for piece in _split(expression, "+"):
        if piece.startswith("'"):
            said += re.sub(r"\\(.)", r"\1", piece[1:-1])
        elif piece.startswith("("):
            _, choices = _split(piece[1:-1], "?")
            said += f" [{' | '.join(_message(choice).strip() for choice in _split(choices, ':'))}]"
        else:
            said += _FILLED_IN[piece]
    return said


def _split(expression: str, mark: str) -> list[str]:
    """An expression in pieces, at a character outside of texts and brackets."""
    pieces, depth = [""], 0
    for token in _TOKEN.findall(expression):
        depth += {"(": 1, ")": -1}.get(token, 0)
        if token == mark and not depth:
            pieces.append("")
        else:
            pieces[-1] += token
    return [piece.strip() for piece in pieces]


# Markdown.


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _plain(text: str) -> str:
    """Text that says the same in Markdown, in a table too."""
    return re.sub(r"([\\`*_|<])", r"\\\1", text)


def _code(words: str) -> str:
    """Words between commas, each as code."""
    return ", ".join(f"`{word}`" for word in words.split(", "))


def _one_line(text: str) -> str:
    return " ".join(text.split())
