"""The two upper layers: the Python packages that ``requirements.lock`` pins, and tpnet itself, in ``/opt/tpnet``."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from agentimage.bytecode import compile_all
from agentimage.debian import ARCHITECTURES
from agentimage.tools import CACHE, REPOSITORY, key, run, sha256
from agentimage.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LOCK = REPOSITORY / "requirements.lock"
SITE = "opt/tpnet/lib/python3.11/site-packages"
# What requirements.lock has for building alone.
BUILD_ONLY = ("editables", "hatchling", "packaging", "pathspec", "pluggy", "tomlkit", "trove-classifiers")
_GLIBC = ("2_17", "2_24", "2_27", "2_28", "2_31", "2_34", "2_35", "2_36")  # Debian 12's is 2.36
_PIP = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "--no-input")


class Wheel(NamedTuple):
    """A Python package, the file that has it, and its hash, which the lock allows."""

    name: str
    version: str
    path: Path
    sha256: str


def wheels(architecture: str, say: Callable[[str], None]) -> list[Wheel]:
    """The packages that tpnet needs, fetched. Raises ``BuildError``."""
    folder = CACHE / f"wheels-{architecture}-{key(LOCK, *BUILD_ONLY)}"
    if not folder.exists():
        say("fetching Python packages: requirements.lock")
        machine = ARCHITECTURES[architecture].partition("-")[0]
        fresh = CACHE / ".wheels"
        shutil.rmtree(fresh, ignore_errors=True)
        platforms = [f"--platform=manylinux_{glibc}_{machine}" for glibc in _GLIBC]
        platforms += [f"--platform=manylinux{old}_{machine}" for old in ("2014", "2010")]
        with tempfile.TemporaryDirectory() as made:
            wanted = Path(made, "wanted.lock")
            wanted.write_text(without(LOCK.read_text(), BUILD_ONLY))
            run(
                *_PIP, "download", "--no-deps", "--require-hashes", "--only-binary=:all:", *platforms,
                "--implementation=cp", "--python-version=3.11", "-d", fresh, "-r", wanted,
            )  # fmt: skip
        fresh.rename(folder)
    found = []
    for path in sorted(folder.glob("*.whl")):
        name, version = path.name.split("-")[:2]
        found.append(Wheel(name.replace("_", "-").lower(), version, path, sha256(path)))
    return found


def packages(found: Iterable[Wheel]) -> Tree:
    """The layer of these packages."""
    tree = Tree()
    for wheel in found:
        _install(tree, wheel.path)
    compile_all(tree)
    return tree


def tpnet() -> Tree:
    """Tpnet's own files, and what makes /opt/tpnet an environment that sees Debian's bcc."""
    tree = Tree()
    with tempfile.TemporaryDirectory() as folder:
        env = {"SOURCE_DATE_EPOCH": "1580601600"}
        run(
            *_PIP,
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "-w",
            folder,
            REPOSITORY,
            env=env,
        )
        (wheel,) = Path(folder).glob("tpnet-*.whl")
        _install(tree, wheel)
    tree.link("opt/tpnet/bin/python", "/usr/bin/python3")
    tree.link("opt/tpnet/bin/python3", "/usr/bin/python3")
    tree.file(
        "opt/tpnet/pyvenv.cfg", "home = /usr/bin\ninclude-system-site-packages = true\nversion = 3.11.2\n"
    )
    tree.file(
        "opt/tpnet/bin/tpnet",
        "#!/opt/tpnet/bin/python\nimport sys\n\nfrom tpnet_cli.main import main\n\nsys.exit(main())\n",
        0o755,
    )
    compile_all(tree)
    return tree


def _install(tree: Tree, wheel: Path) -> None:
    """Unpack a wheel (PEP 427). Its scripts are left out: the image has one, which is tpnet's."""
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            first, _, rest = info.filename.partition("/")
            kind, _, inner = rest.partition("/")
            unpacked = first.endswith(".data")
            if info.is_dir() or (unpacked and kind not in {"purelib", "platlib"}):
                continue
            mode = 0o755 if info.external_attr >> 16 & 0o100 else 0o644
            tree.file(f"{SITE}/{inner if unpacked else info.filename}", archive.read(info), mode)


def without(lock: str, names: Iterable[str]) -> str:
    """A lock's text without some packages."""
    kept = []
    for entry in re.split(r"\n(?=\S)", lock):
        name = re.match(r"[A-Za-z0-9._-]+", entry)
        if name is None or name[0].lower().replace("_", "-") not in names:
            kept.append(entry)
    return "\n".join(kept) + "\n"
