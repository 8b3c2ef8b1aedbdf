"""A connection that has been pinned: bytes as they come, both ways, between the client and one upstream.

Must never look at a byte, nor end a direction before its end has come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpnet.proxy.loop import IN
from tpnet.proxy.stream import BULKY, PIPE_SIZE

if TYPE_CHECKING:
    from tpnet.proxy.stream import Stream
    from tpnet.proxy.upstream import Owner, Upstream


class Pipe:
    """The ``Mover`` of two streams that looks at nothing. ``owner`` is their connection."""

    __slots__ = ("_client", "_owner", "_upstream")

    reading = True
    idle = False

    def __init__(self, owner: Owner, client: Stream, upstream: Upstream) -> None:
        self._owner = owner
        self._client = client
        self._upstream = upstream.stream

    def finish(self, *, mark: bool) -> None:
        """See ``Mover.finish``. It knows no messages: it has until the agent's deadline."""

    def on_client(self, events: int) -> None:
        """See ``Mover.on_client``."""
        self._move(self._client, self._upstream, events)

    def on_upstream(self, upstream: Upstream, events: int) -> None:
        """See ``Mover.on_upstream``."""
        self._move(upstream.stream, self._client, events)

    def confirmed(self, _upstream: Upstream) -> None:
        """See ``Mover.confirmed``: what was sent is on its way already."""

    def retire(self, _upstream: Upstream) -> None:
        """See ``Mover.retire``: what is a pipe stays one."""

    def lost(self, _upstream: Upstream, _reason: str, *, delivered: bool, again: bool) -> None:
        """See ``Mover.lost``."""
        del delivered, again
        self._owner.abort()

    def fail(self) -> None:
        """Something of ours went wrong."""
        self._owner.fail()

    def _move(self, source: Stream, sink: Stream, events: int) -> None:
        """From ``source`` to ``sink``, as it comes."""
        owner = self._owner
        try:
            if events != IN and not source.ready(events, unread=source is self._upstream):
                owner.settle()
                return
            free = not (sink.backlog or sink.connecting)
            if source.bulky and free:
                taken = sink.splice_from(source, PIPE_SIZE)
                if taken:
                    source.bulky = taken >= BULKY
                    if sink.backlog:
                        owner.calm = False
                        owner.settle()
                    return
            data = source.read()
        except BlockingIOError:
            owner.settle()
            return
        except OSError:
            owner.abort()
            return
        if data:
            sink.send(data)
            if sink.backlog:
                owner.calm = False
        elif source.cut:
            owner.abort()
            return
        elif source.broken and source is self._upstream:
            owner.end()  # it has ended behind what it said, and takes nothing more
            return
        else:
            source.ended = True
            sink.shutdown()
            owner.calm = False
        if not owner.calm:
            owner.settle()
