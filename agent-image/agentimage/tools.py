"""Commands, hashes and the one error of the build."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).resolve().parents[1]
REPOSITORY = HERE.parent
CACHE = REPOSITORY / ".cache" / "image"


class BuildError(Exception):
    """The image cannot be built; the message says why, and has the command's own words."""


def run(
    *words: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None, check: bool = True
) -> str:
    """Run a command to its end, and return what it printed. Raises ``BuildError``."""
    try:
        done = subprocess.run(
            [str(word) for word in words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            check=False,
        )
    except FileNotFoundError as error:
        raise BuildError(f"{words[0]} is not there. It takes Debian 12 to build the image.") from error
    if check and done.returncode:
        said = f"{done.stdout}{done.stderr}".strip()
        raise BuildError(f"exit {done.returncode}: {' '.join(map(str, words))}\n{said}")
    return done.stdout


def sha256(path: Path) -> str:
    """A file's hash in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def key(*parts: str | Path) -> str:
    """16 hex digits for texts, files, and whole folders."""
    total = hashlib.sha256()
    for part in parts:
        for item in _contents(part) if isinstance(part, Path) else [part.encode()]:
            total.update(len(item).to_bytes(8, "big") + item)
    return total.hexdigest()[:16]


def _contents(path: Path) -> list[bytes]:
    if path.is_file():
        return [path.name.encode(), path.read_bytes()]
    found = []
    for file in sorted(path.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            found += [str(file.relative_to(path)).encode(), file.read_bytes()]
    return found
