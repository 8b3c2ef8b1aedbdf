"""The app of the tests, as Kubernetes objects: a Deployment of the shop image and a Service of the same name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubelab.config import SHOP

if TYPE_CHECKING:
    from collections.abc import Sequence


def shop(
    namespace: str,
    name: str,
    replicas: int,
    ports: Sequence[int],
    service_ports: dict[int, int | str],
    env: dict[str, str],
) -> list[dict]:
    """A Deployment and a Service of the shop image, as objects."""
    labels = {"app": name}
    fields = {"POD_NAME": "metadata.name", "NODE_NAME": "spec.nodeName"}
    variables = [
        {"name": key, "valueFrom": {"fieldRef": {"fieldPath": path}}} for key, path in fields.items()
    ]
    variables += [{"name": key, "value": str(value)} for key, value in env.items()]
    container = {
        "name": "shop",
        "image": SHOP,
        "imagePullPolicy": "Never",
        "args": ["-ports", ",".join(map(str, ports))],
        "env": variables,
        "ports": [{"name": f"port-{port}", "containerPort": port} for port in ports],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": ports[0]}, "periodSeconds": 1},
    }
    spread = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
    spread["labelSelector"] = {"matchLabels": labels}
    pod = {
        "containers": [container],
        "terminationGracePeriodSeconds": 5,
        "topologySpreadConstraints": [spread],
    }
    template = {"metadata": {"labels": labels}, "spec": pod}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    about = {"name": name, "namespace": namespace, "labels": labels}
    entries = [
        {"name": f"p{port}", "port": port, "targetPort": target} for port, target in service_ports.items()
    ]
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": about, "spec": spec},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": about,
            "spec": {"selector": labels, "ports": entries},
        },
    ]
