"""Dials a target's app for its clients: each from its client's own address, past the redirect.

Must never dial the app without an entry in the bypass map when there is one: the redirect would hand the connection to
this very target's listener, for ever.
"""

from __future__ import annotations

import errno
import os
import random
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from tpnet.kernel.endpoint import pack_endpoint
from tpnet.proxy.bypass import BypassMap
from tpnet.proxy.channel import AppRefused, Purpose
from tpnet.proxy.pool import CROWD

if TYPE_CHECKING:
    from tpnet.kernel.signs import Level
    from tpnet.proxy.channel import AddTarget
    from tpnet.proxy.context import Context
    from tpnet.proxy.counters import TargetCount
    from tpnet.proxy.pool import SocketPool
    from tpnet.proxy.transport import Socket

_REFUSED_AGAIN = 0.2
_ASIDE = {True: "127.116.0.1", False: "100::116"}
"""Where an app that listens on all addresses is called with a client's address: IPv4, IPv6 (RFC 6666, discard-only).
No packet from outside has such a destination, so that our connection can never be taken for one of the client's,
whatever ports the two come from. In a target's namespace, marked packets to any address are local."""
_PORTS = (2048, 32_767)
"""Source ports towards the app, in turn. They lie below those that processes of the target take by themselves
(ip_local_port_range), and that most clients do."""
_BIND_TRIES = 64
_PASSED_SECONDS = 2.5
_PENDING = {errno.EALREADY, errno.EINPROGRESS}

Address = tuple[str, int] | tuple[str, int, int, int]


class Peer(NamedTuple):
    """A client's address as one binds to it, and ``local``, the target's address that it came to."""

    v4: bool
    source: Address
    local: Address


def _connect(sock: Socket, address: tuple[Any, ...]) -> int:
    """Connect, and give the error, 0 for none.

    Over loopback the handshake is done when the first call returns: asking again tells how it went.
    """
    error = sock.connect_ex(address)
    return sock.connect_ex(address) if error == errno.EINPROGRESS else error


class AppDialler:
    """The prepared sockets of one target, and what it takes to connect them."""

    __slots__ = (
        "_bypass", "_bypass_fd", "_context", "_declines", "_keep_source", "_next_port", "_number", "_passed", "_place",
        "_pool4", "_pool6", "_port", "_refused_at", "count",
    )  # fmt: skip

    def __init__(self, context: Context, message: AddTarget, bypass: int | None, count: TargetCount) -> None:
        """``bypass`` is the bypass map's descriptor, owned from now on; ``None``: nothing redirects."""
        self.count = count
        self._context = context
        self._number = message.target
        self._port = message.port
        self._keep_source = message.keep_source
        self._bypass = BypassMap(bypass) if bypass is not None else None
        self._bypass_fd = bypass
        self._refused_at = 0.0
        self._declines = False
        self._passed: set[str] = set()  # clients' addresses whose new connections are the app's
        self._next_port = random.randint(*_PORTS)  # noqa: S311 - only so that two workers begin elsewhere
        self._place = message.place
        self._pool4 = context.pool(Purpose.APP4, message.target, 32, partial(self._tell_level, True))
        self._pool6 = context.pool(Purpose.APP6, message.target, 8, partial(self._tell_level, False))

    # Prepared sockets.

    def pool(self, peer: Peer) -> SocketPool:
        """The prepared sockets for a client like this."""
        return self._pool4 if peer.v4 else self._pool6

    def crowded(self, peer: Peer) -> bool:
        """Whether so many wait that no more clients like this should be accepted for a moment."""
        return len(self.pool(peer).waiting) >= CROWD

    def add_sockets(self, purpose: Purpose, socks: list[Socket]) -> None:
        """Take prepared sockets."""
        (self._pool4 if purpose is Purpose.APP4 else self._pool6).add(socks)

    def refill(self) -> None:
        """Ask for the first sockets."""
        self._pool4.refill()
        self._pool6.refill()

    def tick(self) -> None:
        """Once a second."""
        if self._context.has_room and self._context.shares.target_again(self.count):
            self._decline(declines=False)
        for source in list(self._passed):
            if self._context.shares.again(source):
                self._passed.discard(source)
            else:
                self._pass_by(source)
        self._pool4.tick()
        self._pool6.tick()

    def _tell_level(self, v4: bool, level: Level) -> None:
        """Have the kernel know how many more clients of a family can be served."""
        if self._place and self._context.signs is not None:
            self._context.signs.set_level(self._place, level, v4=v4)

    def decline(self) -> None:
        """Leave new clients to the app until there is room for their sockets."""
        self._decline(declines=True)

    def _decline(self, *, declines: bool) -> None:
        if declines != self._declines:
            self._declines = declines
            self._pool4.decline(declines=declines)
            self._pool6.decline(declines=declines)

    def look_at_shares(self, peer: Peer) -> None:
        """A client has come: leave new ones like it to the app if it or the target has more than its share."""
        shares, source = self._context.shares, peer.source[0]
        if shares.target_over(self.count):
            self.decline()
        if shares.over(source) and self._bypass is not None:
            if source not in self._passed:
                self._passed.add(source)
                self.count.reasons["a client's address had more than its share"] += 1
            self._pass_by(source)

    def _pass_by(self, source: str) -> None:
        """Have the kernel leave an address's new connections to the app, for longer than until the next ``tick``."""
        if self._bypass is not None:
            until = self._context.loop.now + _PASSED_SECONDS
            self._bypass.insert(pack_endpoint(source, 0), int(until * 1e9))

    def prepared(self) -> int:
        """Sockets for clients that are yet to come."""
        return len(self._pool4.ready) + len(self._pool6.ready)

    def expect_no_more(self) -> None:
        """No new clients come: the target's place is soon another's."""
        self._place = 0

    def expect_more(self, place: int) -> None:
        """New clients come again; the target's place is this one now."""
        self._place = place
        self._pool4.decline(declines=self._declines)
        self._pool6.decline(declines=self._declines)
        self.refill()

    def close(self) -> None:
        """Let go of everything."""
        self._pool4.close()
        self._pool6.close()
        if self._bypass_fd is not None:
            os.close(self._bypass_fd)
            self._bypass = self._bypass_fd = None

    # Dialling.

    def dial(self, sock: Socket, peer: Peer) -> bool | None:
        """Connect a prepared socket to the app with the client's own address.

        Returns whether it is established already (over loopback it nearly always is); ``None`` if it cannot
        be: the socket is closed then.
        """
        endpoint = None
        try:
            spoofed = source = self._spoof(sock, peer) if self._keep_source else None
            if self._bypass is not None:
                if source is None:
                    sock.bind((peer.local[0], 0, *peer.local[2:]))
                    source = peer.local[0], sock.getsockname()[1]
                endpoint = pack_endpoint(*source)
                self._bypass.insert(endpoint)
            error = _connect(sock, (_ASIDE[peer.v4], self._port)) if spoofed else errno.ECONNREFUSED
            if error and error not in _PENDING:
                # Not on all addresses, then: on the one that the client called.
                error = _connect(sock, peer.local)
        except OSError as failure:
            error = failure.errno or errno.EIO
        if error in _PENDING:
            return False
        if endpoint is not None and self._bypass is not None:
            self._bypass.delete(endpoint)
        if error:
            self.refused(error)
            self._context.loop.sockets += 1
            self._context.loop.close(sock)
            return None
        return True

    def _spoof(self, sock: Socket, peer: Peer) -> tuple[str, int] | None:
        """Bind a socket to the client's address and a port of ours; ``None`` if that cannot be."""
        address, _, *rest = peer.source
        for _ in range(_BIND_TRIES):
            self._next_port = port = self._next_port + 1 if self._next_port < _PORTS[1] else _PORTS[0]
            try:
                sock.bind((address, port, *rest))
            except OSError as error:
                if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
                    break
                # Thousands in a row may wait in TIME_WAIT.
                self._next_port = random.randint(*_PORTS)  # noqa: S311 - any other
            else:
                return address, port
        self.count.reasons["source address not kept"] += 1
        return None

    def dialled(self, sock: Socket) -> None:
        """A dial that took longer is over: its bypass entry is not needed any more."""
        if self._bypass is not None:
            name = sock.getsockname()
            self._bypass.delete(pack_endpoint(name[0], name[1]))

    def refused(self, error: int) -> None:
        """The app cannot be reached."""
        self.count.reasons["app refused" if error == errno.ECONNREFUSED else "app not reached"] += 1
        now = self._context.loop.now
        if error == errno.ECONNREFUSED and now - self._refused_at > _REFUSED_AGAIN:
            self._refused_at = now
            self._context.tell(AppRefused(self._number))
