"""Small things that every part of the lab uses: folders, commands, waiting, the identity of a process."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

REPOSITORY = Path(__file__).resolve().parents[3]
CACHE = REPOSITORY / ".cache" / "cluster"
# One folder for the clusters of every checkout, so that whoever starts next finds what a killed run left. Short: sockets lie below it.
RUNS = Path("/var/tmp/tpnet-lab")
# In the environment of every process that a cluster starts.
MARK = "TPNET_LAB"


class LabError(Exception):
    """The lab could not do something; the message has the command's own words."""


def run(
    *argv: str | Path, check=True, timeout=120.0, env=None, stdin=None, cwd=None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, text in and out; LabError with what it said if it fails, or takes over ``timeout`` s."""
    words = [str(word) for word in argv]
    source = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=timeout, env=env, cwd=cwd, check=False, **source
        )
    except subprocess.TimeoutExpired as late:
        said = "".join(part.decode(errors="replace") for part in (late.stdout, late.stderr) if part)
        raise LabError(f"took over {timeout:g} s: {' '.join(words)}\n{said}") from None
    if check and done.returncode:
        raise LabError(f"exit {done.returncode}: {' '.join(words)}\n{done.stdout}{done.stderr}")
    return done


PATIENCE = 3
"""How many times as long as usual something may take: others want the processors as well."""


def wait_until(condition: Callable[[], object], seconds: float, what: str | Callable[[], str], every=0.1):
    """Wait for ``condition`` to be true, and return what it returned; LabError naming ``what`` was waited for.

    ``seconds`` is what it takes at most where the machine has nothing else to do.
    """
    seconds *= PATIENCE
    end = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() >= end:
            raise LabError(f"waited {seconds:g} s in vain: {what() if callable(what) else what}")
        time.sleep(every)


def boot() -> str:
    """This boot of the machine: process ids mean nothing in another."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int, proc: Path = Path("/proc")) -> int | None:
    """When the process started, in ticks since boot, None if there is none or only its remains: with the pid its identity."""
    try:
        fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` (made if need be): one of several runs at once builds, the others wait for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def digest(*parts: str | bytes | Path) -> str:
    """12 hex digits that stand for the parts; a Path stands for its file's, or all its files', names and contents."""
    total = hashlib.sha256()
    for part in parts:
        for item in files(part) if isinstance(part, Path) else [part]:
            data = item.encode() if isinstance(item, str) else item
            total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()[:12]


def files(path: Path) -> Sequence[bytes]:
    """Names, modes and contents of a file or of all files below a folder, in a fixed order; git's and caches' own left out."""
    if path.is_file():
        return [path.name.encode(), path.read_bytes()]
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        for name in sorted(names):
            file = Path(folder, name)
            found += [str(file.relative_to(path)).encode(), b"%o" % file.stat().st_mode, file.read_bytes()]
    return found
