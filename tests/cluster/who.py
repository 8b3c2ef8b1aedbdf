"""Somebody who asks the API server: a person with groups, an agent with its pod's token, or nobody known."""

import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
GROUP = "/apis/tpnet.dev/v1alpha1"


@dataclass(frozen=True)
class Answer:
    """``code`` and ``body`` of an answer; ``message`` is what a user reads, without the API server's preamble."""

    code: int
    body: dict

    @property
    def allowed(self):
        return self.code < 300

    @property
    def message(self):
        text = self.body.get("message", "")
        return text.split("denied request: ", 1)[-1]


@dataclass(frozen=True)
class Who:
    """``headers`` say who it is; ``admin`` is whether the connection is the administrator's (who may impersonate)."""

    cluster: object
    headers: dict = field(default_factory=dict)
    admin: bool = True

    def ask(self, method, path, body=None, *, kind="application/json", timeout=10.0):
        context = ssl.create_default_context(cafile=str(self.cluster.pki / "ca.crt"))
        if self.admin:
            context.load_cert_chain(self.cluster.pki / "admin.crt", self.cluster.pki / "admin.key")
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": kind, **self.headers}
        url = f"https://127.0.0.1:{self.cluster.port}{path}"
        request = urllib.request.Request(url, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout, context=context) as answer:
                return Answer(answer.status, json.loads(answer.read()))
        except urllib.error.HTTPError as refused:
            with refused:
                text = refused.read().decode()
                return Answer(refused.code, json.loads(text) if text.startswith("{") else {"message": text})

    # What people and agents do, in few words.

    def create(self, plural, namespace, obj):
        kinds = {"intercepts": "Intercept", "sessions": "Session", "nodeagents": "NodeAgent"}
        body = {"apiVersion": "tpnet.dev/v1alpha1", "kind": kinds[plural], **obj}
        return self.ask("POST", path(plural, namespace), body)

    def get(self, plural, namespace, name=""):
        return self.ask("GET", path(plural, namespace, name))

    def merge(self, plural, namespace, name, patch):
        return self.ask("PATCH", path(plural, namespace, name), patch, kind=MERGE)

    def delete(self, plural, namespace, name):
        return self.ask("DELETE", path(plural, namespace, name))

    def apply(self, plural, namespace, name, body, manager="test"):
        kinds = {"intercepts": "Intercept", "sessions": "Session", "nodeagents": "NodeAgent"}
        body = {
            "apiVersion": "tpnet.dev/v1alpha1",
            "kind": kinds[plural.split("/")[0]],
            "metadata": {"name": name},
            **body,
        }
        return self.ask(
            "PATCH", f"{path(plural, namespace, name)}?fieldManager={manager}&force=true", body, kind=APPLY
        )


def path(plural, namespace, name=""):
    """The address of objects of tpnet's; ``plural`` may end in ``/status``."""
    plural, _, subresource = plural.partition("/")
    parts = [GROUP, f"namespaces/{namespace}" if namespace else "", plural, name, subresource]
    return "/".join(part for part in parts if part)


def person(cluster, user, *groups):
    """A user, by impersonation."""
    headers = {"Impersonate-User": user}
    if groups:
        headers["Impersonate-Group"] = groups[0]
    return Who(cluster, headers)


def admin(cluster):
    """The administrator of the cluster."""
    return Who(cluster)


def bearer(cluster, token):
    """Whoever a token stands for."""
    return Who(cluster, {"Authorization": f"Bearer {token}"}, admin=False)


def nobody(cluster):
    """A connection without credentials."""
    return Who(cluster, admin=False)
