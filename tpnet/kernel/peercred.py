"""Who is at the other end of a Unix socket (unix(7), SO_PEERCRED). Must never be asked of another kind of socket."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

_UCRED = struct.Struct("=3i")


class Credentials(NamedTuple):
    """``struct ucred``: ids as this process's namespaces number them."""

    pid: int
    uid: int
    gid: int


def peer_credentials(sock: socket.socket) -> Credentials:
    """Of the process that connected or listened, as it was then. Raises ``OSError``."""
    return Credentials(*_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))
