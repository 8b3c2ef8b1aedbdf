"""Accepts a target's clients.

Must never take more than there are descriptors for: who waits in the kernel's queue loses nothing, and the supervisor
is asked in time to leave new clients to the app.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from tpnet.proxy.dialler import Peer
from tpnet.proxy.loop import IN
from tpnet.proxy.transport import Socket

if TYPE_CHECKING:
    from collections.abc import Callable

    from tpnet.proxy.context import Context
    from tpnet.proxy.counters import TargetCount
    from tpnet.proxy.dialler import Address

ACCEPTS = 4
"""Clients accepted in one round of the loop, so that open connections get their turn."""
_BACKLOG = 4096
"""Clients that may wait to be accepted, at most. SYNs beyond that are lost, and sent again after a second."""
_NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_MAPPED = "::ffff:"


class Acceptor:
    """A listener.

    ``serve(sock, peer)`` takes each client, and says whether more may come at once; ``decline()`` leaves new ones to the
    app until there is room. ``prepared()`` says how many sockets there are to serve clients with.
    """

    __slots__ = (
        "_context",
        "_count",
        "_decline",
        "_listener",
        "_listening",
        "_open",
        "_port",
        "_prepared",
        "_serve",
    )

    def __init__(
        self,
        context: Context,
        listener: Socket,
        port: int,
        count: TargetCount,
        serve: Callable[[Socket, Peer], bool],
        decline: Callable[[], None],
        prepared: Callable[[], int],
    ) -> None:
        """``port`` is the target's: clients of any other have found the listener by themselves."""
        self._context = context
        self._count = count
        self._listener = listener
        self._open = True
        self._port = port
        self._serve = serve
        self._decline = decline
        self._prepared = prepared
        # Accepted sockets inherit it.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.listen(min(_BACKLOG, context.queue))
        context.loop.add(listener.fileno(), IN, self.on_events)
        self._listening = True

    def on_events(self, _events: int) -> None:
        """Clients have come."""
        context = self._context
        for _ in range(ACCEPTS):
            if context.loop.sockets >= context.full_at and not self._make_way():
                return
            try:
                fd, address = self._listener._accept()  # type: ignore[attr-defined] # noqa: SLF001
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_DESCRIPTORS:
                    context.set_full()
                    self._ran_out()
                    return
                continue  # that client is gone already
            self._accepted(Socket(self._listener.family, socket.SOCK_STREAM, 0, fd), address)

    def _make_way(self) -> bool:
        """Descriptors run low. Who has more clients than others leaves new ones to its app; ``False``: take none now."""
        context = self._context
        # Whoever is in the queue already has a claim to the sockets that are prepared.
        if context.loop.sockets - self._prepared() >= context.most_sockets:
            context.set_full()
            self._ran_out()
            return False
        more = context.takes_more_than_others(self._count)
        if more > 0:
            self._decline()
        elif not more:
            context.set_full()
        return True

    def _accepted(self, sock: Socket, address: Address) -> None:
        try:
            local = sock.getsockname()
        except OSError:
            sock.close()
            return
        port = self._port
        if local[1] != port:
            sock.close()  # somebody found the listener itself
            return
        source, here = address[0], local[0]
        if len(address) == 2:
            peer = Peer(True, (source, 0), (here, port))
        elif source.startswith(_MAPPED):
            peer = Peer(True, (source[7:], 0), (here[7:], port))
        else:
            scope = address[3]
            peer = Peer(False, (source, 0, 0, scope), (here, port, 0, scope))
        self._count.accepted += 1
        if not self._serve(sock, peer):
            self._pause()

    def _ran_out(self) -> None:
        self._count.reasons["descriptors ran out"] += 1
        self._pause()

    def _pause(self) -> None:
        """Accept nothing for a moment; clients wait in the kernel's queue."""
        if self._listening:
            self._listening = False
            self._context.loop.epoll.unregister(self._listener.fileno())
            self._context.paused.add(self)

    def resume(self) -> None:
        """Try to accept again."""
        if self._open and not self._listening:
            self._listening = True
            self._context.loop.epoll.register(self._listener.fileno(), IN)

    def close(self) -> None:
        """Accept no more."""
        loop = self._context.loop
        self._open = False
        self._context.paused.discard(self)
        if self._listening:
            self._listening = False
            loop.epoll.unregister(self._listener.fileno())
        loop.sockets += 1
        loop.close(self._listener)
