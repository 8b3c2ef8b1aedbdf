"""Where a user's session daemon keeps its files. Used by the daemon and its client, so that they agree."""

from __future__ import annotations

import fcntl
import os
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tpnet.kernel import files
from tpnet.model import Conflict, InvalidInput, Refused, TpnetError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tpnet.control.kubernetes.options import ClusterOptions

_LOOK_EVERY = 0.02
_LONGEST = 107
"""Bytes of a socket's path: unix(7), ``sun_path`` less its last, empty one."""
_ODD = re.compile(r"[^A-Za-z0-9_.@+-]+")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}")


@dataclass(frozen=True, slots=True)
class Paths:
    """The files of one user's daemon.

    ``socket`` takes calls, ``lock`` is held while it lives, ``start`` while one is being started; they are
    there as long as they are of use. ``log`` is what it says, and stays.
    """

    socket: Path
    lock: Path
    start: Path
    log: Path

    @classmethod
    def of(cls, run_dir: Path, user: str, cluster: ClusterOptions | None = None) -> Paths:
        """The paths; nothing is made. Raises ``InvalidInput`` for an odd user name.

        Of a ``cluster`` the user is whoever its API server says, which may be any text.
        """
        if cluster is not None:
            user = f"{_ODD.sub('-', user).strip('.-')[:40] or 'user'}.{cluster.key}"
        elif _USER.fullmatch(user) is None:
            raise InvalidInput(
                f"The user name {user!r} cannot be used.",
                "Letters, digits and . _ @ + - are fine, 64 at most.",
            )
        folder = run_dir / "sessions"
        return cls(*(folder / f"{user}.{kind}" for kind in ("sock", "lock", "start", "log")))

    def make_folder(self) -> None:
        """Make the folder (0700) if it is not there. Raises ``TpnetError`` when that cannot be, or it is another's."""
        if (length := len(os.fsencode(self.socket))) > _LONGEST:
            raise InvalidInput(
                f"The path {self.socket} is too long for a socket: {length} bytes, where {_LONGEST} are allowed.",
                "Name a folder of a shorter path with TPNET_RUN_DIR or XDG_RUNTIME_DIR.",
            )
        folder = self.socket.parent
        try:
            files.own_folder(folder)
        except files.NotOurs as error:
            # Where it lies in /tmp, somebody may have been there before us, to have our calls.
            raise Refused(
                f"The folder {folder} is not this account's alone: {error.strerror}.",
                "Remove it, or name another with TPNET_RUN_DIR or XDG_RUNTIME_DIR.",
            ) from error
        except PermissionError as error:
            raise Refused(
                f"The folder {folder} cannot be made by this account.", "Run the command as root."
            ) from error
        except OSError as error:
            raise TpnetError(
                f"The folder {folder} cannot be made: {error.strerror}.",
                "TPNET_RUN_DIR says where the agent's folder is.",
            ) from error


@contextmanager
def locked(path: Path, seconds: float, complaint: str) -> Iterator[None]:
    """Hold the lock that a file stands for, waiting so long for it. The file is gone afterwards.

    The kernel lets go of the lock when its holder dies; the next holder takes the file over. Raises
    ``Conflict`` with ``complaint`` when somebody else keeps it.
    """
    deadline = time.monotonic() + seconds
    while (fd := _take(path)) is None:
        if time.monotonic() > deadline:
            raise Conflict(complaint)
        time.sleep(_LOOK_EVERY)
    try:
        yield
    finally:
        # Only its holder removes it, and while it holds it. Who waits finds out by its name: see _take.
        path.unlink(missing_ok=True)
        os.close(fd)


def _take(path: Path) -> int | None:
    """The locked file, or ``None`` when somebody else has it.

    A lock belongs to a file, not to its name: who got the lock of a file that its former holder has removed
    has got nothing, as the next one makes a new file of that name. So the two are compared, with the lock.
    """
    fd = files.open_own(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), path.stat()):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None
