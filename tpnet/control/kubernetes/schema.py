"""The CustomResourceDefinitions, made of the classes of ``tpnet.model``.

``python -m tpnet.control.kubernetes.schema > tpnet/control/kubernetes/manifests/crds.yaml`` writes them down; a
unit test holds that the file is current. Nothing calls it at run time. It must never know a field: all it says
about one comes from the class (``About``) or from ``checks``.
"""

from __future__ import annotations

import sys
import types
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from tpnet import __version__
from tpnet.control.kubernetes.checks import CHECKS
from tpnet.control.kubernetes.convert import camel, is_required, shape_of
from tpnet.control.kubernetes.names import PART_OF, VERSION_LABEL
from tpnet.control.kubernetes.resources import INTERCEPTS, NODE_AGENTS, SESSIONS
from tpnet.model import About, InterceptReport, InterceptSpec, NodeAgentSpec, SessionSpec

if TYPE_CHECKING:
    from tpnet.control.kubernetes.api import Resource

Json = dict[str, Any]

HEADER = """\
# The kinds of objects that tpnet adds to a cluster. Generated from the classes of tpnet.model: do not edit, run
# python -m tpnet.control.kubernetes.schema > tpnet/control/kubernetes/manifests/crds.yaml
"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of ``kubectl get``. ``wide``: only with ``-o wide``."""

    name: str
    path: str
    text: str
    type: str = "string"
    wide: bool = False

    def to_json(self) -> Json:
        """As the definition has it."""
        column: Json = {"name": self.name, "type": self.type, "jsonPath": self.path, "description": self.text}
        return column | ({"priority": 1} if self.wide else {})


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: the class of its ``spec``, that of its ``status`` if it has one, and how kubectl shows it."""

    resource: Resource
    short: str
    text: str
    spec: type
    spec_text: str
    columns: tuple[Column, ...]
    status: type | None = None
    status_text: str = ""

    def definition(self) -> Json:
        """The CustomResourceDefinition."""
        resource = self.resource
        version: Json = {
            "name": resource.version,
            "served": True,
            "storage": True,
            "additionalPrinterColumns": [
                *(column.to_json() for column in self.columns),
                Column("Age", ".metadata.creationTimestamp", "When it was made.", "date").to_json(),
            ],
            "schema": {"openAPIV3Schema": self._schema()},
        }
        if self.status:
            version["subresources"] = {"status": {}}
        return {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {
                "name": resource.long_name,
                "labels": {PART_OF: "tpnet", VERSION_LABEL: __version__},
            },
            "spec": {
                "group": resource.group,
                "scope": "Namespaced" if resource.namespaced else "Cluster",
                "names": {
                    "kind": resource.kind,
                    "listKind": f"{resource.kind}List",
                    "plural": resource.plural,
                    "singular": resource.kind.lower(),
                    "shortNames": [self.short],
                    "categories": ["tpnet"],
                },
                "versions": [version],
            },
        }

    def _schema(self) -> Json:
        properties: Json = {
            "apiVersion": {"type": "string", "description": f"{self.resource.api_version}."},
            "kind": {"type": "string", "description": f"{self.resource.kind}."},
            "metadata": {"type": "object"},
            "spec": object_schema(self.spec, self.spec_text),
        }
        if self.status:
            properties["status"] = object_schema(self.status, self.status_text)
        return {"type": "object", "description": self.text, "required": ["spec"], "properties": properties}


KINDS = (
    Kind(
        INTERCEPTS,
        "tpi",
        "A standing wish of a developer: these requests of this service go to the developer's own computer, all "
        "others to the pods as before.",
        InterceptSpec,
        "What is asked for.",
        (
            Column("Target", ".spec.target.name", "What is intercepted."),
            Column("User", ".spec.user", "Whose intercept it is."),
            Column("Requests", ".status.requests", "Which requests it takes."),
            Column(
                "Ready",
                '.status.conditions[?(@.type=="Ready")].status',
                "Whether every ready endpoint is redirected and probed.",
            ),
            Column("Redirected", ".status.redirected", "How many of the ready endpoints are redirected."),
            Column(
                "Reason",
                '.status.conditions[?(@.type=="Ready")].reason',
                "Why it is ready, or is not.",
            ),
            Column("Kind", ".spec.target.kind", "What kind of thing is intercepted.", wide=True),
            Column("Port", ".spec.port", "The port that is intercepted.", wide=True),
            Column("To", ".spec.handler", "What answers, on the developer's computer.", wide=True),
            Column(
                "Message",
                '.status.conditions[?(@.type=="Ready")].message',
                "The reason as a sentence.",
                wide=True,
            ),
        ),
        InterceptReport,
        "What is true of it. Agents write it.",
    ),
    Kind(
        SESSIONS,
        "tps",
        "A developer's live presence: a key pair, a lease, a tunnel. The daemon on the developer's computer makes "
        "it, renews it and removes it.",
        SessionSpec,
        "Whose it is, by which key it is known, and how long it lives.",
        (
            Column("User", ".spec.user", "Whose session it is."),
            Column("Renewed", ".spec.renewTime", "When it was last renewed.", "date"),
            Column("Key", ".spec.publicKey", "Its public key.", wide=True),
        ),
    ),
    Kind(
        NODE_AGENTS,
        "tpn",
        "The agent of one node, named like the node: where developers' computers take its key and address from. "
        "The agent writes it.",
        NodeAgentSpec,
        "What developers' computers need to know of the agent.",
        (
            Column("Version", ".spec.version", "The version of tpnet that it runs."),
            Column("Redirect", ".spec.redirect", "How it redirects connections."),
            Column("Endpoint", ".spec.endpoints[0]", "Where its tunnel is reached by UDP."),
            Column("Key", ".spec.publicKey", "Its public key.", wide=True),
        ),
    ),
)


def object_schema(cls: type, text: str) -> Json:
    """The structural schema of one class."""
    properties: Json = {}
    required: list[str] = []
    checks = CHECKS.get(cls, ())
    for field in fields(cls):
        plain, about = shape_of(cls)[field.name]
        name = camel(field.name)
        schema: Json = {"description": about.text} | _schema_of(plain, about)
        if is_required(field):
            required.append(name)
        elif field.default not in {None, MISSING, "", ()} and not cls.__name__.endswith("Report"):
            schema["default"] = str(field.default) if isinstance(field.default, StrEnum) else field.default
        own = [check for check in checks if check.field == field.name]
        if own:
            schema["x-kubernetes-validations"] = [_validation(check.rule, check.message) for check in own]
        properties[name] = schema
    result: Json = {"type": "object", "description": text, "properties": properties}
    if required:
        result["required"] = required
    whole = [check for check in checks if not check.field]
    if whole:
        result["x-kubernetes-validations"] = [_validation(check.rule, check.message) for check in whole]
    return result


def _validation(rule: str, message: str) -> Json:
    return {"rule": rule, "message": message}


def _schema_of(plain: Any, about: About) -> Json:
    origin = get_origin(plain)
    if origin in {Union, types.UnionType}:
        options = [option for option in get_args(plain) if option is not types.NoneType]
        if options == [int, str]:
            either: Json = {
                "x-kubernetes-int-or-string": True,
                "anyOf": [{"type": "integer"}, {"type": "string"}],
            }
            return either | _limits_of_text(about)
        (plain,) = options
        return _schema_of(plain, about)
    if origin is tuple:
        return _list_schema(get_args(plain)[0], about)
    if is_dataclass(plain):
        schema = object_schema(plain, about.text)  # type: ignore[arg-type]
        del schema["description"]
        return schema
    if issubclass(plain, StrEnum):
        return {"type": "string", "enum": [str(value) for value in plain]}
    if plain is bool:
        return {"type": "boolean"}
    if plain is int:
        bounded = about.maximum is not None
        limits = {"minimum": about.minimum, "maximum": about.maximum}
        return {"type": "integer", "format": "int32" if bounded else "int64"} | _given(limits)
    return {"type": "string"} | _limits_of_text(about)


def _limits_of_text(about: About) -> Json:
    return _given(
        {
            "minLength": about.min_length,
            "maxLength": about.max_length,
            "pattern": about.pattern or None,
            "format": about.format or None,
        }
    )


def _list_schema(item: Any, about: About) -> Json:
    each = about.item or About("")
    schema: Json = {"type": "array", "items": _schema_of(item, each)}
    if each.text:
        schema["items"] = {"description": each.text} | schema["items"]
    if about.max_items is not None:
        schema["maxItems"] = about.max_items
    if about.key:
        return schema | {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [about.key]}
    return schema | {"x-kubernetes-list-type": "atomic"}


def _given(limits: Json) -> Json:
    return {name: value for name, value in limits.items() if value is not None}


def crds_yaml() -> str:
    """The file's text."""
    import yaml

    documents = [
        yaml.safe_dump(kind.definition(), sort_keys=False, width=110, allow_unicode=True) for kind in KINDS
    ]
    return HEADER + "---\n".join(documents)


if __name__ == "__main__":
    sys.stdout.write(crds_yaml())
