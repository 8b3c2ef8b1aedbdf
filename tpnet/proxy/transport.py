"""Where a connection's bytes enter and leave this process: the only place that reads, writes and splices.

``tpnet.proxy.stream`` stands on a ``Transport``; ``Socket`` is the plain one. What is called for every request is the
C method itself, so that the seam costs nothing. Must never block, and never look at a byte.
"""

from __future__ import annotations

import _socket
import contextlib
import os
import socket
from typing import Protocol

from tpnet.kernel.tcp import SO_BUF_LOCK, TCP_NOTSENT_LOWAT

NOW = socket.MSG_DONTWAIT
"""The flag of every read and write."""
MORE = socket.MSG_DONTWAIT | socket.MSG_MORE
"""The flag of a write after which the end follows at once, and may share a segment with it."""
_SPLICE = 1 | 2  # splice(2): SPLICE_F_MOVE | SPLICE_F_NONBLOCK


_RECEIVED = 64 * 1024
"""SO_RCVBUF of what a session's bytes pass: the kernel doubles it, to have room for its own books."""
_UNSENT = 16 * 1024
"""Bytes that may wait in the kernel to be sent there, besides a piece that is under way (TCP_NOTSENT_LOWAT)."""


class Transport(Protocol):
    """What carries one connection's bytes. All raise ``OSError``, ``BlockingIOError`` where a call would wait."""

    def fileno(self) -> int:
        """The descriptor whose events tell that something can be done."""

    def recv(self, size: int, flags: int, /) -> bytes:
        """Read up to ``size`` bytes that have arrived; none at the end. ``flags`` are the system call's."""

    def send(self, data: bytes | memoryview, flags: int, /) -> int:
        """Write; returns how many bytes were taken."""

    def fill(self, pipe: int, count: int) -> int:
        """Move up to ``count`` bytes that have arrived into a pipe, unseen; 0 at the end."""

    def drain(self, pipe: int, count: int) -> int:
        """Write up to ``count`` bytes from a pipe, unseen."""

    def shutdown(self, how: int, /) -> None:
        """Send the end (shutdown(2))."""

    def hold_little(self) -> None:
        """Have the kernel hold little of what is received, and little of what waits to be sent."""

    def hold_as_usual(self) -> None:
        """Leave that to the kernel again."""


class Socket(_socket.socket):
    """A TCP socket: the plain transport.

    Without the Python layer that ``socket.socket`` puts on top: half the price to make and close.
    """

    __slots__ = ()

    def fill(self, pipe: int, count: int) -> int:
        """See ``Transport.fill``."""
        self._unblock()
        return os.splice(self.fileno(), pipe, count, flags=_SPLICE)

    def drain(self, pipe: int, count: int) -> int:
        """See ``Transport.drain``."""
        self._unblock()
        return os.splice(pipe, self.fileno(), count, flags=_SPLICE)

    def hold_little(self) -> None:
        """See ``Transport.hold_little``. What was sent and is not confirmed is not limited: a long way needs it."""
        self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVED)
        self.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, _UNSENT)

    def hold_as_usual(self) -> None:
        """See ``Transport.hold_as_usual``. Before Linux 5.15 the limit of what is received stays."""
        self.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, 0)
        with contextlib.suppress(OSError):
            self.setsockopt(socket.SOL_SOCKET, SO_BUF_LOCK, 0)

    def _unblock(self) -> None:
        # splice(2) looks at O_NONBLOCK; reads and writes say MSG_DONTWAIT and need it not.
        if self.getblocking():
            self.setblocking(False)
