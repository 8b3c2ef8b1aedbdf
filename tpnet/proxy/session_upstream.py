"""A client connection's own connection to a session: dialled on the first bytes, a status byte in front.

It must never report that nothing was delivered unless that is certain: what is reported so may be sent again, to the app.

The other end sends one byte before anything else: 0 when the handler was reached, 1 when it was not. Request
bytes follow the connection at once; a refusal, FIN or RST in front of the status byte mean that the handler
saw none. Silence does not: after a timeout the request counts as possibly delivered, once any of it may have
left. How long is waited depends on whether the session's heartbeat is heard meanwhile.

It may say one byte more, beside the stream (urgent data) and in front of its FIN: that the handler has seen nothing
of what was sent there since the last byte that came.
"""

from __future__ import annotations

from errno import ECONNRESET, EINPROGRESS, EIO
from typing import TYPE_CHECKING

from tpnet.kernel.tcp import tcp_info
from tpnet.proxy.context import CONNECT, UNCONFIRMED
from tpnet.proxy.lingering import close_upstream
from tpnet.proxy.loop import IN, OUT, PRI
from tpnet.proxy.stream import Stream

if TYPE_CHECKING:
    from tpnet.proxy.sessions import SessionRoute
    from tpnet.proxy.transport import Socket
    from tpnet.proxy.upstream import Owner

REACHED = 0
"""The status byte of a handler that was reached."""
UNSEEN = b"\x02"
"""What is said beside the stream (``tpnet.session.relay``)."""

_CLOSED = "session closed before the handler was reached"


class SessionUpstream:
    """One connection to a session. ``ready``: the status byte has come, and was good.

    What is sent while it waits for a prepared socket is kept (the connection reads nothing more from its client
    while anything waits, so that is one read at most).
    """

    __slots__ = ("_doubted", "_since", "owner", "ready", "side", "stream", "unseen")

    kept = True
    """As the client would keep it, if it spoke to the handler itself."""

    def __init__(self, owner: Owner, route: SessionRoute) -> None:
        self.owner = owner
        self.side = route
        self.stream = stream = Stream(owner.context.loop, owner.context.pipes)
        stream.splices = False  # a pipe would hold a megabyte for as long as the developer does not read
        stream.heed_marks()
        self.ready = False
        self.unseen = False
        self._since = 0.0  # when it was dialled
        self._doubted = False  # it has not confirmed in time what was sent

    def dial(self) -> None:
        """See ``Upstream.dial``."""
        context = self.owner.context
        state = context.sessions.get(self.side.session)
        if state is None or not state.up or state.silent:
            self.owner.failed(self, "session down", delivered=False)
            return
        self._since = context.loop.now
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
            sock.hold_little()
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
        if events & PRI:
            events &= ~PRI
            self.unseen = stream.mark() == UNSEEN or self.unseen
        if self.ready and stream.wants_read:
            if events & IN:
                self._doubted = False
                owner.context.unconfirmed.discard(self)
            owner.mover.on_upstream(self, events)
            return
        if events & OUT:
            stream.flush()
        if not stream.wants_read:
            try:
                stream.ready(events & ~OUT, unread=True)
            except OSError:
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
            self.sent()
        else:
            self.owner.failed(self, "handler refused" if status else _CLOSED, delivered=False)

    def timed_out(self) -> None:
        """Neither connection nor status byte for a while. Wait on while the session is heard, up to its bound."""
        context = self.owner.context
        connected = not self.stream.connecting
        state = context.sessions.get(self.side.session)
        heard = state is not None and state.up and not state.quiet
        # While the supervisor is silent, nobody says that a heartbeat is missing.
        if heard and context.supplied and context.loop.now - self._since < self.side.patience:
            (context.awaiting if connected else context.connecting).add(self)
            return
        reason = "handler not reached in time" if connected else "session not reached in time"
        self.owner.failed(self, reason, delivered=connected)

    def sent(self) -> None:
        """See ``Upstream.sent``."""
        unconfirmed = self.owner.context.unconfirmed
        if self.ready and self not in unconfirmed:
            unconfirmed.add(self)

    def unconfirmed(self) -> None:
        """Nothing has come since something was sent, a while ago: see whether the other end's kernel has got it.

        If not, and a heartbeat is missing as well, the tunnel is dead; either alone may be a lost packet.
        """
        context = self.owner.context
        try:
            info = tcp_info(self.stream.sock)
        except OSError:
            return  # its error is told by an event
        if not info.unacked:
            self._doubted = False
            return
        self._doubted = info.silent >= UNCONFIRMED * 0.9
        state = context.sessions.get(self.side.session)
        if not (self._doubted and state is not None and state.quiet):
            context.unconfirmed.add(self)
            return
        state.silent = True
        self.owner.failed(self, "session silent", delivered=True)

    def session_quiet(self) -> None:
        """A heartbeat is missing: what is late already is waited for no longer."""
        context = self.owner.context
        if self._doubted:
            self.unconfirmed()
        elif not self.ready and context.loop.now - self._since >= CONNECT:
            self.timed_out()

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
        context.unconfirmed.discard(self)
        context.session_pool.waiting.pop(self, None)
        state = context.sessions.get(self.side.session)
        if state is not None:
            state.upstreams.discard(self)
        close_upstream(context, self.stream, reset=reset)
