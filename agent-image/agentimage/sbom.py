"""What is in the image, as a CycloneDX 1.6 bill of materials: each package by name, version, purl and hash."""

from __future__ import annotations

import uuid
from base64 import b64decode
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentimage.debian import Package
    from agentimage.python import Wheel
    from agentimage.wireguard import Module

Component = dict[str, Any]


def of_debian(packages: Iterable[Package], architecture: str) -> list[Component]:
    """Debian's packages."""
    return [
        _component(
            package.name,
            package.version,
            f"pkg:deb/debian/{quote(package.name)}@{quote(package.version, safe='')}"
            f"?arch={architecture}&distro=debian-12&upstream={quote(package.source, safe='')}",
            package.sha256,
        )
        for package in packages
    ]


def of_python(wheels: Iterable[Wheel]) -> list[Component]:
    """Python's."""
    return [
        _component(one.name, one.version, f"pkg:pypi/{one.name}@{quote(one.version)}", one.sha256)
        for one in wheels
    ]


def of_go(go: str, modules: Iterable[Module]) -> list[Component]:
    """Go's modules, and the library of Go itself. go.sum's hashes are SHA-256 of a list of files."""
    found = [_component("stdlib", go, f"pkg:golang/stdlib@{go}", "")]
    for module in modules:
        digest = b64decode(module.hash.removeprefix("h1:")).hex()
        purl = f"pkg:golang/{quote(module.path)}@{quote(module.version)}"
        found.append(_component(module.path, module.version, purl, digest))
    return found


def bill(
    name: str, version: str, architecture: str, epoch: int, components: Iterable[Component]
) -> Component:
    """The whole. The same components make the same text: its serial number comes from them."""
    parts = sorted(components, key=lambda one: str(one["purl"]))
    image = _component(name, version, f"pkg:oci/{name}@{quote(version)}?arch={architecture}", "")
    image |= {"type": "container", "licenses": [{"license": {"id": "Apache-2.0"}}]}
    all_of_it = repr((image, parts, epoch))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, all_of_it)}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "lifecycles": [{"phase": "build"}],
            "component": image,
        },
        "components": parts,
        "dependencies": [
            {"ref": image["bom-ref"], "dependsOn": [one["bom-ref"] for one in parts]},
        ],
    }


def _component(name: str, version: str, purl: str, sha256: str) -> Component:
    found: Component = {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
    }
    if sha256:
        found["hashes"] = [{"alg": "SHA-256", "content": sha256}]
    return found
