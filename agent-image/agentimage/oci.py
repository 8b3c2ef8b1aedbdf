"""OCI image archives (OCI image specification, image-layout.md): podman, skopeo and containerd load them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Image:
    """One image. ``layers``: what each is, and its uncompressed tar file. ``config``: Entrypoint, Env, …."""

    name: str
    architecture: str
    layers: Sequence[tuple[str, Path]]
    config: dict[str, Any]
    epoch: int = 0
    annotations: dict[str, str] = field(default_factory=dict)


def write_archive(target: Path, images: Sequence[Image]) -> list[str]:
    """Write images as one tar file; the digests of their manifests. The same images make the same bytes."""
    small: dict[str, bytes] = {}
    large: dict[str, Path] = {}
    manifests = []
    for image in images:
        layers = []
        for _, path in image.layers:
            name = _digest(path)
            large[name] = path
            layers.append(_described("layer.v1.tar", name, path.stat().st_size))
        made = datetime.fromtimestamp(image.epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        config = {
            "architecture": image.architecture,
            "os": "linux",
            "created": made,
            "config": image.config,
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
            "history": [{"created": made, "created_by": what} for what, _ in image.layers],
        }
        manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _put(small, json.dumps(config).encode(), "config.v1+json"),
            "layers": layers,
        }
        if image.annotations:
            manifest["annotations"] = image.annotations
        names = {"org.opencontainers.image.ref.name": image.name, "io.containerd.image.name": image.name}
        manifests.append(
            _put(small, json.dumps(manifest).encode(), "manifest.v1+json") | {"annotations": names}
        )
    index = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
    fresh = target.with_suffix(".new")
    with tarfile.open(fresh, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in (("oci-layout", b'{"imageLayoutVersion": "1.0.0"}'), ("index.json", index)):
            _add(archive, name, len(data), io.BytesIO(data))
        for name, data in small.items():
            _add(archive, f"blobs/sha256/{name}", len(data), io.BytesIO(data))
        for name, path in large.items():
            with path.open("rb") as file:
                _add(archive, f"blobs/sha256/{name}", path.stat().st_size, file)
    fresh.rename(target)
    return [manifest["digest"] for manifest in manifests]


def _add(archive: tarfile.TarFile, name: str, size: int, data: io.BufferedIOBase) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    archive.addfile(info, data)


def _put(blobs: dict[str, bytes], data: bytes, kind: str) -> dict[str, Any]:
    name = hashlib.sha256(data).hexdigest()
    blobs[name] = data
    return _described(kind, name, len(data))


def _described(kind: str, name: str, size: int) -> dict[str, Any]:
    return {
        "mediaType": f"application/vnd.oci.image.{kind}",
        "digest": f"sha256:{name}",
        "size": size,
    }


def _digest(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            total.update(data)
    return total.hexdigest()
