"""Users for workers: a range, of which each worker gets one that no process of the node has.

Whoever shares a user with a process may send it signals, and counts in the same limits. Must never decide alone what is
safe: a worker has nothing that its user could be used for.
"""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path

WORKER_UIDS = range(2_000_074_700, 2_000_074_800)
"""Between the users that OpenShift gives namespaces and 2**31; no part of a range for user namespaces."""
_MOST = 65_536
_NOBODY = 2**32 - 1  # -1, which setresuid(2) takes for "as it is"


def parse_range(text: str) -> range:
    """``FIRST-LAST``, or one number. Raises ``ValueError`` with a sentence."""
    first, dash, last = text.partition("-")
    if not all(part.isascii() and part.isdigit() for part in (first, last if dash else first)):
        raise ValueError(f"{text!r} is no range of users: it is written FIRST-LAST.")
    found = range(int(first), int(last if dash else first) + 1)
    if not found or found[0] == 0 or found[-1] >= _NOBODY:
        raise ValueError(
            f"{text!r} is no range of users: they are from 1 to {_NOBODY - 1}, the lowest first."
        )
    if len(found) > _MOST:
        raise ValueError(f"{text!r} has {len(found)} users, and {_MOST} are enough.")
    return found


def apart(uids: range) -> tuple[range, range]:
    """Two parts of a range, for two kinds of processes that start at once; one that has but one user is shared."""
    return uids[::2], uids[1::2] or uids


def unused(uids: range, proc: Path = Path("/proc")) -> int | None:
    """One of ``uids``, by chance, that no process has which is seen from here; ``None`` when each is somebody's."""
    free = set(uids) - _in_use(proc)
    return secrets.choice(sorted(free)) if free else None


def _in_use(proc: Path) -> set[int]:
    """Users and groups of all processes: real, effective, saved and the file system's."""
    found: set[int] = set()
    for folder in proc.iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError), open(folder / "status", encoding="utf-8") as status:
                for line in status:
                    if line.startswith(("Uid:", "Gid:")):
                        found.update(map(int, line.split()[1:]))
    return found
