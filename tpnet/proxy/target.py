"""One target in the worker: who accepts its clients, dials its app, decides by its rules and lets it drain.

``tpnet.proxy.worker`` makes and commands it, its connections are at home in it. It must never say that it has drained
while anything of it is open.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tpnet.proxy.acceptor import Acceptor
from tpnet.proxy.channel import AddTarget, Drained
from tpnet.proxy.connection import Connection
from tpnet.proxy.counters import TargetCount
from tpnet.proxy.dialler import AppDialler
from tpnet.proxy.drain import Drain
from tpnet.proxy.router import Router
from tpnet.proxy.vigil import Vigil

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tpnet.model import Intercept
    from tpnet.proxy.context import Context
    from tpnet.proxy.dialler import Peer
    from tpnet.proxy.transport import Socket
    from tpnet.rules import Probe


class Target:
    """A listening port in a network namespace, and its connections."""

    __slots__ = (
        "_acceptor",
        "_count",
        "_drain",
        "_number",
        "_removed",
        "_vigil",
        "closing",
        "context",
        "dialler",
        "router",
    )

    def __init__(self, context: Context, message: AddTarget, listener: Socket, bypass: int | None) -> None:
        self.context = context
        self._number = message.target
        self._removed = 0  # how often it was, while it is
        self._count = count = TargetCount()
        self._drain = Drain()
        self.closing = self._drain.closing
        self._vigil = Vigil(self._drain.connections)
        self.router = Router(context, count)
        self.dialler = AppDialler(context, message, bypass, count)
        context.book.targets[message.target] = count
        self._acceptor = self._accept_from(listener, message.port)
        self.dialler.refill()

    def _accept_from(self, listener: Socket, port: int) -> Acceptor:
        return Acceptor(
            self.context,
            listener,
            port,
            self._count,
            self._serve,
            self.dialler.decline,
            self.dialler.prepared,
        )

    def _serve(self, sock: Socket, peer: Peer) -> bool:
        self._count.open += 1
        self.context.shares.begun(peer.source[0])
        connection = Connection(self, peer)
        self._drain.add(connection)
        connection.start(sock)
        self._drain.begun(connection)
        self.dialler.look_at_shares(peer)
        return not self.dialler.crowded(peer)

    def set_rules(self, intercepts: Sequence[Intercept], probes: Sequence[Probe]) -> None:
        """Decide by these intercepts from the next request on. What others have open goes as soon as it owes nothing."""
        self.router.set_rules(intercepts, probes)
        routes = self.router.routes
        for connection in list(self._drain.connections):
            connection.retire(routes)

    def gone(self, connection: Connection) -> None:
        """See ``connection.Home``."""
        self._drain.connections.discard(connection)
        self._count.open -= 1
        self.context.shares.ended(connection.source)

    def tick(self, now: float) -> None:
        """Once a second."""
        self.dialler.tick()
        self._vigil.tick()
        self._drain.tick(now)
        if self._removed and self._drain.over:
            self.dialler.close()
            self.context.removed.append(self._number)
            self.context.tell(Drained(self._number, self._removed))

    def take_up(self, message: AddTarget, listener: Socket, bypass: int | None) -> None:
        """It was removed, and is wanted again: accept from this listener. Its connections never notice."""
        if bypass is not None:
            os.close(bypass)  # its own one stands as long as it does
        self._removed = 0
        self._drain.keep()
        self.dialler.expect_more(message.place)
        self._acceptor = self._accept_from(listener, message.port)

    def remove(self, times: int, *, gone: bool) -> None:
        """Accept no more. Connections live on; ``Drained`` is told when the last one has ended.

        ``gone``: so has the target, and those that no app has an end of are reset in a while.
        """
        if not self._removed:
            self._acceptor.close()
            self.dialler.expect_no_more()
        self._removed = times
        if gone:
            self._drain.forsake(self.context.loop.now)

    def finish(self, seconds: float, *, mark: bool) -> None:
        """Let the connections end, all within ``seconds`` and ``drain.LAST``. ``mark``: see ``Mover.finish``."""
        self._drain.finish(self.context.loop.now + seconds, mark=mark)
