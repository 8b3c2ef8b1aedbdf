"""The tunnel to one agent: its peer, its heartbeat, and the endpoint at which it answers.

``tpnet.session.presence`` keeps one, ``tpnet.session.cluster`` one for each node. It must never let the agent say
what its own tunnel address is: that follows from its key.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from tpnet.model import NotThere, TpnetError
from tpnet.tunnel import MTU, HeartbeatSender, address_of, prefix_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv6Address

    from tpnet.tunnel import TunnelEnd
    from tpnet.tunnel.device import Endpoint

KEEPALIVE = 25
"""Seconds; WireGuard's usual, shorter than what NATs forget."""
RETIRED_SECONDS = 60.0
"""Seconds for which an earlier agent's tunnel stays: longer than one that ends waits for what is under way."""
NUDGE_EVERY = 0.5
"""Seconds between two looks at a link, each of which may call ``nudge``."""
_ENDPOINT_SECONDS = 1.5
_ENDPOINT_ROUNDS = 2
_NUDGE_AFTER = 1.0
_TRIES = 4
"""Handshakes with an agent that never answered, before its next endpoint."""
_ANEW_AFTER = 6.0
_FOLLOW_AT = (0.2, 0.5, 1.0, 2.0)
"""Seconds after an agent's goodbye at which it is sent a packet at the port that it moves to. It may not be there yet,
and what it sends from the old one until then leads back there."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AgentPeer:
    """What must be known of an agent to reach it. ``endpoints``: ``ADDRESS:PORT``, best first."""

    public_key: str
    heartbeat_port: int
    endpoints: tuple[str, ...]

    @property
    def address(self) -> IPv6Address:
        """Its tunnel address."""
        return address_of(self.public_key, prefix_of())


class Link:
    """One agent, seen from one tunnel end. ``changed(up)`` is called in the event loop."""

    def __init__(self, end: TunnelEnd, agent: AgentPeer, changed: Callable[[bool], None]) -> None:
        self.agent = agent
        self.endpoint: Endpoint | None = None
        self._end = end
        self._told = changed
        self._pulse: HeartbeatSender | None = None
        self._came_up = asyncio.Event()
        self._down_since = 0.0
        self._turn = 0
        self._following: list[asyncio.TimerHandle] = []

    @property
    def up(self) -> bool:
        """Whether the agent has answered a heartbeat within two seconds."""
        return self._pulse is not None and self._pulse.up

    @property
    def ever_up(self) -> bool:
        """Whether the agent has ever answered."""
        return self._came_up.is_set()

    @property
    def path(self) -> int:
        """Bytes of the largest packet that is known to pass; 0 when only the smallest do."""
        return MTU if self._pulse is None else self._pulse.path

    @property
    def gone(self) -> bool:
        """Whether the agent has said goodbye, and has not answered since."""
        return self._pulse is not None and self._pulse.gone

    @property
    def rtt_ms(self) -> float:
        """The tunnel's round trip in milliseconds, 0 while unknown."""
        return self._pulse.rtt_ms if self._pulse is not None else 0.0

    @property
    def silent_for(self) -> float:
        """Seconds since the agent's last answer, or since ``start``; 0 before that."""
        return self._pulse.silent_for if self._pulse is not None else 0.0

    async def start(self) -> None:
        """Make the peer, and begin to send heartbeats; to the first endpoint. Raises ``TpnetError``."""
        sock = self._end.socket(socket.SOCK_DGRAM)
        self._pulse = HeartbeatSender(sock, self._changed, self._path_found, self._moves)
        try:
            # There must be a route before connect(2) can choose the source address.
            self._end.add_peer(self.agent.public_key)
            sock.connect((str(self.agent.address), self.agent.heartbeat_port))
        except OSError as error:
            raise TpnetError(f"The tunnel cannot be used: {error.strerror}.") from error
        await self._pulse.start()
        if self.agent.endpoints:
            self._try(parse_endpoint(self.agent.endpoints[0]))

    async def reach(self) -> None:
        """Find the endpoint that answers. Raises ``NotThere``."""
        for _ in range(_ENDPOINT_ROUNDS):
            for text in self.agent.endpoints:
                if self.endpoint != parse_endpoint(text):
                    self._try(parse_endpoint(text))
                if await self._is_up_within(_ENDPOINT_SECONDS):
                    log.info("the agent answers at %s after %.1f ms", text, self.rtt_ms)
                    return
                self.endpoint = None
        self._down_since = time.monotonic()
        raise NotThere(
            f"The agent does not answer through the tunnel (UDP to {', '.join(self.agent.endpoints)}).",
            "A firewall between this computer and the node may drop it; allow that port.",
        )

    def nudge(self) -> None:
        """While the agent is silent: choose the source address anew, then try every endpoint afresh.

        Not one that has said goodbye: its endpoints are the next agent's, and what it has under way yet goes on where it
        is. Raises ``TpnetError``.
        """
        if self._pulse is None or self.gone or not self.agent.endpoints:
            return
        if not self._came_up.is_set():
            if self._shook_hands():
                # The echo is on its way. Another handshake would take the keys away that the agent now sends by, and if
                # it comes too soon after the last one the agent drops it: then there are none for five seconds.
                self._pulse.send_now()
                return
            # The agent may not have heard of our key when the first handshake came; WireGuard's own next one is five
            # seconds later.
            self._turn += 1
            self._try(parse_endpoint(self.agent.endpoints[self._turn // _TRIES % len(self.agent.endpoints)]))
            return
        if self._pulse.silent_for < _NUDGE_AFTER:
            return
        if self.endpoint is not None and (
            not self._down_since or time.monotonic() - self._down_since < _ANEW_AFTER
        ):
            # Before the agent gives us up, which takes two seconds of silence.
            self._end.set_endpoint(self.agent.public_key, self.endpoint, keepalive=KEEPALIVE)
        else:
            self._down_since = time.monotonic()
            self._turn += 1
            self._try(parse_endpoint(self.agent.endpoints[self._turn % len(self.agent.endpoints)]))

    def close(self, *, forget: bool = False) -> None:
        """End the heartbeat; with ``forget`` the peer too."""
        if self._pulse is not None:
            self._pulse.close()
            self._pulse = None
        if forget:
            self._stay()
            with contextlib.suppress(TpnetError):
                self._end.remove_peer(self.agent.public_key)

    def _try(self, endpoint: Endpoint) -> None:
        assert self._pulse is not None, "started"
        self.endpoint = endpoint
        # A new peer each time: WireGuard starts one handshake in five seconds with a known one.
        self._end.add_peer(self.agent.public_key, endpoint=endpoint, keepalive=KEEPALIVE)
        self._pulse.send_now()

    def _shook_hands(self) -> bool:
        """Whether the handshake was done, less than a second ago."""
        peer = self._end.peers().get(self.agent.public_key)
        return peer is not None and time.time() - peer.last_handshake < _NUDGE_AFTER

    async def _is_up_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._came_up.wait()
        return self.up

    def _path_found(self, size: int) -> None:
        log.warning("the path to %s carries packets of %d bytes", self.agent.address, size)
        try:
            self._end.set_path(self.agent.public_key, size)
        except TpnetError as error:
            log.warning("%s", error)

    def _moves(self, port: int) -> None:
        """The agent ends, and leaves its UDP port to the next one. What is under way is to go on from another.

        A router between here and there may let in only what answers us: so we have to speak first. With 0 it does not.
        """
        self._stay()
        peer = None
        if port:
            with contextlib.suppress(TpnetError):  # the device may have died
                peer = self._end.peers().get(self.agent.public_key)
        if peer is None or peer.endpoint is None:
            return
        endpoint = peer.endpoint[0], port
        loop = asyncio.get_running_loop()
        self._following = [loop.call_later(at, self._follow, endpoint) for at in _FOLLOW_AT]

    def _stay(self) -> None:
        for timer in self._following:
            timer.cancel()

    def _follow(self, endpoint: Endpoint) -> None:
        """Send a packet there, and everything else from now on."""
        with contextlib.suppress(TpnetError):  # the tunnel may have been closed meanwhile
            self._end.set_endpoint(self.agent.public_key, endpoint)
            # To turn this on is what sends a packet.
            self._end.set_endpoint(self.agent.public_key, endpoint, keepalive=KEEPALIVE)

    def _changed(self, up: bool) -> None:
        self._down_since = 0.0 if up else time.monotonic()
        if up:
            self._came_up.set()
        self._told(up)


def parse_endpoint(text: str) -> Endpoint:
    """``ADDRESS:PORT`` or ``[IPV6]:PORT`` as the agent gives it. Raises ``TpnetError``."""
    host, _, port = text.rpartition(":")
    try:
        # As WireGuard takes it, which is told line by line: nothing but an address may get there.
        address, number = ip_address(host.removeprefix("[").removesuffix("]")), int(port)
    except ValueError:
        number = 0
    if not 0 < number < 65536:
        raise TpnetError(f"The agent names an endpoint that is none: {text[:80]!r}.")
    return str(address), number
