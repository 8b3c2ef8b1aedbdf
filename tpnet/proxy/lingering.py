"""A socket's last seconds: deliver what waits, send FIN, let the other end finish.

There is one for each client that is closed in an orderly way, and for each upstream that still waits to be written
to. It must never pass on a byte
that it reads: they are read only because unread bytes would turn the closing into RST, which destroys an
answer that the client has not read yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpnet.proxy.loop import OUT

if TYPE_CHECKING:
    from tpnet.proxy.context import Context
    from tpnet.proxy.stream import Stream

_DRAIN = 16 * 1024
_DRAIN_MOST = 4 * 1024 * 1024
"""Bytes that a client may go on sending after its response."""


class LingeringClose:
    """Closes a stream. With ``clients`` it is a client's: that is read until its FIN, for a bounded time.

    The time only begins when everything was written: a slow reader gets its response however long it takes.
    ``clients`` are those of the target; this one is among them while it lasts.
    """

    __slots__ = ("_client", "_clients", "_context", "_drained", "_over", "_stream")

    def __init__(self, context: Context, stream: Stream, clients: set[LingeringClose] | None = None) -> None:
        self._context = context
        self._stream = stream
        self._clients = clients
        self._client = client = clients is not None
        self._drained = 0
        self._over = False
        if clients is not None:
            clients.add(self)
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
                data = stream.read(_DRAIN)
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
        if self._clients is not None:
            self._clients.discard(self)


def close_upstream(context: Context, stream: Stream, *, reset: bool) -> None:
    """Let an upstream's stream go: in an orderly way, or with RST if ``reset`` or if it is not established."""
    if reset or stream.connecting or stream.broken:
        stream.reset()
    elif stream.backlog:
        LingeringClose(context, stream)
    else:
        stream.close(lingers=False)
