"""Finds clients that are gone without a word while data for them is on its way.

The kernel's keepalive, which accepted sockets inherit, finds those for whom nothing is; while data is unacknowledged it
does not probe, and goes on sending for a quarter of an hour. Must never end a client that confirms what it is sent, or
whose closed window says that it reads nothing for now: therefore not TCP_USER_TIMEOUT, which does (tcp_probe_timer).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpnet.kernel.tcp import tcp_info

if TYPE_CHECKING:
    from tpnet.proxy.connection import Connection

ROUND = 30
"""Seconds, and calls of ``tick``, for one look at everybody."""
GONE = 90.0
"""Seconds for which a client may confirm nothing though it is sent something, as with keepalive."""


class Vigil:
    """Looks at a target's connections, some each second."""

    __slots__ = ("_connections", "_left", "_share")

    def __init__(self, connections: set[Connection]) -> None:
        self._connections = connections
        self._left: list[Connection] = []
        self._share = 0

    def tick(self) -> None:
        """Once a second."""
        if not self._left:
            self._left = list(self._connections)
            self._share = -(-len(self._left) // ROUND)
        now, self._left = self._left[: self._share], self._left[self._share :]
        for connection in now:
            if not connection.done and self._gone(connection):
                connection.abort()

    @staticmethod
    def _gone(connection: Connection) -> bool:
        try:
            info = tcp_info(connection.client.sock)
        except OSError:
            return False  # its error is told by an event
        return bool(info.unacked) and info.silent > GONE
