"""The node's end of the tunnel, the sessions that may use it, and what the worker is told of them.

The supervisor keeps one ``Sessions`` in its event loop. It must never let a key in that no session stands
for, nor tell the worker that a session is up whose heartbeat is not heard.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from typing import TYPE_CHECKING

from tpnet.agent.namespace import own_addresses
from tpnet.kernel import filters
from tpnet.model import SessionGrant, SessionStatus, TpnetError
from tpnet.proxy.channel import DropSession, SetSession
from tpnet.tunnel import HEARTBEAT_PORT, HeartbeatReceiver, KeyPair, TunnelEnd, address_of, prefix_of
from tpnet.tunnel.liveness import Presence

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv6Address

    from tpnet.agent.book import Book
    from tpnet.agent.workers import Workers
    from tpnet.datapath.netns import NetNs
    from tpnet.model import Session
    from tpnet.tunnel import PeerStats
    from tpnet.tunnel.device import Endpoint

_log = logging.getLogger(__name__)

GOODBYES, GOODBYE_PAUSE = 3, 0.03
RETRY_SECONDS = 5.0
"""Seconds until making a tunnel's device anew is tried again after it failed; the first time is at once."""
STABLE_SECONDS = 1.0
"""Seconds that a new one has to live before the next."""
HEARTBEATS, HEARTBEATS_AT_ONCE = 50, 100
"""Heartbeats of one session that are heard a second, and after a pause at once. An honest one sends two a second, and as
many as some twenty while it looks for the size of the path."""
KEEPALIVE = 25
"""Seconds between packets to a session whose device this end made anew: the first has WireGuard shake hands at once."""


class Sessions:
    """Tunnel, peers and liveness. ``wireguard`` is the kind of device in use.

    ``uids``: users, one of which the process is that is the device, where one is.
    ``on_change()`` is called when a session goes up or down, and when the tunnel was made anew.
    """

    def __init__(
        self,
        book: Book,
        workers: Workers,
        port: int,
        uids: range,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._book = book
        self._on_change = on_change
        self._workers = workers
        self._port = port
        self._uids = uids
        self._keys = KeyPair()
        self._end: TunnelEnd | None = None
        self._heartbeat: HeartbeatReceiver | None = None
        self._names: dict[IPv6Address, str] = {}
        self._told: dict[str, SetSession] = {}
        self._lock = asyncio.Lock()
        self._retry_at = 0.0
        self._endpoints: dict[str, Endpoint] = {}
        self._whole = True  # the device knows every session
        self._looks: set[asyncio.Task[None]] = set()
        self._ending = False
        self._next_port = 0
        self.wireguard = ""

    @property
    def namespace(self) -> NetNs | None:
        """The tunnel's private namespace, where sockets towards sessions are made."""
        return None if self._end is None else self._end.ns

    async def start(self) -> None:
        """Bring the tunnel up. To be called in the main thread. Raises ``TpnetError``."""
        end = await TunnelEnd.open_async(self._keys, port=self._port, uids=self._uids)
        try:
            sock = end.socket(socket.SOCK_DGRAM)
            try:
                _limit_each(sock)
                sock.bind((str(end.address), HEARTBEAT_PORT))
            except OSError:
                sock.close()
                raise
            heartbeat = HeartbeatReceiver(sock, self._changed, self._path_found, self._quiet)
            await heartbeat.start()
        except OSError as error:
            end.close()
            raise TpnetError(f"The tunnel cannot be used: {error.strerror or error}.") from error
        self._end, self._heartbeat = end, heartbeat
        self._port = end.port  # the same again, should the device die
        self._watch(end)
        _log.info("tunnel at %s, UDP port %d, by %s: %s", end.address, end.port, end.device.kind, end.reason)

    async def add(self, session: Session) -> SessionGrant:
        """Let a session's key in, and say what it needs to know of this end. Raises ``TpnetError``."""
        await self.admit(session)
        end, _ = self._parts()
        return SessionGrant(
            session=session.name,
            address=str(address_of(session.public_key, prefix_of())),
            agent_public_key=self._keys.public,
            agent_address=str(end.address),
            heartbeat_port=HEARTBEAT_PORT,
            endpoints=await asyncio.to_thread(endpoints_at, end.port),
            lease=self._book.lease_left(session.name),
            mtu=end.mtu,
        )

    async def admit(self, session: Session) -> None:
        """Let a session's key in. Raises ``TpnetError``."""
        async with self._lock:
            end, heartbeat = self._parts()
            address = await asyncio.to_thread(end.add_peer, session.public_key)
            heartbeat.expect(address)
            self._names[address] = session.name
        self.tell(session.name)

    def identity(self) -> tuple[str, str, int, int] | None:
        """Public key, tunnel address, UDP port and MTU of this end; ``None`` while it is made anew."""
        if self._end is None:
            return None
        return self._keys.public, str(self._end.address), self._end.port, self._end.mtu

    async def drop(self, session: Session) -> None:
        """Shut a session's key out, and have the worker forget it. One that is not in is fine."""
        self._workers.send(DropSession(session.name))
        self._told.pop(session.name, None)
        address = address_of(session.public_key, prefix_of())
        self._names.pop(address, None)
        async with self._lock:
            if self._heartbeat is not None:
                self._heartbeat.forget(address)
            if self._end is not None:
                try:
                    await asyncio.to_thread(self._end.remove_peer, session.public_key)
                except TpnetError as error:  # a dead device has no peers; its successor gets those that stand
                    _log.warning("%s", error)

    def up(self, name: str) -> bool:
        """Whether a session's heartbeat is heard."""
        return self._presence(name).up

    def _presence(self, name: str) -> Presence:
        entry = self._book.sessions.get(name)
        if entry is None or self._heartbeat is None:
            return Presence()
        return self._heartbeat.presence(address_of(entry.session.public_key, prefix_of()))

    def tell(self, name: str) -> None:
        """Tell the worker how a session is, if that has changed.

        Not once the agent ends: sessions turn to the next one, and what is under way to them goes on all the same.
        """
        entry = self._book.sessions.get(name)
        if entry is None or self._ending:
            return
        ports = {
            intercept.tunnel_port
            for intercept in self._book.of_session(name)
            if self._book.handler_up(intercept)
        }
        address = address_of(entry.session.public_key, prefix_of())
        presence = self._presence(name)
        message = SetSession(name, str(address), presence.up, sorted(ports), presence.quiet)
        if self._told.get(name) != message and self._workers.ready:
            self._told[name] = message
            self._workers.send(message)

    def worker_ready(self) -> None:
        """Tell a new worker everything."""
        self._told.clear()
        for name in self._book.sessions:
            self.tell(name)

    async def mend(self) -> None:
        """Make the tunnel's device anew when it has died: same key, port and peers. Once a second, and at its death.

        Raises ``TpnetError`` when that fails; matched requests are the apps' until it succeeds.
        """
        end, _ = self._parts()
        async with self._lock:  # a device that is being made anew lives, and knows nobody yet
            if end.alive() and self._whole:
                await self._remember_endpoints(end)
                return
            if not end.alive():
                if time.monotonic() < self._retry_at:
                    return
                self._retry_at = time.monotonic() + RETRY_SECONDS
                _log.error("the tunnel's device has died; making it anew")
                self._unwatch(end)
                self._whole = False
                await end.revive()
                self._watch(end)
                self._retry_at = time.monotonic() + STABLE_SECONDS
            await self._let_all_in(end)
            self._whole = True
            _log.info("the tunnel's device is back")
        self._on_change()

    async def _let_all_in(self, end: TunnelEnd) -> None:
        """Have a device that was made anew know every session. Raises ``TpnetError``; to be tried again then."""
        for entry in list(self._book.sessions.values()):
            key = entry.session.public_key
            # With an endpoint this end shakes hands by itself: the session's takes seconds to find out that its keys are
            # worth nothing any more.
            at = self._endpoints.get(key)
            await asyncio.to_thread(end.add_peer, key, endpoint=at, keepalive=KEEPALIVE if at else 0)

    async def _remember_endpoints(self, end: TunnelEnd) -> None:
        """Where each session is: its device's death takes that along. Under the lock."""
        if end.device.watch >= 0 and self._book.sessions:
            with contextlib.suppress(TpnetError):
                peers = await asyncio.to_thread(end.peers)
                known = {entry.session.public_key for entry in self._book.sessions.values()}
                found = {key: peer.endpoint for key, peer in peers.items() if peer.endpoint}
                self._endpoints = {key: at for key, at in (self._endpoints | found).items() if key in known}

    def _watch(self, end: TunnelEnd) -> None:
        self.wireguard = end.device.kind
        if end.device.watch >= 0:
            asyncio.get_running_loop().add_reader(end.device.watch, self._died, end)

    def _unwatch(self, end: TunnelEnd) -> None:
        if end.device.watch >= 0:
            asyncio.get_running_loop().remove_reader(end.device.watch)

    def _died(self, end: TunnelEnd) -> None:
        self._unwatch(end)
        self._look_now()

    def _look_now(self) -> None:
        """Not only when the second is over: the device has died, or there is somebody new to remember."""
        look = asyncio.get_running_loop().create_task(self._mend_now())
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)

    async def _mend_now(self) -> None:
        try:
            await self.mend()
        except TpnetError as error:
            _log.warning("%s", error.message)

    async def statuses(self) -> tuple[SessionStatus, ...]:
        """Every session as it is now."""
        peers: dict[str, PeerStats] = {}
        if self._end is not None:
            with contextlib.suppress(TpnetError):
                peers = await asyncio.to_thread(self._end.peers)
        return tuple(self._status(name, peers) for name in list(self._book.sessions))

    async def goodbye(self, *, moves: bool = False) -> None:
        """Tell the sessions that this agent ends, and the next one is to be looked for. Takes a tenth of a second.

        ``moves``: ``make_way`` comes next.
        """
        self._ending = True
        self._next_port = free_port() if moves else 0
        if self._heartbeat is None:
            return
        for _ in range(GOODBYES):  # a datagram may be lost; and the device takes a moment to send one
            self._heartbeat.goodbye(self._next_port)
            await asyncio.sleep(GOODBYE_PAUSE)

    async def make_way(self) -> None:
        """Leave the node's UDP port to the next agent.

        What is under way to sessions goes on, from another port: they were told which, and learn of it by whatever comes
        from there, such as another goodbye.
        """
        if self._end is not None:
            try:
                await asyncio.to_thread(self._end.move_away, self._next_port)
            except TpnetError as error:
                _log.warning("%s", error)

    def close(self) -> None:
        """Take the tunnel down."""
        self._let_go()

    def _status(self, name: str, peers: dict[str, PeerStats]) -> SessionStatus:
        session = self._book.sessions[name].session
        address = address_of(session.public_key, prefix_of())
        up, seen, rtt_ms, path = False, 0.0, 0.0, 0
        if self._heartbeat is not None:
            presence = self._heartbeat.presence(address)
            up, rtt_ms, path = presence.up, presence.rtt_ms, presence.path
            seen = time.time() - (time.monotonic() - presence.seen) if presence.seen else 0.0
        peer = peers.get(session.public_key)
        return SessionStatus(
            name=name,
            user=session.user,
            public_key=session.public_key,
            address=str(address),
            up=up,
            endpoint=endpoint_text(*peer.endpoint) if peer is not None and peer.endpoint else "",
            lease_left=round(self._book.lease_left(name), 1),
            last_seen=seen,
            rtt_ms=rtt_ms,
            since=session.created,
            mtu=path,
        )

    def _parts(self) -> tuple[TunnelEnd, HeartbeatReceiver]:
        if self._end is None or self._heartbeat is None:
            raise TpnetError("The agent's tunnel is being made anew.", "Try again in a moment.")
        return self._end, self._heartbeat

    def _let_go(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.close()
            self._heartbeat = None
        if self._end is not None:
            self._unwatch(self._end)
            self._end.close()
            self._end = None

    def _path_found(self, address: IPv6Address, size: int) -> None:
        entry = self._book.sessions.get(self._names.get(address, ""))
        if entry is None or self._end is None:
            return
        _log.info("the path to session %s carries packets of %d bytes", entry.session.name, size)
        try:
            self._end.set_path(entry.session.public_key, size)
        except TpnetError as error:  # its device has died, or the session goes just now
            _log.warning("%s", error)

    def _quiet(self, address: IPv6Address) -> None:
        name = self._names.get(address)
        if name is not None:
            self.tell(name)

    def _changed(self, address: IPv6Address, up: bool) -> None:
        name = self._names.get(address)
        if name is not None and not self._ending:
            _log.info("session %s is %s", name, "up" if up else "down; its requests go to the app")
            self.tell(name)
            self._on_change()
            if up:
                self._look_now()


def free_port() -> int:
    """A UDP port of the calling thread's namespace that nobody has at this moment; 0 when there is none."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("0.0.0.0", 0))  # noqa: S104 - nothing is received by it
            return int(sock.getsockname()[1])
    except OSError:
        return 0


def _limit_each(sock: socket.socket) -> None:
    """However much one session sends to the heartbeat's port, the others' heartbeats find room. Raises ``OSError``."""
    program = filters.at_most(HEARTBEATS, HEARTBEATS_AT_ONCE)
    try:
        filters.attach(sock, program)
    finally:
        os.close(program)


def endpoints_at(port: int) -> tuple[str, ...]:
    """Where a laptop may reach a UDP port of this node: IPv4 first, and at the end from this very machine."""
    return tuple(endpoint_text(address, port) for address in (*own_addresses(), "127.0.0.1"))


def endpoint_text(host: str, port: int) -> str:
    """``address:port``, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
