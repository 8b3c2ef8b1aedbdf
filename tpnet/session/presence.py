"""A session at the agent: its tunnel, its registration, its lease, its heartbeat.

The session daemon calls this. It keeps one session standing, whatever happens to the agent or to the
network between; what the session is for (intercepts, handlers) is the daemon's. It must never let the agent
say what its own address is: both addresses follow from the keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from typing import TYPE_CHECKING, TypeVar

from tpnet.model import NotThere, Session, SessionGrant, TpnetError
from tpnet.tunnel import MTU, HeartbeatSender, KeyPair, TunnelEnd, address_of, prefix_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from ipaddress import IPv6Address

    from tpnet.control.base import Control
    from tpnet.tunnel.device import Endpoint

T = TypeVar("T")

RENEW_EVERY = 10.0
"""Seconds between renewals; the lease is 30 s."""
RETRY_EVERY = 2.0
"""Seconds between attempts while the agent does not answer."""
KEEPALIVE = 25
"""Seconds; WireGuard's usual, shorter than what NATs forget."""
_ENDPOINT_SECONDS = 1.5
_ENDPOINT_ROUNDS = 2
_NUDGE_EVERY = 0.5
_NUDGE_AFTER = 1.0
_ANEW_AFTER = 6.0

log = logging.getLogger(__name__)


class Presence:
    """One session, by name. ``open`` it, then ``run`` it; ``end`` it to leave nothing with the agent.

    ``handlers`` gives, when asked, what to tell the agent with a renewal. ``restored`` is awaited when the
    agent has a new session of ours, which knows of no intercepts; ``renewed`` after each renewal.
    """

    def __init__(
        self,
        control: Control,
        name: str,
        user: str,
        *,
        handlers: Callable[[], dict[str, bool]],
        restored: Callable[[], Awaitable[None]],
        renewed: Callable[[], Awaitable[None]],
    ) -> None:
        self.control = control
        self.name = name
        self.user = user
        self.endpoint: Endpoint | None = None
        self._handlers = handlers
        self._restored = restored
        self._renewed = renewed
        self._end: TunnelEnd | None = None
        self._grant: SessionGrant | None = None
        self._pulse: HeartbeatSender | None = None
        self._keys = KeyPair()
        self._wake = asyncio.Event()
        self._came_up = asyncio.Event()
        self._down_since = 0.0
        self._silent = False
        self._standing = False

    @property
    def tunnel(self) -> TunnelEnd:
        """The tunnel end of the moment; another one, with another key, after its device has died.

        Raises ``TpnetError`` between the two.
        """
        if self._end is None:
            raise TpnetError("The session has no tunnel at this moment; it is being made anew.", "Try again.")
        return self._end

    @property
    def agent_address(self) -> IPv6Address:
        """The one address that may connect to us."""
        assert self._grant is not None, "the session is open"
        return address_of(self._grant.agent_public_key, prefix_of())

    @property
    def up(self) -> bool:
        """Whether the agent has answered a heartbeat within two seconds."""
        return self._pulse is not None and self._pulse.up

    @property
    def rtt_ms(self) -> float:
        """The tunnel's round trip in milliseconds, 0 while unknown."""
        return self._pulse.rtt_ms if self._pulse is not None else 0.0

    async def open(self) -> None:
        """Register, and bring the tunnel up. Raises ``TpnetError``, leaving nothing."""
        try:
            await self._register()
            await self._reach()
            self._standing = True
        except BaseException:
            with contextlib.suppress(TpnetError):
                await self.end()
            raise

    def wake(self) -> None:
        """Renew now: there is news of a handler."""
        self._wake.set()

    async def renew(self) -> None:
        """Renew the lease, and tell the agent which handlers listen. Raises ``TpnetError``."""
        await self._ask(self.control.renew_session, self.name, self._handlers())

    async def agent_answers(self) -> bool:
        """Whether an agent is there, be it one that does not know us."""
        try:
            await self._ask(self.control.info)
        except TpnetError:
            return False
        return True

    async def run(self) -> None:
        """Keep the session standing until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_lease())
            group.create_task(self._keep_tunnel())

    async def end(self) -> None:
        """End the session with the agent and take the tunnel down. Raises ``TpnetError``, the tunnel down."""
        try:
            if self._grant is not None:
                self._grant = None
                await self._ask(self.control.end_session, self.name)
        finally:
            self._close_tunnel()

    async def _register(self) -> None:
        """A grant, and a tunnel end that fits it."""
        if self._end is not None and not self._end.alive():
            log.warning("the tunnel's device has died; making another, with a new key")
            self._close_tunnel()
            self._keys = KeyPair()
        session = Session(self.name, self.user, self._keys.public, created=time.time())
        grant = await self._ask(self.control.register_session, session)
        old, self._grant = self._grant, grant
        if old is not None and old.agent_public_key != grant.agent_public_key and self._end is not None:
            self._end.remove_peer(old.agent_public_key)
        if self._end is None:
            self._end = await TunnelEnd.open_async(self._keys, mtu=grant.mtu or MTU)
            log.info("tunnel end %s at %s: %s", self._end.device.name, self._end.address, self._end.reason)
        if (grant.address, grant.agent_address) != (str(self._end.address), str(self.agent_address)):
            raise TpnetError(
                "The agent computes other tunnel addresses than this session does.",
                "Use the same version of tpnet at both ends.",
            )

    async def _reach(self) -> None:
        """Find the endpoint that answers. Raises ``NotThere``."""
        assert self._grant is not None, "registered"
        await self._start_pulse(self._grant)
        for _ in range(_ENDPOINT_ROUNDS):
            for text in self._grant.endpoints:
                self._try(parse_endpoint(text))
                if await self._is_up_within(_ENDPOINT_SECONDS):
                    log.info("the agent answers at %s after %.1f ms", text, self.rtt_ms)
                    return
        raise NotThere(
            f"The agent does not answer through the tunnel (UDP to {', '.join(self._grant.endpoints)}).",
            "A firewall between this computer and the node may drop it; allow that port.",
        )

    async def _start_pulse(self, grant: SessionGrant) -> None:
        if self._pulse is not None:
            self._pulse.close()
        sock = self.tunnel.socket(socket.SOCK_DGRAM)
        self._pulse = HeartbeatSender(sock, self._changed)
        self._came_up.clear()
        try:
            # There must be a route before connect(2) can choose the source address.
            self.tunnel.add_peer(grant.agent_public_key)
            sock.connect((grant.agent_address, grant.heartbeat_port))
        except OSError as error:
            raise TpnetError(f"The tunnel cannot be used: {error.strerror}.") from error
        await self._pulse.start()
        self._down_since = 0.0

    def _try(self, endpoint: Endpoint) -> None:
        assert self._grant is not None, "registered"
        assert self._pulse is not None, "reaching"
        self.endpoint = endpoint
        # A new peer each time: WireGuard starts one handshake in five seconds with a known one.
        self.tunnel.add_peer(self._grant.agent_public_key, endpoint=endpoint, keepalive=KEEPALIVE)
        self._pulse.send_now()

    async def _is_up_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._came_up.wait(), seconds)
        return self.up

    def _changed(self, up: bool) -> None:
        self._down_since = 0.0 if up else time.monotonic()
        if up:
            self._came_up.set()
            log.info("the tunnel is up")
        else:
            log.warning("the agent has not answered for two seconds")
            self._wake.set()  # it may have restarted, or dropped us while this computer slept

    async def _keep_lease(self) -> None:
        wait = RENEW_EVERY
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), wait)
            self._wake.clear()
            try:
                wait = await self._keep_once()
            except TpnetError as error:
                log.warning("%s", error)
                wait = RETRY_EVERY

    async def _keep_once(self) -> float:
        """Renew, or register anew where that is what it takes. Returns the seconds until the next time."""
        if self._end is None or not self._end.alive():
            self._standing = False
        if self._standing:
            try:
                await self.renew()
            except NotThere as error:
                # Either nobody answers, or an agent answers that does not know us.
                if not await self.agent_answers():
                    if not self._silent:
                        log.warning("%s", error)
                    self._silent = True
                    return RETRY_EVERY
                self._standing = await self._is_known()
        if not self._standing:
            log.warning("registering again")
            await self._register()
            try:
                await self._reach()
            except NotThere as error:
                log.warning("%s", error)
                self._down_since = time.monotonic()
            await self._restored()
            self._standing = True
        if self._silent:
            log.info("the agent answers again")
            self._silent = False
        await self._renewed()
        return RENEW_EVERY

    async def _is_known(self) -> bool:
        """Whether the agent, which is there, knows the session."""
        try:
            await self.renew()
        except NotThere:
            return False
        return True

    async def _keep_tunnel(self) -> None:
        """While the agent is silent: choose the source address anew, then try every endpoint afresh."""
        turn = 0
        while True:
            await asyncio.sleep(_NUDGE_EVERY)
            end, grant, endpoint, pulse = self._end, self._grant, self.endpoint, self._pulse
            if end is None or grant is None or endpoint is None or pulse is None:
                continue
            try:
                if not end.alive():
                    self._wake.set()
                elif pulse.silent_for < _NUDGE_AFTER:
                    continue
                elif not self._down_since or time.monotonic() - self._down_since < _ANEW_AFTER:
                    # Before the agent gives us up, which takes two seconds of silence.
                    end.set_endpoint(grant.agent_public_key, endpoint, keepalive=KEEPALIVE)
                else:
                    self._down_since = time.monotonic()
                    turn += 1
                    self._try(parse_endpoint(grant.endpoints[turn % len(grant.endpoints)]))
            except TpnetError as error:
                log.warning("%s", error)

    def _close_tunnel(self) -> None:
        if self._pulse is not None:
            self._pulse.close()
            self._pulse = None
        if self._end is not None:
            self._end.close()
            self._end = None

    async def _ask(self, call: Callable[..., T], *args: object) -> T:
        """A blocking call to the agent, in a thread."""
        return await asyncio.to_thread(call, *args)


def parse_endpoint(text: str) -> Endpoint:
    """``ADDRESS:PORT`` or ``[IPV6]:PORT`` as the agent gives it. Raises ``TpnetError``."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise TpnetError(f"The agent names an endpoint that is none: {text!r}.")
    return host.strip("[]"), int(port)
