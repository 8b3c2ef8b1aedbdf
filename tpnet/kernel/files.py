"""Files of this account's own, made and read so that nobody else's doing matters: links, squatted names, odd files.

Agent and session daemon make every file of theirs here. Each is in a folder that only this account may write to
(``own_folder``), is made under a name that nobody knows and then renamed, and is never reached through a link. What
stands in its place already, whatever it is, is set aside. Must never write to a file that it has not made, nor change a
folder that serves others.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

_LOOK = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_ODD = {errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EACCES, errno.EPERM, errno.EMLINK}
_TRIES = 64
_EVERYBODYS = {"/tmp", "/var/tmp", "/dev/shm"}  # noqa: S108 - to keep away from them


class NotOurs(OSError):
    """A folder in which others may write, or a file that another one made: EPERM, and ``strerror`` says which."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(errno.EPERM, f"{path} {why}")


def own_folder(path: Path, mode: int = 0o700) -> None:
    """Make the folder, and those above it, or check that it is this account's alone, and that nobody can replace it.

    A container's volume comes writable for all: where the folder is a mount point of this account's, that is put right.
    Raises ``NotOurs``, and other ``OSError``.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - links are looked at below
    at = os.open("/", _LOOK)
    walked = Path("/")
    try:
        for name in path.parts[1:]:
            found = os.fstat(at)
            walked /= name
            below = _step(at, name, walked, mode, last=walked == path)
            os.close(at)
            at = below
            if walked != path:
                _check_above(walked, os.fstat(at), nearest=walked == path.parent)
        status = os.fstat(at)
        if status.st_uid != os.geteuid():
            raise NotOurs(path, f"is of the user {status.st_uid}")
        if status.st_mode & 0o022:
            if status.st_dev == found.st_dev or str(path) in _EVERYBODYS:
                raise NotOurs(path, "can be written by others")
            path.chmod(mode)
    finally:
        os.close(at)


def check_folder(path: Path) -> None:
    """Like ``own_folder``, for one that is there already. Raises ``FileNotFoundError`` where it is not."""
    os.close(os.open(path, _LOOK))
    own_folder(path)


def write(path: Path, data: bytes) -> None:
    """Make the file with this content, in place of what is there: a reader sees the old or the new whole.

    The folder must be one of ``own_folder``. Raises ``OSError``.
    """
    fresh, fd = _fresh(path)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        _rename(fresh, path)
    except BaseException:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise


def read(path: Path, most: int) -> bytes:
    """The first ``most`` bytes of a file that this account made. Raises ``NotOurs``, ``OSError``."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not _made_here(fd):
            raise NotOurs(path, "is not a file of this account's")
        return file.read(most)


def open_own(path: Path, flags: int) -> int:
    """Open the file with ``flags``, making it if it is not there. What is not a file of this account's is set aside.

    Raises ``OSError``.
    """
    for _ in range(_TRIES):
        try:
            fd = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in _ODD or not os.path.lexists(path):
                raise
        else:
            if _made_here(fd):
                os.set_blocking(fd, True)
                return fd
            os.close(fd)
        remove(path)
    raise NotOurs(path, "is made anew by others")


def bind(listener: socket.socket, path: Path) -> None:
    """Give a Unix socket that name, mode 0600, in place of what is there. Raises ``OSError``."""
    for _ in range(_TRIES):
        fresh = path.with_name(f".{secrets.token_hex(2)}")  # short: a socket's path may have 107 bytes
        try:
            listener.bind(str(fresh))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            continue
        fresh.chmod(0o600)
        _rename(fresh, path)
        return
    raise NotOurs(path, "cannot be made: every name is taken")


def remove(path: Path) -> None:
    """Have nothing of that name, be it a folder that cannot be removed: that is set aside. Raises ``OSError``."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise
        aside = path.with_name(f".aside-{secrets.token_hex(8)}")
        path.rename(aside)
        with contextlib.suppress(OSError):
            aside.rmdir()


def _step(at: int, name: str, path: Path, mode: int, *, last: bool) -> int:
    """The folder ``name`` in ``at``, made if it is not there. Above the ``last``, through links that nobody else made."""
    try:
        return os.open(name, _LOOK | os.O_NOFOLLOW, dir_fd=at)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, mode, dir_fd=at)
        return os.open(name, _LOOK | os.O_NOFOLLOW, dir_fd=at)
    except NotADirectoryError:
        link = os.stat(name, dir_fd=at, follow_symlinks=False)
        if not stat.S_ISLNK(link.st_mode):
            raise
        if last:
            raise NotOurs(path, "is a link") from None
        if os.fstat(at).st_mode & 0o022 and link.st_uid not in {0, os.geteuid()}:
            raise NotOurs(path, f"is a link that the user {link.st_uid} made") from None
        return os.open(name, _LOOK, dir_fd=at)


def _check_above(path: Path, status: os.stat_result, *, nearest: bool) -> None:
    """Where others may write and no sticky bit holds them off, they can put another folder in the place of ours."""
    if nearest and status.st_uid not in {0, os.geteuid()}:
        raise NotOurs(path, f"is of the user {status.st_uid}")
    group = status.st_mode & stat.S_IWGRP and status.st_gid not in {0, os.getegid()}
    if (status.st_mode & stat.S_IWOTH or group) and not status.st_mode & stat.S_ISVTX:
        raise NotOurs(path, "can be written by others")


def _fresh(path: Path) -> tuple[Path, int]:
    fresh = path.with_name(f".{path.name[:64]}.{secrets.token_hex(8)}")
    return fresh, os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _rename(fresh: Path, path: Path) -> None:
    try:
        fresh.rename(path)
    except IsADirectoryError:
        remove(path)
        fresh.rename(path)


def _made_here(fd: int) -> bool:
    """Whether it is a file of this account's with one name, or with none any more: who removed it was of this account."""
    status = os.fstat(fd)
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink <= 1
