"""Give people the rights to intercept, and take them back: role bindings, and nothing that RBAC would not show.

``tpnet grant`` and ``tpnet revoke`` call it. It must never bind a role other than tpnet's own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tpnet.control.kubernetes.api import Resource
from tpnet.control.kubernetes.names import (
    PART_OF,
    ROLE_ADMIN,
    ROLE_DEVELOPER,
    ROLE_GLOBAL,
    ROLE_SESSION,
)
from tpnet.control.kubernetes.resources import SYSTEM_NAMESPACE
from tpnet.model import InvalidInput, Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tpnet.control.kubernetes.api import Api, Object

_GROUP = "rbac.authorization.k8s.io"
_MANAGER = "tpnet-grant"
_BINDINGS = Resource(_GROUP, "v1", "rolebindings", "RoleBinding")
_CLUSTER_BINDINGS = Resource(_GROUP, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False)


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom: ``kind`` is User, Group or ServiceAccount; of the last ``name`` is ``namespace/name``."""

    kind: str
    name: str

    def to_json(self) -> Object:
        """As a binding has it. Raises ``InvalidInput`` for a service account without a namespace."""
        if self.kind != "ServiceAccount":
            return {"kind": self.kind, "name": self.name, "apiGroup": _GROUP}
        namespace, slash, name = self.name.partition("/")
        if not slash or not namespace or not name:
            raise InvalidInput(
                f"The service account {self.name} has no namespace.", "Write it as NAMESPACE/NAME."
            )
        return {"kind": self.kind, "name": name, "namespace": namespace}


def bindings(
    subject: Subject, namespaces: Sequence[str], *, everybodys: bool = False, admin: bool = False
) -> list[tuple[Resource, Object]]:
    """The bindings that give ``subject`` the rights of a developer in ``namespaces``; none means all of them.

    ``everybodys``: global intercepts as well. ``admin``: to see and remove everybody's, in the whole cluster.
    """
    roles = [ROLE_DEVELOPER] + ([ROLE_GLOBAL] if everybodys else [])
    wanted = [
        _binding(subject, ROLE_SESSION, SYSTEM_NAMESPACE, role_kind="Role"),
        _binding(subject, ROLE_SESSION, ""),
    ]
    wanted += [_binding(subject, role, namespace) for namespace in namespaces or [""] for role in roles]
    return wanted + ([_binding(subject, ROLE_ADMIN, "")] if admin else [])


async def grant(api: Api, wanted: Sequence[tuple[Resource, Object]]) -> None:
    """Apply bindings; doing it again changes nothing.

    Raises ``Refused`` when the caller may not give these rights, ``NotThere`` for a namespace that is none.
    """
    for resource, obj in wanted:
        try:
            await api.apply(resource, obj, _MANAGER)
        except Refused as error:
            raise Refused(
                error.message,
                "Only who has a right, or may bind any role, can give it: an admin of the cluster.",
            ) from error


async def revoke(api: Api, subject: Subject) -> list[str]:
    """Remove every binding that ``grant`` made for ``subject``; returns what was removed, as ``role in namespace``."""
    removed = []
    for resource in (_BINDINGS, _CLUSTER_BINDINGS):
        found, _ = await api.list(resource, labels=f"{PART_OF}=tpnet")
        for obj in found:
            meta = obj["metadata"]
            if meta["name"] == _name(obj["roleRef"]["name"], subject):
                await api.delete(resource, meta["name"], meta.get("namespace", ""))
                removed.append(f"{obj['roleRef']['name']} in {meta.get('namespace') or 'all namespaces'}")
    return removed


def _binding(
    subject: Subject, role: str, namespace: str, role_kind: str = "ClusterRole"
) -> tuple[Resource, Object]:
    meta = {"name": _name(role, subject), "labels": {PART_OF: "tpnet"}}
    return _BINDINGS if namespace else _CLUSTER_BINDINGS, {
        "metadata": meta | ({"namespace": namespace} if namespace else {}),
        "roleRef": {"apiGroup": _GROUP, "kind": role_kind, "name": role},
        "subjects": [subject.to_json()],
    }


def _name(role: str, subject: Subject) -> str:
    """One binding for each role and subject: names of people hold characters that names of objects may not."""
    return f"{role}-{hashlib.sha256(f'{subject.kind}/{subject.name}'.encode()).hexdigest()[:10]}"
