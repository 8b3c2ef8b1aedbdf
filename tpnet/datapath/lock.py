"""Locks that vanish with their holder: abstract Unix sockets, each of one network namespace.

``tpnet.datapath.redirect`` takes one in each target's namespace, ``tpnet.agent`` one in the node's. Must never
be on disk: what a killed process leaves there would lock out the next one.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import TYPE_CHECKING

from tpnet.model import Conflict, TpnetError

if TYPE_CHECKING:
    from collections.abc import Callable


def take_lock(name: str, make_socket: Callable[[], socket.socket], *, what: str, taken: str) -> socket.socket:
    """Hold the abstract name ``name`` (unix(7)) for as long as the returned socket is open.

    ``make_socket`` makes a Unix stream socket in the namespace that is meant. ``what`` is the lock and ``taken``
    what it means that somebody has it, both for people. Raises ``Conflict`` with the other one's process id.
    """
    lock = make_socket()
    try:
        lock.bind(f"\0{name}")
        lock.listen(1)  # so that others can ask who we are
    except OSError as error:
        lock.close()
        if error.errno != errno.EADDRINUSE:
            raise TpnetError(f"{what} could not be taken: {error.strerror}.") from error
        raise Conflict(
            f"{taken} already ({_holder(name, make_socket)}).",
            "Only one agent may run on a node. Stop the other one first.",
        ) from error
    return lock


def _holder(name: str, make_socket: Callable[[], socket.socket]) -> str:
    with make_socket() as probe:
        probe.setblocking(False)
        try:
            probe.connect(f"\0{name}")
            pid = struct.unpack("=3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        except OSError:
            return "its process is unknown"
        return f"process {pid}"
