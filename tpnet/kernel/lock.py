"""Names that vanish with their holder: abstract Unix sockets, each of one network namespace (unix(7)).

Must never be on disk: what a killed process leaves there would lock out the next one.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from tpnet.kernel.peercred import Credentials

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection


def take_name(name: str, make_socket: Callable[[], socket.socket]) -> socket.socket:
    """Hold ``name`` for as long as the returned socket is open.

    ``make_socket`` makes a Unix stream socket in the namespace that is meant. Raises ``OSError``, EADDRINUSE when
    another one holds the name.
    """
    lock = make_socket()
    try:
        lock.bind(f"\0{name}")
        lock.listen(1)  # agents of before ask who we are by connecting
    except OSError:
        lock.close()
        raise
    return lock


def names_held(prefix: str) -> dict[str, set[int]]:
    """The names that begin so and that anybody holds in the calling thread's namespace, with their sockets' inodes.

    Raises ``OSError``.
    """
    found: dict[str, set[int]] = {}
    with open("/proc/thread-self/net/unix", encoding="utf-8", errors="replace") as file:
        for line in file:
            *_, inode, path = line.split()
            if path.startswith(f"@{prefix}") and inode != "0":  # 0: a connection that nobody has accepted
                found.setdefault(path[1:], set()).add(int(inode))
    return found


def processes_with(inodes: Collection[int]) -> dict[int, set[int]]:
    """Which processes have sockets with these inodes open, as far as one may look.

    To connect and ask the kernel who is there would be simpler, and fails once the holder's queue is full: it accepts
    nobody.
    """
    found: dict[int, set[int]] = {}
    names = {f"socket:[{inode}]": inode for inode in inodes}
    for process in Path("/proc").iterdir() if names else ():
        if process.name.isdigit():
            with contextlib.suppress(OSError):  # it is gone, or not ours to look at
                for descriptor in (process / "fd").iterdir():
                    with contextlib.suppress(OSError):
                        if inode := names.get(str(descriptor.readlink())):
                            found.setdefault(inode, set()).add(int(process.name))
    return found


def holder(name: str) -> Credentials | None:
    """Who holds ``name`` in the calling thread's namespace; ``None`` if nobody does, or it cannot be told."""
    with contextlib.suppress(OSError):
        for pids in processes_with(names_held(name).get(name, set())).values():
            for pid in pids:
                status = Path(f"/proc/{pid}").stat()
                return Credentials(pid, status.st_uid, status.st_gid)
    return None
