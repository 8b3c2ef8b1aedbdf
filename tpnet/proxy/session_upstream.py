"""A client connection's own connection to a session: dialled on the first bytes, a status byte in front.

It must never report that nothing was delivered unless that is certain: what is reported so may be sent again, to the app.

The other end sends one byte before anything else: 0 when the handler was reached, 1 when it was not. Request
bytes follow the connection at once; a refusal, FIN or RST in front of the status byte mean that the handler
saw none. Silence does not: after a timeout the request counts as possibly delivered, once any of it may have
left.
"""

from __future__ import annotations

from errno import ECONNRESET, EINPROGRESS, EIO
from typing import TYPE_CHECKING

from tpnet.proxy.lingering import close_upstream
from tpnet.proxy.loop import IN, OUT
from tpnet.proxy.stream import Stream

if TYPE_CHECKING:
    from tpnet.proxy.sessions import SessionRoute
    from tpnet.proxy.transport import Socket
    from tpnet.proxy.upstream import Owner

REACHED = 0
"""The status byte of a handler that was reached."""

_CLOSED = "session closed before the handler was reached"


class SessionUpstream:
    """One connection to a session.

    What is sent while it waits for a prepared socket is kept (the connection reads nothing more from its client
    while anything waits, so that is one read at most). ``ready``: the status byte has come, and was good.
    """

    __slots__ = ("owner", "ready", "side", "stream")

    kept = True
    """As the client would keep it, if it spoke to the handler itself."""

    def __init__(self, owner: Owner, route: SessionRoute) -> None:
        self.owner = owner
        self.side = route
        self.stream = Stream(owner.context.loop, owner.context.pipes)
        self.ready = False

    def dial(self) -> None:
        """See ``Upstream.dial``."""
        context = self.owner.context
        state = context.sessions.get(self.side.session)
        if state is None or not state.up:
            self.owner.failed(self, "session down", delivered=False)
            return
        state.upstreams.add(self)
        context.connecting.add(self)
        sock = context.session_pool.take()
        if sock is not None:
            self.given(sock)
        else:
            context.session_pool.wait(self)

    def given(self, sock: Socket) -> None:
        """Connect a prepared socket."""
        state = self.owner.context.sessions[
            self.side.session
        ]  # dropping a session fails all that wait for it
        try:
            error = sock.connect_ex((state.address, self.side.port))
        except OSError as failure:
            error = failure.errno or EIO
        self.stream.attach(sock, self.on_events, connecting=True)
        if error not in {0, EINPROGRESS}:
            self.owner.failed(self, "session unreachable", delivered=False)

    def on_events(self, events: int) -> None:
        """The socket is ready for something."""
        stream, owner = self.stream, self.owner
        if stream.connecting and not self._connected(events):
            return
        if self.ready and stream.wants_read:
            owner.mover.on_upstream(self, events)
            return
        if events & OUT:
            stream.flush()
        if not stream.wants_read:
            if events & ~(IN | OUT) and stream.failure():
                owner.failed(self, "session connection broken", delivered=self.ready, again=True)
                return
        elif events & ~OUT:
            self._read_status()
        owner.settle()

    def _connected(self, events: int) -> bool:
        """The session answers the dial. ``True`` if its events are worth a further look."""
        stream, owner = self.stream, self.owner
        if error := stream.error():
            # A reset follows an accepted connection: the handler is what is missing.
            reason = _CLOSED if error == ECONNRESET else "session unreachable"
            owner.failed(self, reason, delivered=False)
            return False
        if not events & OUT:
            return False
        stream.connecting = False
        owner.context.connecting.discard(self)
        owner.context.awaiting.add(self)
        owner.calm = False
        return True

    def _read_status(self) -> None:
        try:
            status = self.stream.read(1)
        except BlockingIOError:
            return
        except OSError:
            status = b""
        if status and status[0] == REACHED:
            self.ready = True
            self.owner.context.awaiting.discard(self)
            self.owner.mover.confirmed(self)
        else:
            self.owner.failed(self, "handler refused" if status else _CLOSED, delivered=False)

    def timed_out(self) -> None:
        """Neither connection nor status byte in time."""
        delivered = not self.stream.connecting
        reason = "handler not reached in time" if delivered else "session not reached in time"
        self.owner.failed(self, reason, delivered=delivered)

    def session_lost(self) -> None:
        """The tunnel was declared down, or the session is gone."""
        self.owner.failed(self, "session down", delivered=not self.stream.connecting)

    def fail(self) -> None:
        """Something of ours went wrong."""
        self.owner.fail()

    def close(self, *, reset: bool = False) -> None:
        """See ``Upstream.close``."""
        context = self.owner.context
        context.connecting.discard(self)
        context.awaiting.discard(self)
        context.session_pool.waiting.pop(self, None)
        state = context.sessions.get(self.side.session)
        if state is not None:
            state.upstreams.discard(self)
        close_upstream(context, self.stream, reset=reset)
