"""From locks to an OCI archive: four layers, each kept under the hash of what makes it."""

from __future__ import annotations

import fcntl
import json
import os
import re
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from agentimage import debian, python, sbom, wireguard
from agentimage.bytecode import compile_all
from agentimage.oci import Image, write_archive
from agentimage.tools import CACHE, HERE, REPOSITORY, BuildError, key, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from agentimage.tree import Tree

NAME = "tpnet-agent"
BILL = "usr/share/doc/tpnet-agent/sbom.cdx.json"
"""Where in the image its bill of materials is."""
SOURCES = tuple(
    REPOSITORY / name for name in ("pyproject.toml", "README.md", "LICENSE", "bpf", "tpnet", "cli")
)
"""What the layer of tpnet's own files is made of."""
_OWN = HERE / "agentimage"
_KEPT = 3  # layers of each kind


class Built(NamedTuple):
    """An image: where, its manifest's digest, its bill of materials; packages that are not as the lock has them."""

    archive: Path
    digest: str
    bill: Path
    drift: tuple[str, ...]


def version() -> str:
    """Tpnet's."""
    found = re.search(r'^version = "(.+)"$', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    assert found
    return found[1]


def machine() -> str:
    """This machine's architecture as Debian calls it."""
    return run("dpkg", "--print-architecture").strip()


def build_image(
    target: Path,
    *,
    name: str = "",
    architecture: str = "",
    drift: bool = False,
    say: Callable[[str], None] = print,
) -> Built:
    """Build the image of this checkout into ``target``, an OCI archive.

    ``drift``: where Debian's archive has a newer package than the lock, and the snapshot cannot be reached, take the
    newer one, and say so. Raises ``BuildError``. SOURCE_DATE_EPOCH is heeded; else times are those of the lock.
    """
    architecture = architecture or machine()
    if architecture not in debian.ARCHITECTURES:
        raise BuildError(f"There is no lock for {architecture}: {', '.join(debian.ARCHITECTURES)}.")
    name = name or f"localhost/{NAME}:{version()}"
    with _alone():
        packages, time, drifted = _packages(architecture, say, drift=drift)
        epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or _seconds(time))
        program = wireguard.program(architecture, say)
        go, modules = wireguard.modules(program, say)
        wheels = python.wheels(architecture, say)
        components = [
            *sbom.of_debian(packages, architecture),
            *sbom.of_go(go, modules),
            *sbom.of_python(wheels),
        ]
        bill = json.dumps(sbom.bill(NAME, version(), architecture, epoch, components), indent=1) + "\n"

        def own() -> Tree:
            tree = python.tpnet()
            tree.file(BILL, bill)
            return tree

        layer = partial(_layer, architecture, epoch, say)
        layers = [
            layer("Debian", lambda: _debian(packages), repr(packages)),
            layer("wireguard-go", lambda: wireguard.tree(program, modules, say), program),
            layer("Python packages", lambda: python.packages(wheels), repr([one.sha256 for one in wheels])),
            layer("tpnet", own, *SOURCES, bill),
        ]
        image = Image(
            name,
            architecture,
            layers,
            {
                "Entrypoint": ["/opt/tpnet/bin/tpnet"],
                "Cmd": ["agent", "run"],
                "Env": ["PATH=/opt/tpnet/bin:/usr/bin", "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1"],
                "WorkingDir": "/",
            },
            epoch,
            {
                "org.opencontainers.image.title": NAME,
                "org.opencontainers.image.version": version(),
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        (digest,) = write_archive(target, [image])
        beside = target.with_suffix(".cdx.json")
        beside.write_text(bill)
    return Built(target, digest, beside, drifted)


def inputs(architecture: str) -> str:
    """A key that changes with whatever an image is made of."""
    locks = (debian.lock_file(architecture), python.LOCK, wireguard.SOURCES)
    return key(*SOURCES, *locks, _OWN, architecture)


def lock(say: Callable[[str], None] = print) -> None:
    """Write the locks of Debian's packages anew."""
    time = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    for architecture in debian.ARCHITECTURES:
        say(f"asking Debian's archive: {architecture}")
        debian.write_lock(architecture, time, debian.resolve(architecture))


def _packages(
    architecture: str, say: Callable[[str], None], *, drift: bool
) -> tuple[list[debian.Package], str, tuple[str, ...]]:
    time, locked = debian.read_lock(architecture)
    lost = debian.fetch(architecture, locked, time, say)
    if not lost:
        return locked, time, ()
    names = ", ".join(f"{package.name} {package.version}" for package in lost)
    if not drift:
        raise BuildError(
            f"Neither Debian's archive nor its snapshot gave: {names}.\n"
            "If the archive has newer ones, take those into the lock: make lock"
        )
    packages = debian.resolve(architecture)
    if still := debian.fetch(architecture, packages, time, say):
        raise BuildError(f"Debian's archive does not give what it names: {still}")
    changed = sorted({str(one.name) for one in set(packages) ^ set(locked)})
    say(f"not as the lock has them, which cannot be had here: {', '.join(changed)}")
    return packages, time, tuple(changed)


def _debian(packages: list[debian.Package]) -> Tree:
    tree = debian.unpack(packages)
    compile_all(tree)
    return tree


def _layer(
    architecture: str,
    epoch: int,
    say: Callable[[str], None],
    what: str,
    make: Callable[[], Tree],
    *parts: str | Path,
) -> tuple[str, Path]:
    """A layer's name and its tar file, from the cache if the same parts have made it before."""
    name = f"layer-{what.replace(' ', '-').lower()}-{architecture}"
    target = CACHE / f"{name}-{key(*parts, _OWN, str(epoch))}.tar"
    if target.exists():
        os.utime(target)
    else:
        say(f"making the layer {what}")
        fresh = CACHE / ".layer"
        make().write(fresh, epoch)
        fresh.rename(target)
        for old in sorted(CACHE.glob(f"{name}-*.tar"), key=lambda path: path.stat().st_mtime)[:-_KEPT]:
            old.unlink()
    return what, target


def _seconds(time: str) -> int:
    return int(datetime.strptime(time, "%Y%m%dT%H%M%S%z").timestamp())


@contextmanager
def _alone() -> Iterator[None]:
    """One build at a time in one cache."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
