"""The lab's container images, made on this machine without a registry and kept in the cache under the hash of what is in them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kubelab.config import PAUSE, SHOP
from kubelab.tools import CACHE, digest, locked, run

if TYPE_CHECKING:
    from collections.abc import Sequence

SUITE = "bookworm"
BASE = "localhost/debian:12"
# Steps of earlier builds are kept up to here.
STORE_BYTES = 6 << 30


@dataclass(frozen=True)
class Layer:
    """One tar file of an image and what is run in it."""

    name: str
    tar: bytes
    entrypoint: list[str]


class Images:
    """Makes and finds images; each method returns the path of an OCI archive that :meth:`Cluster.load_image` takes."""

    def __init__(self, programs: Path, say=print) -> None:
        """``programs`` is the folder of the lab's programs; ``say`` is told what takes long."""
        self._programs = programs
        self._say = say

    def small(self) -> Path:
        """``localhost/pause:1`` and ``localhost/shop:1``, which hold the program ``pod`` and nothing else."""
        target = self._programs / f"images-{digest(Path(__file__))}.tar"
        with locked(CACHE / "images.lock"):
            if not target.exists():
                tar = layer({"pod": self._programs / "pod"})
                shop, pause = Layer(SHOP, tar, ["/pod", "serve"]), Layer(PAUSE, tar, ["/pod", "pause"])
                oci_archive(target, [shop, pause])
        return target

    def debian(self) -> Path:
        """``localhost/debian:12``: the smallest Debian that apt works in, to build other images on."""
        target = CACHE / f"debian-{digest(Path(__file__))}.tar"
        with locked(CACHE / "images.lock"):
            if not target.exists():
                self._say("making the base image, once: half a minute")
                root = CACHE / ".debian-root.tar"
                root.unlink(missing_ok=True)
                run("mmdebstrap", "--variant=minbase", SUITE, root, timeout=600)
                oci_archive(target, [Layer(BASE, root.read_bytes(), [])])
                root.unlink()
        return target

    def build(self, context: Path, containerfile: Path, name: str, inputs: Sequence[Path] = ()) -> Path:
        """Build an image file unchanged, with ``localhost/debian:12`` as its argument ``BASE``; kept under the hash of its inputs.

        The inputs are ``inputs``, or all files of ``context``, but for folders whose names begin with a dot.
        LabError with the build's own words if it fails.
        """
        base = self.debian()
        key = digest(*(inputs or [context]), containerfile, name, base.name)
        target = CACHE / f"image-{key}.tar"
        with locked(CACHE / "images.lock"):
            if target.exists():
                os.utime(target)
                return target
            self._say(f"building the image {name}")
            store = CACHE / f"storage-{base.stem}"
            for old in CACHE.glob("storage-*"):
                if old != store:
                    shutil.rmtree(old)
            # In a mount namespace of its own: buildah leaves a mount behind. The steps of earlier builds that are the same are kept.
            tool = ["nice", "-n", "5", "unshare", "--mount", "--propagation", "private", "buildah"]
            tool += ["--root", store / "root", "--runroot", store / "run", "--storage-driver", "overlay"]
            fresh = target.with_suffix(".new")
            fresh.unlink(missing_ok=True)
            if run(*tool, "inspect", "--type", "image", BASE, check=False).returncode:
                run(*tool, "pull", "-q", f"oci-archive:{base}", timeout=300)
            options = [
                "--isolation",
                "chroot",
                "--layers",
                "--pull-never",
                "--build-arg",
                f"BASE={BASE}",
                *lent(store),
            ]
            run(*tool, "bud", *options, "-t", name, "-f", containerfile, context, timeout=1200)
            run(*tool, "push", "-q", name, f"oci-archive:{fresh}:{name}", timeout=300)
            fresh.rename(target)
            for old in sorted(CACHE.glob("image-*.tar"), key=lambda path: path.stat().st_mtime)[:-2]:
                old.unlink(missing_ok=True)
            kept = sum(path.lstat().st_size for path in store.rglob("*"))
            if kept > STORE_BYTES:
                shutil.rmtree(store)
        return target


def lent(folder: Path) -> list[str]:
    """Options that lend a build the certificates this machine trusts, without their becoming part of the image.

    Where packages come through a proxy with a certificate of its own, pip in a bare Debian would refuse it.
    """
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if not bundle.exists():
        return []
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "pip.conf"
    settings.write_text("[global]\ncert = /run/lab-certificates\n")
    return ["--volume", f"{bundle}:/run/lab-certificates:ro", "--volume", f"{settings}:/etc/pip.conf:ro"]


def layer(contents: dict[str, Path]) -> bytes:
    """A tar file with programs in its root, the same bytes for the same programs."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, path in sorted(contents.items()):
            data = path.read_bytes()
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def oci_archive(target: Path, layers: list[Layer]) -> None:
    """Write an OCI image layout of one-layer images as a tar file (OCI image specification, image-layout.md)."""
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, kind: str) -> dict:
        name = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{name}"] = data
        return {
            "mediaType": f"application/vnd.oci.image.{kind}",
            "digest": f"sha256:{name}",
            "size": len(data),
        }

    manifests = []
    for image in layers:
        tar = blob(image.tar, "layer.v1.tar")
        inner = {"Entrypoint": image.entrypoint} if image.entrypoint else {"Cmd": ["bash"]}
        config = {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
            "os": "linux",
            "config": {**inner, "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [tar["digest"]]},
            "history": [
                {"created_by": "tests/cluster"}
            ],  # one for each layer, or no image can be built on it
        }
        described = blob(json.dumps(config).encode(), "config.v1+json")
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"}
        manifest |= {"config": described, "layers": [tar]}
        names = {"org.opencontainers.image.ref.name": image.name, "io.containerd.image.name": image.name}
        manifests.append(blob(json.dumps(manifest).encode(), "manifest.v1+json") | {"annotations": names})
    index = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
    fresh = target.with_suffix(".new")
    with tarfile.open(fresh, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in {
            "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
            "index.json": index,
            **blobs,
        }.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))
    fresh.rename(target)
