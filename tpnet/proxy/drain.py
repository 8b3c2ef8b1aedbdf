"""A target's open connections, and how they end once it is removed.

Must never end a connection in the middle of a message before its grace is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tpnet.proxy.connection import Connection
    from tpnet.proxy.lingering import LingeringClose

IDLE = 1.0
"""Seconds without traffic after which a draining connection counts as idle."""
LAST = 5.0
"""Seconds after the grace until what is left is reset."""


class Drain:
    """``connections`` are open, ``closing`` those of clients that are being closed in an orderly way."""

    __slots__ = ("_until", "closing", "connections")

    def __init__(self) -> None:
        self.connections: set[Connection] = set()
        self.closing: set[LingeringClose] = set()
        self._until: float | None = None

    @property
    def begun(self) -> bool:
        """Whether the connections are to end."""
        return self._until is not None

    def begin(self, until: float) -> None:
        """Let the connections end: idle ones soon, the others at a message's end by ``until``, the rest soon after."""
        self._until = until
        for connection in self.connections:
            connection.busy = True

    def tick(self, now: float) -> bool:
        """Once a second. Whether it has begun, and all have ended."""
        until = self._until
        if until is None:
            return False
        for connection in list(self.connections):
            if now > until + LAST:
                connection.abort()
            elif connection.busy:
                connection.busy = False
                connection.idle_since = now
            if (
                not connection.done
                and connection.idle
                and (now - connection.idle_since >= IDLE or now > until)
            ):
                connection.end()
        if now > until + LAST:
            for closing in list(self.closing):
                closing.finish()
        return not self.connections and not self.closing
