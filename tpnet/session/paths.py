"""Where a user's session daemon keeps its files. Used by the daemon and its client, so that they agree."""

from __future__ import annotations

import fcntl
import os
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tpnet.model import Conflict, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}")


@dataclass(frozen=True, slots=True)
class Paths:
    """The files of one user's daemon.

    ``socket`` takes calls, ``lock`` is held while it lives, ``start`` while one is being started, ``log``
    is what it says.
    """

    socket: Path
    lock: Path
    start: Path
    log: Path

    @classmethod
    def of(cls, run_dir: Path, user: str) -> Paths:
        """The paths, with their folder made (0700). Raises ``InvalidInput`` for an odd user name."""
        if _USER.fullmatch(user) is None:
            raise InvalidInput(
                f"The user name {user!r} cannot be used.",
                "Letters, digits and . _ @ + - are fine, 64 at most.",
            )
        folder = run_dir / "sessions"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls(*(folder / f"{user}.{kind}" for kind in ("sock", "lock", "start", "log")))


@contextmanager
def locked(path: Path, seconds: float, complaint: str) -> Iterator[None]:
    """Hold the lock on a file, waiting so long for it. The kernel lets go of it when its holder dies.

    Raises ``Conflict`` with ``complaint`` when somebody else keeps it.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Conflict(complaint) from None
                time.sleep(0.02)
        yield
    finally:
        os.close(fd)
