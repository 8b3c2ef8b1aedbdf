"""A session at the agent: its tunnel, its registration, its lease, its heartbeat.

The session daemon calls this. It keeps one session standing, whatever happens to the agent or to the
network between; what the session is for (intercepts, handlers) is the daemon's. It must never let the agent
say what its own address is: both addresses follow from the keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, TypeVar

from tpnet.model import InvalidInput, NotThere, Session, SessionGrant, TpnetError
from tpnet.session.link import NUDGE_EVERY, RETIRED_SECONDS, AgentPeer, Link
from tpnet.tunnel import MTU, KeyPair, TunnelEnd, address_of, prefix_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tpnet.control.base import NodeControl
    from tpnet.model import Intercept

T = TypeVar("T")

RENEW_EVERY = 10.0
"""Seconds between renewals; the lease is 30 s."""
RETRY_EVERY = 2.0
"""Seconds between attempts while the agent does not answer."""
QUICK_EVERY, QUICK_SECONDS = 0.1, 60.0
"""The same at first, once it has said goodbye or fallen silent: the next one is about to start."""

log = logging.getLogger(__name__)


class Presence:
    """One session, by name. ``open`` it, then ``run`` it; ``end`` it to leave nothing with the agent.

    ``handlers`` gives, when asked, what to tell the agent with a renewal. ``restored`` is awaited when the
    agent has a new session of ours, which knows of no intercepts; ``renewed`` after each renewal.
    """

    def __init__(
        self,
        control: NodeControl,
        name: str,
        user: str,
        *,
        handlers: Callable[[], dict[str, bool]],
        restored: Callable[[], Awaitable[None]],
        renewed: Callable[[], Awaitable[None]],
        busy: Callable[[str], bool],
    ) -> None:
        del busy  # the one agent that there is keeps the session until it ends
        self.control = control
        self.name = name
        self.user = user
        self._handlers = handlers
        self._restored = restored
        self._renewed = renewed
        self._end: TunnelEnd | None = None
        self._grant: SessionGrant | None = None
        self._link: Link | None = None
        self._keys = KeyPair()
        self._wake = asyncio.Event()
        self._silent = False
        self._standing = False
        self._quick_until = 0.0
        self._said = ""

    @property
    def tunnel(self) -> TunnelEnd:
        """The tunnel end of the moment; another one, with another key, after its device has died.

        Raises ``TpnetError`` between the two.
        """
        if self._end is None:
            raise TpnetError("The session has no tunnel at this moment; it is being made anew.", "Try again.")
        return self._end

    def links(self) -> dict[str, Link]:
        """The agents by node; of this session's one agent the node is not named."""
        return {} if self._link is None else {"": self._link}

    def is_agent(self, address: str) -> bool:
        """Whether this tunnel address may connect to us."""
        return self._link is not None and address == str(self._link.agent.address)

    @property
    def up(self) -> bool:
        """Whether the agent has answered a heartbeat within two seconds."""
        return self._link is not None and self._link.up

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

    async def follow(self, namespace: str) -> None:
        """Intercepts wait for a session in a cluster alone. Raises ``InvalidInput``."""
        raise InvalidInput(
            f"There is no namespace {namespace} without a cluster.",
            "tpnet intercept starts a session by itself.",
        )

    async def unclaimed(self) -> list[Intercept]:
        """None: see ``follow``."""
        return []

    async def claim(self, intercept: Intercept) -> None:
        """Raises ``NotThere``: see ``unclaimed``."""
        raise NotThere(f"Without a cluster no intercept waits for a session, {intercept.name} neither.")

    async def expect(self, intercept: Intercept) -> None:
        """An intercept is about to be made: the one agent that there is serves it."""

    async def settled(self) -> None:
        """Tell the agent of a new intercept's handler. Raises ``TpnetError``."""
        await self.renew()

    async def agent_answers(self) -> bool:
        """Whether an agent is there, be it one that does not know us."""
        return await self._ask(self.control.answers)

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
            # It may be ending, and have responses under way; new streams of it are refused from here on.
            loop = asyncio.get_running_loop()
            loop.call_later(RETIRED_SECONDS, self._retire, self._end, old.agent_public_key)
        if self._end is None:
            self._end = await TunnelEnd.open_async(self._keys, mtu=grant.mtu or MTU)
            log.info("tunnel end %s at %s: %s", self._end.device.name, self._end.address, self._end.reason)
        agent_address = address_of(grant.agent_public_key, prefix_of())
        if (grant.address, grant.agent_address) != (str(self._end.address), str(agent_address)):
            raise TpnetError(
                "The agent computes other tunnel addresses than this session does.",
                "Use the same version of tpnet at both ends.",
            )

    def _retire(self, end: TunnelEnd, public_key: str) -> None:
        """Forget an agent that has had its time, unless it is the one that is there."""
        if end is self._end and self._grant is not None and self._grant.agent_public_key != public_key:
            with contextlib.suppress(TpnetError):
                end.remove_peer(public_key)

    async def _reach(self) -> None:
        """Find the endpoint that answers. Raises ``NotThere``."""
        grant = self._grant
        assert grant is not None, "registered"
        if self._link is not None:
            self._link.close()
        agent = AgentPeer(grant.agent_public_key, grant.heartbeat_port, grant.endpoints)
        self._link = link = Link(self.tunnel, agent, self._changed)
        await link.start()
        await link.reach()

    def _changed(self, up: bool) -> None:
        if up:
            log.info("the tunnel is up")
            self._quick_until = 0.0
            return
        gone = self._link is not None and self._link.gone
        log.warning("the agent %s", "has said goodbye" if gone else "has not answered for two seconds")
        # It may have restarted, or dropped us while this computer slept.
        self._quick_until = time.monotonic() + QUICK_SECONDS
        self._wake.set()

    async def _keep_lease(self) -> None:
        wait = RENEW_EVERY
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            self._wake.clear()
            try:
                wait = await self._keep_once()
                self._said = ""
            except TpnetError as error:
                if self._said != error.message:
                    log.warning("%s", error)
                self._said = error.message
                wait = RETRY_EVERY
            if time.monotonic() < self._quick_until:
                wait = QUICK_EVERY  # also while an agent that ends still knows us

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
        while True:
            await asyncio.sleep(NUDGE_EVERY)
            end, link = self._end, self._link
            if end is None or link is None:
                continue
            try:
                if not end.alive():
                    self._wake.set()
                else:
                    link.nudge()
            except TpnetError as error:
                log.warning("%s", error)

    def _close_tunnel(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._end is not None:
            self._end.close()
            self._end = None

    async def _ask(self, call: Callable[..., T], *args: object) -> T:
        """A blocking call to the agent, in a thread."""
        return await asyncio.to_thread(call, *args)
