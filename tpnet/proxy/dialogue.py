"""A connection whose bytes pass through a conversation, which says where each goes: does what it commands.

Bytes come in by ``Stream.read`` or ``splice(2)``, go to the ``Conversation``, and leave at once by ``Stream.send``. It
knows no protocol. It must never alter a byte, and never log one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

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
from tpnet.proxy.loop import IN
from tpnet.proxy.stream import BULKY
from tpnet.proxy.upstream import Owner

if TYPE_CHECKING:
    from tpnet.http.conversation import Commands, Conversation, Side
    from tpnet.proxy.stream import Stream
    from tpnet.proxy.upstream import Upstream

SPLICE_LEAST = 64 * 1024
"""Bytes of a body that must be left for a splice to pay."""


class Connected(Owner, Protocol):
    """What a dialogue needs of its connection, besides what an upstream needs."""

    client: Stream
    upstreams: dict[Side, Upstream]
    """Those that are open. A side has at most one."""
    closing: bool
    """Set: end it in an orderly way when it is settled next."""
    done: bool

    def open(self, side: Side, /) -> Upstream:
        """Make an upstream to a side that has none, and begin to dial it with the next ``dial``."""

    def dial(self) -> None:
        """Dial what was opened."""

    def let_go(self, side: Side, /, *, reset: bool = False) -> None:
        """Close the upstream to a side, if there is one."""

    def keep(self, size: int, /) -> bool:
        """So many bytes of the client's are kept from now on. Whether there is room for that."""

    def pin(self, side: Side, /) -> None:
        """Be a pipe between the client and a side from now on."""


class Dialogue:
    """The ``Mover`` of a connection that has a conversation."""

    __slots__ = ("_client", "_connection", "_kept", "_retired", "_undecided", "_upstreams", "conversation")

    def __init__(self, connection: Connected, conversation: Conversation) -> None:
        self._connection = connection
        self._client = connection.client
        self._upstreams = connection.upstreams
        self._retired: set[Side] = set()
        self._undecided: bool | None = None  # the client has said nothing
        self._kept = False
        self.conversation = conversation

    @property
    def reading(self) -> bool:
        """See ``Mover.reading``."""
        return self.conversation.reading_client

    @property
    def idle(self) -> bool:
        """See ``Mover.idle``."""
        return self.conversation.idle

    def finish(self, *, mark: bool) -> None:
        """See ``Mover.finish``."""
        self.conversation.finish(mark=mark)

    # Events.

    def on_client(self, events: int) -> None:
        """See ``Mover.on_client``."""
        client, connection, conversation = self._client, self._connection, self.conversation
        try:
            if events != IN:
                if not self._ready(client, events):
                    return
            elif client.bulky and self._splice_up(client):
                return
            data = client.read()
        except BlockingIOError:
            if not connection.calm:
                connection.settle()
            return
        except OSError:
            connection.abort()
            return
        if data:
            upstreams = self._upstreams
            app = upstreams.get(APP) if len(upstreams) == 1 else None
            if app is None and conversation.idle:
                self._look_at_kept()
                if connection.done:
                    return
            commands = conversation.client_data(data)
            if self._kept or not commands:
                commands = self._look_at_kept_head(commands)
            if (
                app is not None
                and len(commands) == 1
                and (command := commands[0])[0] == SEND
                and command[1] is APP
            ):
                stream = app.stream
                stream.send(command[2])
                if stream.backlog:
                    connection.calm = False
            else:
                self._run(commands)
            if self._undecided is not False:
                self._look_at_first()
            if conversation.holding:
                connection.context.holding.add(self)
        elif client.broken:
            connection.abort()
            return
        else:
            client.ended = True
            connection.calm = False
            client.probe_soon()
            self._run(conversation.client_eof())
        if not connection.calm or not conversation.reading_client:
            connection.settle()

    def on_upstream(self, upstream: Upstream, events: int) -> None:
        """See ``Mover.on_upstream``."""
        connection, conversation, stream = self._connection, self.conversation, upstream.stream
        try:
            if events != IN:
                if not self._ready(stream, events, unread=True):
                    return
            elif stream.bulky and self._splice_down(upstream):
                return
            data = stream.read()
        except BlockingIOError:
            if not connection.calm:
                connection.settle()
            return
        except OSError:
            self._broken(upstream)
            return
        if data:
            commands = conversation.upstream_data(upstream.side, data)
            if len(commands) == 1 and commands[0][0] == SEND_CLIENT:
                client = self._client
                client.send(commands[0][1])
                if client.backlog:
                    connection.calm = False
            elif len(commands) == 2 and commands[1][0] == CLOSE_CLIENT and commands[0][0] == SEND_CLIENT:
                self._last(commands[0][1])
                return
            else:
                self._run(commands)
        elif stream.cut:
            self._broken(upstream)
            return
        else:
            stream.ended = True
            connection.calm = False
            self._run(conversation.upstream_eof(upstream.side, unseen=upstream.unseen))
        if self._retired:
            self._let_retired_go()
        if not connection.calm or not conversation.reading_client:
            connection.settle()

    def _look_at_kept(self) -> None:
        """What has come from a session before the client's next request is older than that, its end above all.

        A request that is sent after it cannot have been seen, whatever its method.
        """
        for side, upstream in list(self._upstreams.items()):
            if side is not APP and not upstream.stream.connecting and not upstream.stream.drained():
                upstream.on_events(IN)

    def _ready(self, stream: Stream, events: int, *, unread: bool = False) -> bool:
        """Whether there is something to read, after what else the events say. Raises ``OSError``."""
        self._connection.calm = False
        if stream.ready(events, unread=unread):
            return True
        self._connection.settle()
        return False

    def _splice_up(self, client: Stream) -> bool:
        """Move body bytes from the client unseen. ``False``: read as usual. Raises ``OSError`` of the client."""
        allowed = self.conversation.client_splice
        if allowed is None or allowed[1] < SPLICE_LEAST or allowed[0] not in self._upstreams:
            return False
        upstream = self._upstreams[allowed[0]]
        sink = upstream.stream
        if sink.backlog or sink.connecting:
            return False
        taken = sink.splice_from(client, allowed[1])
        if not taken:
            return False
        client.bulky = taken >= BULKY
        upstream.sent()
        self._spliced(self.conversation.client_spliced(taken), sink)
        return True

    def _splice_down(self, upstream: Upstream) -> bool:
        """Move body bytes from an upstream to the client unseen. ``False``: read as usual. Raises ``OSError``."""
        side, stream, client = upstream.side, upstream.stream, self._client
        allowed = self.conversation.upstream_splice(side)
        if allowed < SPLICE_LEAST or client.backlog:
            return False
        taken = client.splice_from(stream, allowed)
        if not taken:
            return False
        stream.bulky = taken >= BULKY
        self._spliced(self.conversation.upstream_spliced(side, taken), client)
        return True

    def _spliced(self, commands: Commands, sink: Stream) -> None:
        self._run(commands)
        connection = self._connection
        if sink.backlog or not connection.calm:
            connection.calm = False
            connection.settle()

    # What becomes of upstreams.

    def _broken(self, upstream: Upstream) -> None:
        """An established upstream was reset."""
        self._connection.failed(upstream, "connection broken off", delivered=True, again=True)

    def confirmed(self, upstream: Upstream) -> None:
        """See ``Mover.confirmed``."""
        self._run(self.conversation.upstream_confirmed(upstream.side))

    def lost(self, upstream: Upstream, reason: str, *, delivered: bool, again: bool) -> None:
        """See ``Mover.lost``."""
        self._run(self.conversation.upstream_failed(upstream.side, reason, delivered=delivered, again=again))

    def retire(self, upstream: Upstream) -> None:
        """See ``Mover.retire``."""
        self._retired.add(upstream.side)
        self._let_retired_go()

    def _let_retired_go(self) -> None:
        connection, conversation = self._connection, self.conversation
        if connection.done or not conversation.idle:
            return
        for side in self._retired:
            if side in self._upstreams:
                connection.calm = False
                connection.let_go(side)
                self._run(conversation.upstream_eof(side))
        self._retired.clear()

    # Deadlines.

    def undecided_timeout(self) -> None:
        """Ten seconds without a complete first line."""
        self._undecided = False
        self._run(self.conversation.undecided_timeout())
        self._connection.settle()

    def release_held(self) -> None:
        """What was held back for fear of broken framing has waited long enough."""
        self._run(self.conversation.release_held())
        self._connection.settle()

    def fail(self) -> None:
        """Something of ours went wrong."""
        self._connection.fail()

    def close(self) -> None:
        """Its connection is over, or a pipe."""
        if self._kept:
            self._connection.keep(0)
        self._decided()
        self._connection.context.holding.discard(self)

    def _look_at_kept_head(self, commands: Commands) -> Commands:
        """What to do instead, if the beginning of a head is more than there is room for: then it is the app's."""
        kept = self.conversation.kept
        if kept or self._kept:
            self._kept = bool(kept)
            if not self._connection.keep(kept):
                return [*commands, *self.conversation.no_room()]
        return commands

    def _look_at_first(self) -> None:
        """The client's first bytes, or more of them while they do not tell the protocol."""
        if not self.conversation.undecided:
            self._decided()
        elif self._undecided is None:
            self._undecided = True
            self._connection.context.undecided.add(self)

    def _decided(self) -> None:
        self._undecided = False
        self._connection.context.undecided.discard(self)

    # Commands.

    def _run(self, commands: Commands) -> None:
        """Carry out what the conversation commands."""
        connection = self._connection
        for command in commands:
            if command[0] == SEND_CLIENT:
                client = self._client
                client.send(command[1])
                if client.backlog:
                    connection.calm = False
            elif connection.done:
                return
            elif command[0] == SEND:
                side = command[1]
                upstream = self._upstreams.get(side) or connection.open(side)
                if len(self._upstreams) > 1:
                    self._release_others(side)
                upstream.stream.send(command[2])
                if upstream.stream.backlog:
                    connection.calm = False
                upstream.sent()
            elif command[0] == SHUT:
                connection.calm = False
                if command[1] in self._upstreams:
                    self._upstreams[command[1]].stream.shutdown()
            elif command[0] == SHUT_CLIENT:
                connection.calm = False
                self._client.shutdown()
            elif command[0] == PIN:
                connection.pin(command[1])
            elif command[0] == CLOSE_CLIENT:
                connection.calm = False
                connection.closing = True
            elif command[0] == RESET_CLIENT:
                connection.abort()
            elif command[0] == RESET:
                connection.let_go(command[1], reset=True)
        connection.dial()  # only now: a dial that fails at once has the conversation command anew

    def _release_others(self, side: Side) -> None:
        """A request goes to ``side``, so no other owes anything: what is not kept for later is let go of."""
        for other, upstream in list(self._upstreams.items()):
            if other != side and not upstream.kept:
                self._connection.let_go(other)

    def _last(self, data: bytes) -> None:
        """A response, and after it the end, as both sides expect it: the client owes nothing to wait for.

        The response waits for FIN in the kernel, so that one segment carries both, and the client is woken once.
        """
        client = self._client
        prompt = client.drained()
        client.send(data, more=prompt)
        self._connection.end(prompt=prompt and not client.backlog and not client.broken)
