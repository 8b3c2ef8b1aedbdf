"""One client connection: its sockets, what is watched of them, and how they end.

There is one for each accepted client. Its ``Mover`` carries the bytes: first a ``Dialogue``, from when that is pinned
on a ``Pipe``. What the kernel does not take waits in the ``Stream`` it is for, and until it is gone nothing more is read
that would go there. It must never leave a socket of its own open once it is over.

``calm`` is the state of nearly all connections at nearly all times: every socket is watched for reading and
nothing waits anywhere. Whatever disturbs it clears the flag, and ``settle`` then works out what to watch,
after each event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tpnet.http.conversation import APP
from tpnet.http.h1 import Conversation
from tpnet.proxy.app_upstream import AppUpstream
from tpnet.proxy.dialogue import Dialogue
from tpnet.proxy.lingering import LingeringClose
from tpnet.proxy.pipe import Pipe
from tpnet.proxy.session_upstream import SessionUpstream
from tpnet.proxy.sessions import SessionRoute
from tpnet.proxy.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Container

    from tpnet.http.conversation import Side
    from tpnet.proxy.context import Context
    from tpnet.proxy.dialler import AppDialler, Peer
    from tpnet.proxy.router import Router
    from tpnet.proxy.transport import Socket
    from tpnet.proxy.upstream import Mover, Upstream


class Home(Protocol):
    """What a connection needs of its target."""

    context: Context
    router: Router
    dialler: AppDialler
    closing: set[LingeringClose]
    """Of its clients, those that are being closed."""

    def gone(self, connection: Connection, /) -> None:
        """A connection has ended."""


class Connection:
    """A client, and its upstreams: to the app, and to sessions."""

    __slots__ = (
        "_home", "_kept", "_peer", "_to_dial", "calm", "client", "closing", "context", "done", "mover", "upstreams",
    )  # fmt: skip

    mover: Mover

    def __init__(self, home: Home, peer: Peer) -> None:
        self.context = context = home.context
        self.client = Stream(context.loop, context.pipes)
        self.upstreams: dict[Side, Upstream] = {}
        self.calm = True
        self.closing = False
        self.done = False
        self._home = home
        self._kept = 0
        self._peer = peer
        self._to_dial: list[Upstream] | None = None

    def start(self, sock: Socket) -> None:
        """Here is the client: dial the app, which may be the one to speak first, and read from both."""
        router = self._home.router
        self.mover = dialogue = Dialogue(self, Conversation(router.decider(self._peer.source[0]), router))
        self.client.attach(sock, dialogue.on_client)
        self.upstreams[APP] = app = AppUpstream(self, self._home.dialler, self._peer)
        app.dial()

    @property
    def source(self) -> str:
        """Its client's address."""
        return self._peer.source[0]

    def keep(self, size: int) -> bool:
        """See ``Connected.keep``."""
        more, self._kept = size - self._kept, size
        return self.context.shares.keep(self.source, self._home.dialler.count, more)

    # Upstreams.

    def open(self, side: Side) -> Upstream:
        """See ``Connected.open``."""
        upstream: Upstream
        if side is APP:
            upstream = AppUpstream(self, self._home.dialler, self._peer)
            self.client.sock.hold_as_usual()
        else:
            assert isinstance(side, SessionRoute)
            upstream = SessionUpstream(self, side)
            # A developer may read slowly, or not at all: what the client sends is not to pile up here meanwhile.
            self.client.sock.hold_little()
        self.upstreams[side] = upstream
        if self._to_dial is None:
            self._to_dial = []
        self._to_dial.append(upstream)
        self.calm = False
        return upstream

    def dial(self) -> None:
        """See ``Connected.dial``."""
        if self._to_dial is not None:
            to_dial, self._to_dial = self._to_dial, None
            for upstream in to_dial:
                if self.upstreams.get(upstream.side) is upstream:
                    upstream.dial()

    def let_go(self, side: Side, *, reset: bool = False) -> None:
        """See ``Connected.let_go``."""
        upstream = self.upstreams.pop(side, None)
        if upstream is not None:
            upstream.close(reset=reset)

    def pin(self, side: Side) -> None:
        """See ``Connected.pin``."""
        self.calm = False
        for other in list(self.upstreams):
            if other != side:
                self.let_go(other)
        upstream = self.upstreams.get(side) or self.open(side)
        self._forget_mover()
        self.mover = pipe = Pipe(self, self.client, upstream)
        self.client.handle(pipe.on_client)

    def retire(self, standing: Container[Side]) -> None:
        """Let go of upstreams to sessions whose routes stand no more, each when it owes nothing."""
        for side, upstream in list(self.upstreams.items()):
            if side is not APP and side not in standing and not self.done:
                self.mover.retire(upstream)
        self.settle()

    def failed(self, upstream: Upstream, reason: str, *, delivered: bool, again: bool = False) -> None:
        """See ``Owner.failed``."""
        if self.done or self.upstreams.get(upstream.side) is not upstream:
            return
        self.calm = False
        self.let_go(upstream.side, reset=True)
        self.mover.lost(upstream, reason, delivered=delivered, again=again)
        self.settle()

    def fail(self) -> None:
        """See ``Owner.fail``."""
        self._home.router.count.reasons["internal error"] += 1
        self.abort()

    # What to watch.

    def settle(self) -> None:
        """See ``Owner.settle``; and end what is over."""
        if self.done:
            return
        client = self.client
        if self.closing:
            self.end()
            return
        waiting = 0
        ended = client.ended or client.shut
        for upstream in self.upstreams.values():
            stream = upstream.stream
            waiting += stream.backlog
            ended = ended or stream.ended or stream.shut or stream.connecting
        if client.ended and (client.shut or client.broken) and not waiting:
            self.end()
            return
        clear = not client.backlog
        reading = not waiting and self.mover.reading
        client.watch(reading=reading)
        for upstream in self.upstreams.values():
            upstream.stream.watch(reading=clear)
        self.calm = reading and clear and not ended

    @property
    def idle(self) -> bool:
        """Whether it is between messages, with nothing on the way."""
        return self.calm and self.mover.idle

    def finish(self, *, mark: bool) -> None:
        """See ``Mover.finish``."""
        if not self.done:
            self.mover.finish(mark=mark)

    @property
    def forsaken(self) -> bool:
        """Whether no app has an end of it."""
        app = self.upstreams.get(APP)
        return app is None or app.stream.ended

    # The end.

    def end(self, *, prompt: bool = False) -> None:
        """See ``Connected.end``: everybody gets what was sent, and then FIN."""
        if self.done:
            return
        self._gone()
        client = self.client
        if prompt or (client.ended and not client.backlog and not client.broken):
            client.close(lingers=True)
        else:
            LingeringClose(self.context, client, self._home.closing)
        for side in list(self.upstreams):
            self.let_go(side)

    def abort(self) -> None:
        """See ``Owner.abort``."""
        if self.done:
            return
        self._gone()
        for side in list(self.upstreams):
            self.let_go(side, reset=True)
        self.client.reset()

    def _gone(self) -> None:
        self.done = True
        self._forget_mover()
        del self.mover  # which refers to this: so no cycle is left for the collector
        self._home.gone(self)

    def _forget_mover(self) -> None:
        if isinstance(self.mover, Dialogue):
            self.mover.close()
