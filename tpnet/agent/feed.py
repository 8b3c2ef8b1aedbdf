"""Prepared sockets for the worker, which may make none itself: the right namespace, mark and options.

The supervisor hands every ``NeedSockets`` to ``Feed.need``. It must never do what a hostile worker asks
without bound: counts are capped, and what the worker does not read is thrown away.
"""

from __future__ import annotations

import errno
import logging
import socket
import time
from typing import TYPE_CHECKING

from tpnet.datapath.netns import streams
from tpnet.datapath.source_address import app_sockets
from tpnet.kernel.filters import from_port
from tpnet.model import TpnetError
from tpnet.proxy.channel import NeedSockets, Purpose, Sockets

if TYPE_CHECKING:
    from collections.abc import Callable

    from tpnet.agent.workers import Workers
    from tpnet.datapath.netns import NetNs

_log = logging.getLogger(__name__)

MOST = 512
"""Sockets made for one request."""
BATCH = 64
"""Sockets in one message: together with them the worker can begin while the next ones are made."""
_SAY_AGAIN = 60.0
_FAMILIES = {Purpose.APP4: socket.AF_INET, Purpose.APP6: socket.AF_INET6}


class Feed:
    """Makes sockets in the namespaces that the two functions give; ``None`` from them: in none.

    ``place_of(target)`` is a live target's, and its port; ``tunnel_namespace()`` the tunnel's.
    """

    def __init__(
        self,
        workers: Workers,
        place_of: Callable[[int], tuple[NetNs, int] | None],
        tunnel_namespace: Callable[[], NetNs | None],
    ) -> None:
        self._workers = workers
        self._place_of = place_of
        self._tunnel_namespace = tunnel_namespace
        self._filters: dict[int, int] = {}  # by port: there are few
        self._said = -_SAY_AGAIN

    def need(self, message: NeedSockets) -> None:
        """Make what is asked for, or as much as there is room for, and hand it over.

        What cannot be made the worker asks for again, and leaves new clients to the app meanwhile.
        """
        left = min(max(message.count, 0), MOST)
        while left > 0:
            made = self._make(message, min(left, BATCH))
            left -= BATCH
            try:
                fds = [sock.fileno() for sock in made]
                if not made or not self._workers.offer(Sockets(message.purpose, message.target), fds):
                    return
            finally:
                for sock in made:
                    sock.close()

    def _make(self, message: NeedSockets, count: int) -> list[socket.socket]:
        try:
            return self._made(message, count)
        except (OSError, TpnetError, ValueError) as error:
            if not (isinstance(error, OSError) and error.errno == errno.EAFNOSUPPORT):
                self._complain(error)
            return []

    def _complain(self, error: Exception) -> None:
        """Once in a while: this can happen for every connection."""
        now = time.monotonic()
        if now - self._said >= _SAY_AGAIN:
            self._said = now
            _log.warning(
                "no sockets could be prepared for the worker: new connections go to the apps: %s", error
            )

    def _made(self, message: NeedSockets, count: int) -> list[socket.socket]:
        if message.purpose == Purpose.SESSION:
            tunnel = self._tunnel_namespace()
            return [] if tunnel is None else streams(tunnel, socket.AF_INET6, count)
        place = self._place_of(message.target)
        if place is None:
            return []
        netns, port = place
        if port not in self._filters:
            self._filters[port] = from_port(port)
        return app_sockets(netns, _FAMILIES[Purpose(message.purpose)], count, self._filters[port])
