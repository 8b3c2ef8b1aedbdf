"""A client connection's own connection to a session: dialled on the first bytes, a status byte in front.

``tpnet.proxy.connection`` makes one per session side and never shares it with another client. It must never
report that nothing was delivered unless that is certain: what is reported so may be sent again, to the app.

The other end sends one byte before anything else: 0 when the handler was reached, 1 when it was not. Request
bytes follow the connection at once; a refusal, FIN or RST in front of the status byte mean that the handler
saw none. Silence does not: after a timeout the request counts as possibly delivered, once any of it may have
left.
"""

from __future__ import annotations

import socket
from errno import ECONNRESET, EINPROGRESS, EIO
from typing import TYPE_CHECKING, NamedTuple

from tpnet.proxy.farewell import Farewell
from tpnet.proxy.loop import IN, OUT, Socket
from tpnet.proxy.stream import Stream

if TYPE_CHECKING:
    from tpnet.proxy.connection import Connection

REACHED = 0
"""The status byte of a handler that was reached."""

_CLOSED = "session closed before the handler was reached"


class Way(NamedTuple):
    """What names a session side: where its requests are taken, and the intercept that sends them there."""

    session: str
    port: int
    intercept: str


class SessionUpstream:
    """One connection to a session.

    ``stream`` is ``None`` while it waits for a prepared socket; what is sent meanwhile is kept (the
    connection reads nothing more from its client while anything waits, so that is one read at most).
    """

    __slots__ = ("_early", "_shutting", "connection", "ready", "stream", "way")

    def __init__(self, connection: Connection, way: Way) -> None:
        self.connection = connection
        self.way = way
        self.stream: Stream | None = None
        self.ready = False
        self._early: list[bytes] = []
        self._shutting = False

    @property
    def connected(self) -> bool:
        """Whether bytes may have left."""
        return self.stream is not None and not self.stream.connecting

    def dial(self) -> None:
        """Begin."""
        context = self.connection.context
        state = context.sessions.get(self.way.session)
        if state is None or not state.up:
            self.connection.fail_side(self, "session down", delivered=False)
            return
        state.upstreams.add(self)
        context.connecting.add(self)
        sock = context.session_stock.take()
        if sock is None:
            context.session_stock.waiting[self] = None
            context.session_stock.refill()
        else:
            self.given(sock)

    def given(self, sock: Socket) -> None:
        """Connect a prepared socket."""
        context = self.connection.context
        state = context.sessions[self.way.session]  # dropping a session fails all that wait for it
        try:
            error = sock.connect_ex((state.address, self.way.port))
        except OSError as failure:
            error = failure.errno or EIO
        self.stream = stream = Stream(context.loop, context.pipes, sock, self.on_events, connecting=True)
        if error not in {0, EINPROGRESS}:
            self.connection.fail_side(self, "session unreachable", delivered=False)
            return
        for data in self._early:
            stream.send(data)
        self._early.clear()
        if self._shutting:
            stream.shutdown()

    def send(self, data: bytes | memoryview) -> None:
        """Send, or keep until it can be sent."""
        if self.stream is None:
            self._early.append(bytes(data))
        else:
            self.stream.send(data)

    def shutdown(self) -> None:
        """Half-close after what was sent."""
        if self.stream is None:
            self._shutting = True
        else:
            self.stream.shutdown()

    @property
    def backlog(self) -> int:
        """Bytes that wait to be written."""
        return self.stream.backlog if self.stream else len(self._early)

    def watch(self, *, reading: bool) -> None:
        """Ask for the events that matter now."""
        if self.stream is not None:
            self.stream.watch(reading=reading)

    def on_events(self, events: int) -> None:
        """The socket is ready for something."""
        stream, connection = self.stream, self.connection
        assert stream is not None
        if stream.connecting:
            if error := stream.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                # A reset follows an accepted connection: the handler is what is missing.
                reason = _CLOSED if error == ECONNRESET else "session unreachable"
                connection.fail_side(self, reason, delivered=False)
                return
            if not events & OUT:
                return
            stream.connecting = False
            connection.context.connecting.discard(self)
            connection.context.awaiting.add(self)
            connection.calm = False
        if events & OUT:
            stream.flush()
        if not stream.wants_read:
            if events & ~(IN | OUT) and stream.failure():
                connection.fail_side(self, "session connection broken", delivered=self.ready)
            else:
                connection.settle()
            return
        if not self.ready:
            if events & ~OUT:
                self._read_status(stream)
            connection.settle()
            return
        connection.read_side(self.way, stream, events)

    def _read_status(self, stream: Stream) -> None:
        try:
            status = stream.sock.recv(1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            status = b""
        if status and status[0] == REACHED:
            self.ready = True
            self.connection.context.awaiting.discard(self)
            self.connection.confirm(self.way)
        else:
            reason = "handler refused" if status else _CLOSED
            self.connection.fail_side(self, reason, delivered=False)

    def timed_out(self) -> None:
        """Neither connection nor status byte in time."""
        reason = "handler not reached in time" if self.connected else "session not reached in time"
        self.connection.fail_side(self, reason, delivered=self.connected)

    def session_lost(self) -> None:
        """The tunnel was declared down, or the session is gone."""
        self.connection.fail_side(self, "session down", delivered=self.connected)

    def close(self, *, reset: bool = False) -> None:
        """Let go of the socket: in an orderly way, or with RST."""
        context = self.connection.context
        context.connecting.discard(self)
        context.awaiting.discard(self)
        context.session_stock.waiting.pop(self, None)
        state = context.sessions.get(self.way.session)
        if state is not None:
            state.upstreams.discard(self)
        if self.stream is None:
            return
        if reset or not self.connected:
            self.stream.reset()
        else:
            Farewell(context, self.stream)
