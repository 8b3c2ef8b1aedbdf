"""Requests to a cluster's API server, as the administrator or as anybody, and what tests wait for in it. The base of Cluster."""

from __future__ import annotations

import contextlib
import json
import secrets
import ssl
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from kubelab import network, pki
from kubelab.tools import LabError, run, wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence
    from pathlib import Path


class Api:
    """A cluster as its users see it."""

    def __init__(self, folder: Path, programs: Path, port: int) -> None:
        """Of a cluster in ``folder`` whose API server is also on ``port`` of the computer's own loopback."""
        self.folder = folder
        self.id = folder.name
        self.programs = programs
        self.pki = folder / "pki"
        self.port = port

    def kubeconfig(
        self,
        user: str,
        groups: Sequence[str] = (),
        *,
        at: str = "laptop",
        namespace: str = "",
        days: float | None = None,
    ) -> Path:
        """A kubeconfig with a client certificate for ``user`` in ``groups``.

        ``at`` says where it is used: ``laptop`` (also nodes) has the API server's address in the lab, ``host`` is for the tests' own
        process. ``days`` is the certificate's life; a negative one makes one that has expired.
        """
        hosts = {
            "laptop": f"https://{network.CONTROL}:{network.API_PORT}",
            "host": f"https://127.0.0.1:{self.port}",
        }
        authority = pki.Authority(self.pki)
        name = f"user-{secrets.token_hex(6)}"
        certificate, key = authority.issue(name, user, groups, days=days)
        path = self.pki / f"{name}.conf"
        options = {"user": user, "cluster": "lab", "namespace": namespace}
        return pki.kubeconfig(path, hosts[at], authority.certificate_file, certificate, key, **options)

    @property
    def admin(self) -> Path:
        """The administrator's kubeconfig, for the tests' own process."""
        return self.pki / "admin.conf"

    def kubectl(
        self,
        *argv: str | Path,
        kubeconfig: Path | None = None,
        check=True,
        timeout=240.0,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl in the tests' own namespaces, as the administrator unless another kubeconfig (``at="host"``) is given."""
        config_file = kubeconfig or self.admin
        # A cache of its own: that of the tests' user may be another cluster's.
        words = ["--kubeconfig", config_file, "--cache-dir", self.folder / "kubectl", *argv]
        return run(self.programs / "kube", "kubectl", *words, check=check, timeout=timeout, stdin=stdin)

    def apply(self, manifest: str | Path, **options) -> str:
        """Server-side apply of YAML, given as text or as a file's or folder's path; what kubectl said."""
        text, target = (manifest, "-") if isinstance(manifest, str) else (None, str(manifest))
        return self.kubectl(
            "apply", "--server-side", "--force-conflicts", "-f", target, stdin=text, **options
        ).stdout

    def api(
        self, method: str, path: str, body: object = None, *, kind="application/json", timeout=30.0
    ) -> dict:
        """One request to the API server as the administrator, quicker than a kubectl; LabError with the server's message."""
        data = None if body is None else json.dumps(body).encode()
        url = f"https://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, data, {"Content-Type": kind}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout, context=self._tls()) as answer:
                text = answer.read()
        except urllib.error.HTTPError as refused:
            with refused:
                raise LabError(
                    f"{method} {path}: {refused.code} {refused.read().decode(errors='replace')}"
                ) from None
        except OSError as error:
            raise LabError(f"{method} {path}: {error}") from None
        return json.loads(text) if text.startswith(b"{") else {"text": text.decode()}

    def get(self, path: str) -> dict:
        """GET of the API server as the administrator."""
        return self.api("GET", path)

    @contextlib.contextmanager
    def namespace(self, prefix="test", labels: dict[str, str] | None = None, wait=True) -> Iterator[str]:
        """A new Kubernetes namespace, deleted at the end; ``wait`` for its end too."""
        name = f"{prefix}-{secrets.token_hex(3)}"
        self.api("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels or {}}})
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        wait_until(lambda: self._there(account), 20, f"the service account of {name}")
        try:
            yield name
        finally:
            with contextlib.suppress(LabError):  # a test may have deleted it
                self.api("DELETE", f"/api/v1/namespaces/{name}")
            if wait:
                wait_until(
                    lambda: not self._there(f"/api/v1/namespaces/{name}"), 60, f"the end of namespace {name}"
                )

    def pods(self, namespace: str, selector: str = "") -> list[dict]:
        """The pods of a namespace that are not on their way out."""
        query = f"?labelSelector={selector}" if selector else ""
        items = self.get(f"/api/v1/namespaces/{namespace}/pods{query}")["items"]
        return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]

    def wait_ready(
        self, namespace: str, selector: str = "", count: int | None = None, seconds=60.0
    ) -> list[dict]:
        """Wait until all pods (and ``count`` of them, if given) are Ready; returns them."""

        def ready():
            found = self.pods(namespace, selector)
            good = [pod for pod in found if is_ready(pod)]
            enough = bool(good) if count is None else len(good) == count
            return good if enough and len(good) == len(found) else None

        def why():
            states = {
                pod["metadata"]["name"]: pod["status"].get("containerStatuses", pod["status"])
                for pod in self.pods(namespace, selector)
            }
            return f"ready pods {selector} in {namespace}\n{json.dumps(states, indent=1)}"

        return wait_until(ready, seconds, why)

    def service_ip(self, namespace: str, name: str) -> str:
        """A service's cluster address; nodes and pods reach it."""
        return self.get(f"/api/v1/namespaces/{namespace}/services/{name}")["spec"]["clusterIP"]

    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.pki / "ca.crt"))
        context.load_cert_chain(self.pki / "admin.crt", self.pki / "admin.key")
        return context

    def _there(self, path: str) -> bool:
        try:
            self.get(path)
        except LabError as error:
            if ": 404 " in str(error):
                return False
            raise
        return True


def is_ready(item: dict) -> bool:
    """Whether a pod or node says that it is Ready."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in item["status"].get("conditions", []))
