"""Names that vanish with their holder: abstract Unix sockets, each of one network namespace (unix(7)).

Must never be on disk: what a killed process leaves there would lock out the next one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpnet.kernel.peercred import peer_credentials

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tpnet.kernel.peercred import Credentials


def take_name(name: str, make_socket: Callable[[], socket.socket]) -> socket.socket:
    """Hold ``name`` for as long as the returned socket is open.

    ``make_socket`` makes a Unix stream socket in the namespace that is meant. Raises ``OSError``, EADDRINUSE when
    another one holds the name.
    """
    lock = make_socket()
    try:
        lock.bind(f"\0{name}")
        lock.listen(1)  # so that others can ask who we are
    except OSError:
        lock.close()
        raise
    return lock


def holder(name: str, make_socket: Callable[[], socket.socket]) -> Credentials | None:
    """Who holds ``name``; ``None`` if nobody does, or it cannot be told."""
    with make_socket() as probe:
        probe.setblocking(False)
        try:
            probe.connect(f"\0{name}")
            return peer_credentials(probe)
        except OSError:
            return None


def names_held(prefix: str) -> set[str]:
    """The names that begin so, and that anybody holds in the calling thread's namespace. Raises ``OSError``."""
    with open("/proc/thread-self/net/unix", encoding="utf-8", errors="replace") as file:
        paths = (line.split()[-1] for line in file)
        return {path[1:] for path in paths if path.startswith(f"@{prefix}")}
