"""One client connection: does what its conversation commands, until that pins it; from then on a pipe.

``tpnet.proxy.target`` makes one per accepted client. Bytes come in by ``recv`` or ``splice(2)``, go to the
``Conversation``, and leave at once by ``send``; what the kernel does not take waits in the ``Stream`` it is
for, and until it is gone nothing more is read that would go there. It must never alter a byte, and never log
one.

``calm`` is the state of nearly all connections at nearly all times: every socket is watched for reading and
nothing waits anywhere. Whatever disturbs it clears the flag, and ``settle`` then works out what to watch,
after each event.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from tpnet.http.conversation import (
    APP,
    CLOSE_CLIENT,
    PIN,
    RESET,
    RESET_CLIENT,
    SEND,
    SEND_CLIENT,
    SHUT,
    SHUT_CLIENT,
)
from tpnet.http.h1.conversation import Conversation
from tpnet.proxy.farewell import Farewell
from tpnet.proxy.loop import IN, OUT, Socket
from tpnet.proxy.stream import BULKY, LINGER_RESET, PIPE_SIZE, READ, Stream
from tpnet.proxy.upstream import SessionUpstream, Way

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tpnet.http.conversation import Command, Side
    from tpnet.proxy.context import Context
    from tpnet.proxy.target import Peer, Target

SPLICE_LEAST = 64 * 1024
"""Bytes of a body that must be left for a splice to pay."""

_NOW = socket.MSG_DONTWAIT


class Connection:
    """A client, its app, and its sessions."""

    __slots__ = (
        "_app_pending", "_app_shut", "_closing", "_pinned", "_pinned_side", "_sides", "_to_dial",
        "_undecided", "_watched", "app", "busy", "calm", "client", "context", "conversation", "done",
        "idle_since", "peer", "sock", "target",
    )  # fmt: skip

    client: Stream

    def __init__(self, target: Target, sock: Socket, peer: Peer) -> None:
        self.target = target
        self.context: Context = target.context
        self.sock = sock
        self.peer = peer
        self.app: Stream | None = None
        self.calm = False
        self.done = False
        self.busy = True  # something happened since the drain looked last
        self.idle_since = 0.0
        self.conversation = Conversation(target.decider(peer), target)
        self._app_pending: list[bytes] | None = None  # what waits for a prepared socket
        self._app_shut = False
        self._closing = False
        self._pinned = False
        self._pinned_side: Side = APP
        self._sides: dict[Side, SessionUpstream] = {}
        self._to_dial: list[SessionUpstream] | None = None
        self._undecided = True
        self._watched = False

    # The beginning.

    def given(self, sock: Socket) -> None:
        """Here is a prepared socket: dial the app, and begin to read from the client."""
        self.context.waiting.discard(self)
        established = self.target.dial(sock, self.peer)
        if established is None:
            self.abort()
            return
        context = self.context
        self.app = app = Stream(context.loop, context.pipes, sock, self.on_app, connecting=not established)
        if not self._watched:
            self._watched = True
            self.client = Stream(context.loop, context.pipes, self.sock, self.on_client)
            context.undecided.add(self)
            self.calm = established
            return
        for data in self._app_pending or ():
            app.send(data)
        self._app_pending = None
        if self._app_shut:
            app.shutdown()
        self.calm = False
        self.settle()

    def not_given(self) -> None:
        """No prepared socket came in time."""
        self.target.count.reasons["no prepared socket"] += 1
        self.abort()

    def _dial_app(self) -> None:
        """The app's connection was let go of, and is needed again."""
        self._app_pending = []
        self._app_shut = False
        self.calm = False
        stock = self.target.stock(self.peer)
        sock = stock.take()
        if sock is not None:
            self.given(sock)
        else:
            self.context.waiting.add(self)
            stock.waiting[self] = None

    # Events.

    def on_client(self, events: int) -> None:
        """The client's socket is ready for something."""
        client, conversation = self.client, self.conversation
        self.busy = True
        if events != IN:
            if not self._prepare(client, events):
                return
        elif client.bulky and self._splice_up(client):
            return
        try:
            data = client.sock.recv(READ, _NOW)
        except BlockingIOError:
            return
        except OSError:
            self.abort()
            return
        if data:
            client.bulky = len(data) >= BULKY
            commands = conversation.client_data(data)
            app = self.app
            if len(commands) == 1 and commands[0][0] == SEND and commands[0][1] is APP and app is not None:
                app.send(commands[0][2])
                if app.backlog:
                    self.calm = False
            else:
                self._run(commands)
            if self._undecided and not conversation.undecided:
                self._undecided = False
                self.context.undecided.discard(self)
            if conversation.holding:
                self.context.holding.add(self)
        elif client.broken:
            self.abort()
            return
        else:
            client.ended = True
            self.calm = False
            self._run(conversation.client_eof())
        if not self.calm or not conversation.reading_client:
            self.settle()

    def on_app(self, events: int) -> None:
        """The app's socket is ready for something."""
        app = self.app
        assert app is not None
        if app.connecting and not self._established(app, events):
            return
        self.read_side(APP, app, events)

    def read_side(self, side: Side, stream: Stream, events: int) -> None:
        """A side's socket is ready for something."""
        conversation = self.conversation
        self.busy = True
        if events != IN:
            if not self._prepare(stream, events, side):
                return
        elif stream.bulky and self._splice_down(side, stream):
            return
        try:
            data = stream.sock.recv(READ, _NOW)
        except BlockingIOError:
            if not self.calm:
                self.settle()
            return
        except OSError:
            self._side_broken(side)
            return
        if data:
            stream.bulky = len(data) >= BULKY
            commands = conversation.upstream_data(side, data)
            if len(commands) == 1 and commands[0][0] == SEND_CLIENT:
                client = self.client
                client.send(commands[0][1])
                if client.backlog:
                    self.calm = False
            elif len(commands) == 2 and commands[1][0] == CLOSE_CLIENT and commands[0][0] == SEND_CLIENT:
                self._last(commands[0][1])
                return
            else:
                self._run(commands)
        elif stream.broken:
            self._side_broken(side)
            return
        else:
            stream.ended = True
            self.calm = False
            self._run(conversation.upstream_eof(side))
        if not self.calm or not conversation.reading_client:
            self.settle()

    def _on_pinned_client(self, events: int) -> None:
        self._relay(self.client, self._peer_stream(), events)

    def _on_pinned_side(self, events: int) -> None:
        stream = self._peer_stream()
        if stream.connecting and not self._established(stream, events):
            return
        self._relay(stream, self.client, events)

    def _peer_stream(self) -> Stream:
        stream = self.app if self._pinned_side is APP else self._sides[self._pinned_side].stream
        assert stream is not None
        return stream

    def _relay(self, source: Stream, sink: Stream, events: int) -> None:
        """Pinned: from ``source`` to ``sink``, as it comes."""
        self.busy = True
        if events != IN and not self._prepare(source, events, None):
            return
        data: bytes | None = None
        try:
            free = not sink.backlog and not sink.connecting
            if source.bulky and free:
                taken = sink.splice_from(source, PIPE_SIZE)
                if taken:
                    source.bulky = taken >= BULKY
                    if sink.backlog:
                        self.calm = False
                        self.settle()
                    return
                if taken == 0:
                    data = b""
            if data is None:
                data = source.sock.recv(READ, _NOW)
        except BlockingIOError:
            if not self.calm:
                self.settle()
            return
        except OSError:
            self.abort()
            return
        if data:
            source.bulky = len(data) >= BULKY
            sink.send(data)
            if sink.backlog:
                self.calm = False
        elif source.broken:
            self.abort()
            return
        else:
            source.ended = True
            sink.shutdown()
            self.calm = False
        if not self.calm:
            self.settle()

    def _prepare(self, stream: Stream, events: int, side: Side = APP) -> bool:
        """Deal with what is not plain readability. ``True`` if there is something to read as well."""
        if events & OUT:
            stream.flush()
            self.calm = False
        if stream.wants_read:
            if events & ~OUT:
                return True
        elif events & ~(IN | OUT) and stream.failure():
            if stream is self.client or self._pinned:
                self.abort()
            else:
                self._side_broken(side)
            return False
        self.settle()
        return False

    def _established(self, app: Stream, events: int) -> bool:
        """The app answers the dial. ``True`` if its events are worth a further look."""
        error = app.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self.target.refused(error)
            self.abort()
            return False
        if not events & OUT:
            return False
        app.connecting = False
        self.calm = False
        self.target.dialled(app.sock)
        return True

    def _splice_up(self, client: Stream) -> bool:
        """Move body bytes from the client unseen. ``False``: read as usual."""
        allowed = self.conversation.client_splice
        if allowed is None or allowed[1] < SPLICE_LEAST:
            return False
        side = allowed[0]
        sink = self.app if side is APP else self._sides[side].stream if side in self._sides else None
        if sink is None or sink.backlog or sink.connecting:
            return False
        try:
            taken = sink.splice_from(client, allowed[1])
        except OSError:
            self.abort()
            return True
        if not taken:
            return False
        client.bulky = taken >= BULKY
        self._run(self.conversation.client_spliced(taken))
        if sink.backlog or not self.calm:
            self.calm = False
            self.settle()
        return True

    def _splice_down(self, side: Side, stream: Stream) -> bool:
        """Move body bytes from a side to the client unseen. ``False``: read as usual."""
        allowed = self.conversation.upstream_splice(side)
        client = self.client
        if allowed < SPLICE_LEAST or client.backlog:
            return False
        try:
            taken = client.splice_from(stream, allowed)
        except OSError:
            self._side_broken(side)
            return True
        if not taken:
            return False
        stream.bulky = taken >= BULKY
        self._run(self.conversation.upstream_spliced(side, taken))
        if client.backlog or not self.calm:
            self.calm = False
            self.settle()
        return True

    # Commands.

    def _run(self, commands: Sequence[Command]) -> None:
        """Carry out what the conversation commands."""
        for command in commands:
            if command[0] == SEND:
                app = self.app
                if command[1] is APP and app is not None:
                    app.send(command[2])
                    if app.backlog:
                        self.calm = False
                else:
                    self._send(command[1], command[2])
            elif command[0] == SEND_CLIENT:
                client = self.client
                client.send(command[1])
                if client.backlog:
                    self.calm = False
            elif self.done:
                return
            elif command[0] == SHUT:
                self._shut(command[1])
            elif command[0] == SHUT_CLIENT:
                self.calm = False
                self.client.shutdown()
            elif command[0] == PIN:
                self._pin(command[1])
            elif command[0] == CLOSE_CLIENT:
                self.calm = False
                self._closing = True
            elif command[0] == RESET_CLIENT:
                self.abort()
            elif command[0] == RESET:
                self._let_go(command[1], reset=True)
        if self._to_dial:
            # Only now: a dial that fails at once has the conversation command anew.
            to_dial, self._to_dial = self._to_dial, None
            for upstream in to_dial:
                upstream.dial()

    def _send(self, side: Side, data: bytes) -> None:
        """Send to a session, or to an app that must be dialled anew."""
        if self.done:
            return
        if side is APP:
            if self._app_pending is None:
                self._dial_app()
            if self.app is not None:
                self.app.send(data)
            elif self._app_pending is not None:
                self._app_pending.append(data)
            return
        upstream = self._sides.get(side)
        if upstream is None:
            assert isinstance(side, Way)
            self.calm = False
            self._sides[side] = upstream = SessionUpstream(self, side)
            upstream.send(data)
            if self._to_dial is None:
                self._to_dial = []
            self._to_dial.append(upstream)
            return
        upstream.send(data)
        if upstream.backlog:
            self.calm = False

    def _shut(self, side: Side) -> None:
        self.calm = False
        if side is APP:
            if self.app is not None:
                self.app.shutdown()
            else:
                self._app_shut = True
        elif side in self._sides:
            self._sides[side].shutdown()

    def _pin(self, side: Side) -> None:
        """From now on a pipe: other handlers, and no other side."""
        self._pinned = True
        self._pinned_side = side
        self.calm = False
        self._decided()
        for other in [APP, *self._sides]:
            if other != side:
                self._let_go(other)
        self.client.handle(self._on_pinned_client)
        self._peer_stream().handle(self._on_pinned_side)

    def _let_go(self, side: Side, *, reset: bool = False) -> None:
        if side is APP:
            app, self.app = self.app, None
            if app is not None:
                if app.connecting:
                    self.target.dialled(app.sock)
                if reset or app.connecting or app.broken:
                    app.reset()
                elif not app.backlog:
                    app.close(lingers=False)
                else:
                    Farewell(self.context, app)
            return
        upstream = self._sides.pop(side, None)
        if upstream is not None:
            upstream.close(reset=reset)

    # Failures.

    def _side_broken(self, side: Side) -> None:
        """An established side was reset."""
        if self._pinned:
            self.abort()
            return
        self._fail(side, "connection broken off", delivered=True)

    def fail_side(self, upstream: SessionUpstream, reason: str, *, delivered: bool) -> None:
        """A session's side cannot be reached or was lost."""
        if self.done or self._sides.get(upstream.way) is not upstream:
            return
        if self._pinned:
            self.abort()
            return
        self._fail(upstream.way, reason, delivered=delivered)

    def _fail(self, side: Side, reason: str, *, delivered: bool) -> None:
        self.calm = False
        self._let_go(side, reset=True)
        self._run(self.conversation.upstream_failed(side, reason, delivered=delivered))
        self.settle()

    def confirm(self, way: Way) -> None:
        """A session's end says that the handler is reached."""
        self._run(self.conversation.upstream_confirmed(way))

    def fail(self) -> None:
        """Something of ours went wrong in this connection: it ends here."""
        self.target.count.reasons["internal error"] += 1
        self.abort()

    # Deadlines.

    def undecided_timeout(self) -> None:
        """Ten seconds without a complete first line."""
        if not self.done:
            self._undecided = False
            self._run(self.conversation.undecided_timeout())
            self.settle()

    def release_held(self) -> None:
        """What was held back for fear of broken framing has waited long enough."""
        if not self.done:
            self._run(self.conversation.release_held())
            self.settle()

    # What to watch, and the end.

    def settle(self) -> None:
        """Work out what to watch; end what is over."""
        if self.done or not self._watched:
            return
        client = self.client
        if self._closing:
            self._end()
            return
        app = self.app
        waiting = app.backlog if app is not None else len(self._app_pending or ())
        ended = app is not None and (app.ended or app.shut or app.connecting)
        for upstream in self._sides.values():
            waiting += upstream.backlog
            stream = upstream.stream
            ended = ended or stream is None or stream.ended or stream.shut or not upstream.connected
        if client.ended and (client.shut or client.broken) and not waiting:
            self._end()
            return
        clear = not client.backlog
        reading = not waiting and (self._pinned or self.conversation.reading_client)
        client.watch(reading=reading)
        if app is not None:
            app.watch(reading=clear)
        for upstream in self._sides.values():
            upstream.watch(reading=clear)
        self.calm = reading and clear and not (ended or client.ended or client.shut)

    def _last(self, data: bytes) -> None:
        """An answer, and after it the end, as both sides expect it: the client owes nothing that one should wait for.

        The answer waits for FIN in the kernel, so that one segment carries both, and the client is woken once.
        """
        client = self.client
        prompt = client.drained()
        client.send(data, more=prompt)
        self._end(prompt=prompt and not client.backlog and not client.broken)

    def _end(self, *, prompt: bool = False) -> None:
        """Over, in an orderly way: everybody gets what was sent, and then FIN; at once if ``prompt``."""
        if self.done:
            return
        self._gone()
        client = self.client
        if prompt or (client.ended and not client.backlog and not client.broken):
            client.close(lingers=True)
        else:
            Farewell(self.context, client, self.target)
        for side in [APP, *self._sides]:
            self._let_go(side)

    def close_idle(self) -> None:
        """Close between messages: FIN to both."""
        self._end()

    @property
    def idle(self) -> bool:
        """Whether it is between messages, with nothing on the way."""
        return not self._pinned and self.calm and self.conversation.idle

    def abort(self) -> None:
        """Over at once: RST to everybody."""
        if self.done:
            return
        self._gone()
        for side in [APP, *self._sides]:
            self._let_go(side, reset=True)
        if self._watched:
            self.client.reset()
        else:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            self.context.loop.sockets += 1
            self.context.loop.close(self.sock)

    def _decided(self) -> None:
        if self._undecided:
            self._undecided = False
            self.context.undecided.discard(self)

    def _gone(self) -> None:
        self.done = True
        context = self.context
        context.undecided.discard(self)
        context.waiting.discard(self)
        context.holding.discard(self)
        self.target.gone(self)
