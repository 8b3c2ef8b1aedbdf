"""Processes of the lab: started in a place, told apart by id and start time, ended for good.

``tpnet_cli.lab.build`` and the demo use it. It must never signal a process that it does not know by both.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tpnet.datapath.netns import NetNs, processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

_POLL = 0.02


@dataclass(frozen=True, slots=True)
class Process:
    """A process: ``start`` is its start time in clock ticks since boot, since ids are used again."""

    what: str
    pid: int
    start: int

    def alive(self) -> bool:
        """Whether it runs. One that ended and waits for its parent does not; ours is fetched on the way."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        return start_time(self.pid) == self.start

    def signal(self, number: int) -> None:
        """Send a signal, if it is still the same process."""
        if start_time(self.pid) != self.start:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


def start(netns: NetNs, what: str, argv: Sequence[str], env: Mapping[str, str], log: Path) -> Process:
    """Start a program inside a namespace, in a session of its own, its output appended to ``log``.

    Raises ``OSError`` when it cannot be started.
    """

    def spawn() -> int:
        return os.posix_spawnp(
            argv[0],
            list(argv),
            dict(env),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )

    pid = netns.run(spawn)
    return Process(what, pid, start_time(pid) or 0)


def start_time(pid: int) -> int | None:
    """When a process started; ``None`` when there is none, or nothing but its exit status."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # proc_pid_stat(5): the name, in brackets, may hold anything; the state is field 3, the start field 22.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def processes_in(inode: int) -> list[Process]:
    """Every process whose network namespace has that inode, whoever started it."""
    found: list[Process] = []
    for pid in processes():
        with contextlib.suppress(OSError):
            born = start_time(pid)
            if Path(f"/proc/{pid}/ns/net").stat().st_ino == inode and born is not None:
                found.append(Process("", pid, born))
    return found


def end(gone: Iterable[Process], grace: float) -> None:
    """SIGTERM, ``grace`` seconds in which to leave in good order, SIGKILL. Returns when none is left."""
    left = list(gone)
    for process in left:
        process.signal(signal.SIGTERM)
    left = _wait_for_end(left, grace)
    for process in left:
        process.signal(signal.SIGKILL)
    _wait_for_end(left, 5.0)


def _wait_for_end(left: list[Process], seconds: float) -> list[Process]:
    deadline = time.monotonic() + seconds
    while left := [process for process in left if process.alive()]:
        if time.monotonic() > deadline:
            break
        time.sleep(_POLL)
    return left


def wait_until(ready: Callable[[], bool], process: Process, seconds: float) -> bool:
    """Wait for ``ready``; ``False`` when the process ended before, or the time did."""
    deadline = time.monotonic() + seconds
    while not ready():
        if not process.alive() or time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True
