"""A target's open connections, and how they end with the agent.

Must never end one for any other reason, nor in the middle of a message before its time is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tpnet.proxy.connection import Connection
    from tpnet.proxy.lingering import LingeringClose

LAST = 1.0
"""Seconds after those of ``finish`` until what is left is reset: FIN may cross a request."""
FORSAKEN = 3.0
"""Seconds after its target has gone until a connection is reset that no app has an end of any more."""


class Drain:
    """``connections`` are open, ``closing`` those of clients that are being closed in an orderly way."""

    __slots__ = ("_forsake_at", "_mark", "_until", "closing", "connections")

    def __init__(self) -> None:
        self.connections: set[Connection] = set()
        self.closing: set[LingeringClose] = set()
        self._until: float | None = None
        self._mark = True
        self._forsake_at: float | None = None

    @property
    def over(self) -> bool:
        """Whether none is left."""
        return not self.connections and not self.closing

    def add(self, connection: Connection) -> None:
        """One more."""
        self.connections.add(connection)

    def begun(self, connection: Connection) -> None:
        """It moves bytes from now on."""
        if self._until is not None:
            connection.finish(mark=self._mark)

    def finish(self, until: float, *, mark: bool) -> None:
        """The agent ends: let the connections end, those that are yet to come too.

        Each does at its next message's end, which is told before with ``mark``. Silent ones get FIN at ``until``; what is
        left soon after it, RST.
        """
        self._until, self._mark = until, mark
        for connection in list(self.connections):
            connection.finish(mark=mark)

    def forsake(self, now: float) -> None:
        """The target has gone: in a while nothing is waited for that its apps have left."""
        self._forsake_at = now + FORSAKEN

    def keep(self) -> None:
        """The target is there again."""
        self._forsake_at = None

    def tick(self, now: float) -> None:
        """Once a second."""
        if (until := self._until) is not None and now >= until:
            for connection in list(self.connections):
                if connection.idle:
                    connection.end()
                elif now >= until + LAST:
                    connection.abort()
            if now >= until + LAST:
                for closing in list(self.closing):
                    closing.finish()
        if self._forsake_at is not None and now >= self._forsake_at:
            for connection in list(self.connections):
                if connection.forsaken:
                    connection.abort()
