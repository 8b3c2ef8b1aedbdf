"""One target in the worker: accepts its clients, dials its app, asks its rules, and lets it drain.

``tpnet.proxy.worker`` makes and commands it, its connections call it. It must never dial the app without an
entry in the bypass map when there is one: the redirect would hand the connection to this very listener, for
ever.
"""

from __future__ import annotations

import errno
import os
import random
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

from tpnet.http.verdict import OF_KUBELET, TO_APP, Outcome, Verdict
from tpnet.kernel.endpoint import pack_endpoint
from tpnet.model import OnFailure
from tpnet.proxy.bypass import BypassMap
from tpnet.proxy.channel import AddTarget, AppRefused, Drained, Purpose
from tpnet.proxy.connection import Connection
from tpnet.proxy.counters import TargetCount
from tpnet.proxy.loop import IN, Socket
from tpnet.proxy.upstream import Way
from tpnet.rules import ProbeSet, RuleSet

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from tpnet.http.h1.head import RequestHead
    from tpnet.model import Intercept
    from tpnet.proxy.context import Context, Stock
    from tpnet.proxy.farewell import Farewell
    from tpnet.rules import Probe

ACCEPTS = 4
"""Clients accepted in one round of the loop, so that open connections get their turn."""
WAITING = 128
"""Clients that may wait for a prepared socket; more wait in the kernel's queue."""
IDLE = 1.0
"""Seconds without traffic after which a connection counts as idle when the agent ends."""
LAST = 5.0
"""Seconds after those of ``finish`` until what is left is reset."""
_REFUSED_AGAIN = 0.2
_ASIDE = {True: "127.116.0.1", False: "100::116"}
"""Where an app that listens on all addresses is called with a client's address: IPv4, IPv6 (RFC 6666, discard-only).
No packet from outside has such a destination, so that our connection can never be taken for one of the client's,
whatever ports the two come from. In a target's namespace, marked packets to any address are local."""
_PORTS = (2048, 32_767)
"""Source ports towards the app, in turn. They lie below those that processes of the target take by themselves
(ip_local_port_range), and that most clients do."""
_BIND_TRIES = 64
_PENDING = {errno.EALREADY, errno.EINPROGRESS}
_NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_MAPPED = "::ffff:"


def _connect(sock: Socket, address: tuple[Any, ...]) -> int:
    """Connect, and give the error, 0 for none.

    Over loopback the handshake is done when the first call returns: asking again tells how it went.
    """
    error = sock.connect_ex(address)
    return sock.connect_ex(address) if error == errno.EINPROGRESS else error


class Peer(NamedTuple):
    """A client's address as one binds to it, and ``local``, the target's address that it came to."""

    v4: bool
    source: tuple[str, int] | tuple[str, int, int, int]
    local: tuple[str, int] | tuple[str, int, int, int]


class Target:
    """A listening port in a network namespace, and its connections."""

    __slots__ = (
        "_bypass", "_bypass_fd", "_finishing", "_keep_source", "_listener", "_listening", "_matched", "_next_port",
        "_probes", "_refused_at", "_removed", "_rules", "_stock4", "_stock6", "_verdicts", "connections", "context",
        "count", "farewells", "name", "number", "port",
    )  # fmt: skip

    def __init__(self, context: Context, message: AddTarget, listener: Socket, bypass: int | None) -> None:
        self.context = context
        self.number = message.target
        self.name = message.name
        self.port = message.port
        self.count = TargetCount()
        self.connections: set[Connection] = set()
        self.farewells: set[Farewell] = set()
        self._keep_source = message.keep_source
        self._bypass = BypassMap(bypass) if bypass is not None else None
        self._bypass_fd = bypass
        self._rules: RuleSet | None = None
        self._probes: ProbeSet | None = None
        self._matched: dict[str, frozenset[bytes]] = {}
        self._verdicts: dict[str, Verdict] = {}
        self._removed = 0  # how often it was, while it is
        self._finishing: float | None = None
        self._refused_at = 0.0
        self._next_port = random.randint(*_PORTS)  # noqa: S311 - only so that two workers begin elsewhere
        self._stock4 = context.stock(Purpose.APP4, message.target, 32)
        self._stock6 = context.stock(Purpose.APP6, message.target, 8)
        context.book.targets[message.target] = self.count
        self._listen(listener)
        self._stock4.refill()
        self._stock6.refill()

    def set_rules(self, intercepts: Sequence[Intercept], probes: Sequence[Probe] = ()) -> None:
        """Decide by these intercepts from the next request on; but ``probes`` are the app's."""
        self._rules = RuleSet(intercepts) if intercepts else None
        self._probes = ProbeSet(probes) if probes else None
        self._matched = {
            one.name: frozenset(rule.name.lower().encode() for rule in one.headers) for one in intercepts
        }
        self._verdicts = {
            one.name: Verdict(
                Outcome.FORWARD,
                Way(one.session, one.tunnel_port, one.name),
                intercept=one.name,
                on_failure_app=one.on_failure is OnFailure.APP,
            )
            for one in intercepts
        }

    @property
    def intercepts(self) -> Collection[str]:
        """The names of the intercepts that it decides by."""
        return self._verdicts.keys()

    def add_sockets(self, purpose: Purpose, socks: list[Socket]) -> None:
        """Take prepared sockets."""
        (self._stock4 if purpose is Purpose.APP4 else self._stock6).add(socks)

    def tick(self, now: float) -> None:
        """Once a second."""
        self._stock4.tick()
        self._stock6.tick()
        if self._finishing is not None:
            self._drain(now, self._finishing)
        if self._removed and not self.connections and not self.farewells:
            self._drained()

    # Accepting.

    def _listen(self, listener: Socket) -> None:
        self._listener = listener
        # Accepted sockets inherit it.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.context.loop.add(listener.fileno(), IN, self.on_listener)
        self._listening = True

    def on_listener(self, _events: int) -> None:
        """Clients have come."""
        context = self.context
        for _ in range(ACCEPTS):
            if context.loop.sockets >= context.full_at:
                context.set_full()
                if context.loop.sockets >= context.most_sockets:
                    self._ran_out()
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

    def _accepted(self, sock: Socket, address: tuple[str, int] | tuple[str, int, int, int]) -> None:
        try:
            local = sock.getsockname()
        except OSError:
            sock.close()
            return
        if local[1] != self.port:
            sock.close()  # somebody found the listener itself
            return
        source, here = address[0], local[0]
        if len(address) == 2:
            peer = Peer(True, (source, 0), (here, self.port))
        elif source.startswith(_MAPPED):
            peer = Peer(True, (source[7:], 0), (here[7:], self.port))
        else:
            scope = address[3]
            peer = Peer(False, (source, 0, 0, scope), (here, self.port, 0, scope))
        self.count.accepted += 1
        self.count.open += 1
        connection = Connection(self, sock, peer)
        self.connections.add(connection)
        stock = self._stock4 if peer.v4 else self._stock6
        prepared = stock.take()
        if prepared is not None:
            connection.given(prepared)
            return
        stock.waiting[connection] = None
        self.context.waiting.add(connection)
        if len(stock.waiting) >= WAITING:
            self._pause()

    def _ran_out(self) -> None:
        self.count.reasons["descriptors ran out"] += 1
        self._pause()

    def _pause(self) -> None:
        """Accept nothing for a moment; clients wait in the kernel's queue."""
        if self._listening:
            self._listening = False
            self.context.loop.epoll.unregister(self._listener.fileno())
            self.context.paused.add(self)

    def resume(self) -> None:
        """Try to accept again."""
        if not self._listening and not self._removed:
            self._listening = True
            self.context.loop.epoll.register(self._listener.fileno(), IN)

    # Dialling the app.

    def stock(self, peer: Peer) -> Stock:
        """The prepared sockets for a client like this."""
        return self._stock4 if peer.v4 else self._stock6

    def dial(self, sock: Socket, peer: Peer) -> bool | None:
        """Connect a prepared socket to the app with the client's own address.

        Returns whether it is established already (over loopback it nearly always is); ``None`` if it cannot
        be.
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
            error = _connect(sock, (_ASIDE[peer.v4], self.port)) if spoofed else errno.ECONNREFUSED
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
            self.context.loop.sockets += 1
            self.context.loop.close(sock)
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
        now = self.context.loop.now
        if error == errno.ECONNREFUSED and now - self._refused_at > _REFUSED_AGAIN:
            self._refused_at = now
            self.context.tell(AppRefused(self.number))

    # Deciding.

    def decider(self, peer: Peer) -> Callable[[RequestHead], Verdict]:
        """What decides the requests of a client like this."""
        return self._decide_of_node if peer.source[0] in self.context.node else self.decide

    def _decide_of_node(self, head: RequestHead) -> Verdict:
        return self.decide(head, from_node=True)

    def decide(self, head: RequestHead, *, from_node: bool = False) -> Verdict:
        """Who takes this request."""
        if self._rules is None:
            return TO_APP
        intercept = self._rules.decide(head)
        if intercept is None:
            return TO_APP
        if (probes := self._probes) is not None and head.method == b"GET":
            matched = self._matched[intercept.name]
            if probes.has(head.target, head, matched, from_node=from_node):
                return OF_KUBELET
        verdict = self._verdicts[intercept.name]
        session = self.context.sessions.get(intercept.session)
        if session is None or not session.up:
            reason = "session down"
        elif intercept.tunnel_port not in session.ports:
            reason = "handler not listening"
        else:
            return verdict
        if verdict.on_failure_app:
            self.context.book.intercepts[intercept.name].reasons[reason] += 1
            return TO_APP
        return verdict._replace(outcome=Outcome.FAIL, reason=reason)

    def on_verdict(self, verdict: Verdict) -> None:
        """Count a verdict."""
        count = self.count
        if verdict is TO_APP:
            count.unmatched += 1
            return
        outcome, _, reason, intercept, _ = verdict
        if intercept is None:
            count.requests += 1
            if outcome is Outcome.APP:
                count.app_requests += 1
            count.verdicts[outcome.value] += 1
            if reason:
                count.reasons[reason] += 1
            return
        if outcome is Outcome.FORWARD:
            count.requests += 1
            self.context.book.intercepts[str(intercept)].hit()
        elif outcome is Outcome.FAIL:
            count.requests += 1
            self.context.book.intercepts[str(intercept)].reasons[reason] += 1
            outcome = Outcome.FORWARD  # as far as the rules go
        count.verdicts[outcome.value] += 1

    def on_fallback(self, verdict: Verdict, reason: str) -> None:
        """The app has a matched request after all."""
        self.count.app_requests += 1
        self.on_failed(verdict, reason)

    def on_failed(self, verdict: Verdict, reason: str) -> None:
        """A matched request got no response of its session."""
        intercept = self.context.book.intercepts[str(verdict.intercept)]
        intercept.reasons[reason] += 1
        intercept.hits -= 1

    # The end.

    def gone(self, connection: Connection) -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        self.count.open -= 1
        (self._stock4 if connection.peer.v4 else self._stock6).waiting.pop(connection, None)

    def take_up(self, listener: Socket, bypass: int | None) -> None:
        """It was removed, and is wanted again: accept from this listener. Its connections never notice."""
        if bypass is not None:
            os.close(bypass)  # its own one stands as long as it does
        self._removed = 0
        self._listen(listener)

    def remove(self, times: int) -> None:
        """Accept no more. Connections live on; ``Drained`` is told when the last one has ended."""
        loop = self.context.loop
        if not self._removed:
            self.context.paused.discard(self)
            if self._listening:
                self._listening = False
                loop.epoll.unregister(self._listener.fileno())
            loop.sockets += 1
            loop.close(self._listener)
        self._removed = times

    def finish(self, seconds: float) -> None:
        """Let the connections end, all within ``seconds`` and ``LAST``."""
        self._finishing = self.context.loop.now + seconds
        for connection in self.connections:
            connection.busy = True

    def _drain(self, now: float, until: float) -> None:
        for connection in list(self.connections):
            if now > until + LAST:
                connection.abort()
            elif connection.busy:
                connection.busy = False
                connection.idle_since = now
            if connection.idle and (now - connection.idle_since >= IDLE or now > until):
                connection.close_idle()
        if now > until + LAST:
            for farewell in list(self.farewells):
                farewell.finish()

    def _drained(self) -> None:
        self._stock4.close()
        self._stock6.close()
        if self._bypass_fd is not None:
            os.close(self._bypass_fd)
            self._bypass = self._bypass_fd = None
        self.context.removed.append(self.number)
        self.context.tell(Drained(self.number, self._removed))
