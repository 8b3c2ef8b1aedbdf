"""A socket's last seconds: deliver what waits, send FIN, let the other end finish.

``tpnet.proxy.connection`` makes one per socket that is closed in an orderly way. It must never pass on a byte
that it reads: they are read only because unread bytes would turn the closing into RST, which destroys an
answer that the client has not read yet.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from tpnet.proxy.loop import OUT

if TYPE_CHECKING:
    from tpnet.proxy.context import Context
    from tpnet.proxy.stream import Stream
    from tpnet.proxy.target import Target

_DRAIN = 16 * 1024
_DRAIN_MOST = 4 * 1024 * 1024
"""Bytes that a client may go on sending after its answer."""


class Farewell:
    """Closes a stream. With ``target`` it is a client's: that is read until its FIN, for a bounded time.

    The time only begins when everything was written: a slow reader gets its answer however long it takes.
    """

    __slots__ = ("_client", "_context", "_drained", "_over", "_stream", "_target")

    def __init__(self, context: Context, stream: Stream, target: Target | None = None) -> None:
        self._context = context
        self._stream = stream
        self._target = target
        self._client = client = target is not None
        self._drained = 0
        self._over = False
        if target is not None:
            target.farewells.add(self)
        if stream.broken:
            self._reset()
        elif not stream.backlog and (not client or stream.ended):
            # FIN goes out with the closing itself.
            self.finish()
        else:
            stream.handle(self.on_events)
            stream.shutdown()
            self._next()

    def on_events(self, events: int) -> None:
        """The socket is ready for something."""
        stream = self._stream
        if events & OUT:
            stream.flush()
        if stream.wants_read and events & ~OUT:
            try:
                data = stream.sock.recv(_DRAIN, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                self._reset()
                return
            if not data:
                stream.ended = True
            self._drained += len(data)
        elif events & ~OUT and stream.failure():
            self._reset()
            return
        self._next()

    def _next(self) -> None:
        stream = self._stream
        if stream.broken:
            self._reset()
        elif stream.shut and (not self._client or stream.ended or self._drained > _DRAIN_MOST):
            self.finish()
        else:
            if stream.shut:
                self._context.lingering.add(self)
            stream.watch(reading=self._client)

    def finish(self) -> None:
        """Close now."""
        if not self._over:
            self._end()
            self._stream.close(lingers=self._client)

    def fail(self) -> None:
        """Something of ours went wrong."""
        self._reset()

    def _reset(self) -> None:
        if not self._over:
            self._end()
            self._stream.reset()

    def _end(self) -> None:
        self._over = True
        self._context.lingering.discard(self)
        if self._target is not None:
            self._target.farewells.discard(self)
