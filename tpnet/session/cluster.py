"""A session in a cluster: its Session object, and a link to the agent of each node that serves its intercepts.

The session daemon calls this where ``tpnet.session.presence`` serves a machine without a cluster; both offer the
same to ``tpnet.session.wishes``. Agents come and go: who they are is read from their NodeAgents, again and again
while one is silent. It must never let in what no NodeAgent stands for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, TypeVar

from tpnet.control.kubernetes.targets import split_name
from tpnet.model import NotThere, TpnetError
from tpnet.session.link import NUDGE_EVERY, RETIRED_SECONDS, AgentPeer, Link
from tpnet.tunnel import KeyPair, TunnelEnd

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tpnet.control.kubernetes.client import ClusterControl
    from tpnet.model import Intercept

T = TypeVar("T")

RENEW_EVERY = 10.0
"""Seconds between renewals; the lease is 30 s."""
RETRY_EVERY = 2.0
"""Seconds between attempts while the API server does not answer."""
ASK_AFTER = 1.0
"""Seconds of an agent's silence after which its NodeAgent is read again, and between two such readings."""
KEEP_SECONDS = 8.0
"""Seconds that a node's link outlives the node's part in every intercept, and the last connection from there: less than
its agent keeps its end."""
ASK_GONE = 0.25
"""The same when the agent has said goodbye: the next one is about to start."""
GONE_QUICKLY = 240
ASK_QUICKLY = 10
"""Readings of a silent agent's NodeAgent before the time between two of them doubles, up to ``ASK_SELDOM``; and of one
that has said goodbye."""
ASK_SELDOM = 30.0
FIRST_NUDGES = 0.15
"""Seconds between two handshakes with an agent that has not answered yet, in its first ``FIRST_SECONDS``."""
FIRST_SECONDS = 5.0
SETTLE_SECONDS = 3.0
"""Seconds that a new intercept waits for the links that it needs."""

log = logging.getLogger(__name__)


class ClusterPresence:
    """One session. ``open`` it, then ``run`` it; ``end`` it to leave nothing in the cluster.

    ``handlers`` gives the intercepts by name, ``restored`` is awaited when the session had to be made anew,
    ``renewed`` after each renewal. ``busy`` says whether the agent at a tunnel address has connections open.
    """

    def __init__(
        self,
        control: ClusterControl,
        *,
        handlers: Callable[[], dict[str, bool]],
        restored: Callable[[], Awaitable[None]],
        renewed: Callable[[], Awaitable[None]],
        busy: Callable[[str], bool],
    ) -> None:
        self.control = control
        self.user = control.user
        self.name = ""
        self._handlers = handlers
        self._restored = restored
        self._renewed = renewed
        self._busy = busy
        self._keys = KeyPair()
        self._end: TunnelEnd | None = None
        self._links: dict[str, Link] = {}
        self._unwanted: dict[str, float] = {}
        self._asked: dict[str, tuple[float, int]] = {}
        self._said: dict[str, str] = {}
        self._former: set[str] = set()  # sessions of ours that may still be there
        self._news = asyncio.Event()
        self._wake = asyncio.Event()
        self._settling = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    @property
    def tunnel(self) -> TunnelEnd:
        """The tunnel end of the moment. Raises ``TpnetError`` while it is being made anew."""
        if self._end is None:
            raise TpnetError("The session has no tunnel at this moment; it is being made anew.", "Try again.")
        return self._end

    @property
    def up(self) -> bool:
        """Whether every agent that serves an intercept of ours answers."""
        return bool(self._links) and all(link.up for link in self._links.values())

    def links(self) -> dict[str, Link]:
        """The agents by node."""
        return self._links

    def is_agent(self, address: str) -> bool:
        """Whether this tunnel address may connect to us."""
        return any(address == str(link.agent.address) for link in self._links.values())

    async def open(self) -> None:
        """Make the tunnel end and the Session. Raises ``TpnetError``, leaving nothing."""
        try:
            await self._register()
        except BaseException:
            with contextlib.suppress(TpnetError):
                await self.end()
            raise

    def wake(self) -> None:
        """There is news of a handler: on a cluster nobody needs to be told."""

    async def renew(self) -> None:
        """Renew the lease. Raises ``TpnetError``."""
        await self._ask(self.control.renew, self.name)

    async def agent_answers(self) -> bool:
        """Whether the API server answers."""
        try:
            await self._ask(self.control.info)
        except TpnetError:
            return False
        return True

    async def settled(self) -> None:
        """Wait a moment until the agents of all nodes that serve our intercepts answer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                while not self._is_settled():
                    self._settling.clear()
                    await self._settling.wait()

    def _is_settled(self) -> bool:
        return all(
            (link := self._links.get(node)) is not None and link.up for node in self.control.nodes(self.name)
        )

    async def expect(self, intercept: Intercept) -> None:
        """An intercept is about to be made: learn from its status which nodes serve it."""
        namespace, _ = split_name(intercept.name)
        await self._ask(self.control.follow, namespace, self.name, self._tell)

    async def follow(self, namespace: str) -> None:
        """Look out in ``namespace`` for intercepts that wait for a session."""
        await self._ask(self.control.follow_unclaimed, namespace, self._tell_of_unclaimed)

    async def unclaimed(self) -> list[Intercept]:
        """Intercepts of this user that wait for a session, as made with kubectl. Raises ``TpnetError``."""
        return await self._ask(self.control.unclaimed, self.name)

    async def claim(self, intercept: Intercept) -> None:
        """Take one of these. Raises ``TpnetError``."""
        namespace, _ = split_name(intercept.name)
        await self._ask(self.control.follow, namespace, self.name, self._tell)
        await self._ask(self.control.claim, intercept)

    async def run(self) -> None:
        """Keep the session standing until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_lease())
            group.create_task(self._keep_links())

    async def end(self) -> None:
        """Delete the intercepts and the Session, and take the tunnel down. Raises ``TpnetError``, the tunnel down."""
        try:
            for name in self._handlers():
                with contextlib.suppress(NotThere):
                    await self._ask(self.control.delete_intercept, name, self.user)
            await self._end_former()
            if self.name:
                name, self.name = self.name, ""
                await self._ask(self.control.end_session, name)
        finally:
            self._close_tunnel()

    async def _register(self) -> None:
        """A tunnel end, and a Session with its key."""
        if self._end is not None and not self._end.alive():
            log.warning("the tunnel's device has died; making another")
            self._close_tunnel()
        if self._end is None:
            self._end = await TunnelEnd.open_async(self._keys)
            log.info("tunnel end %s at %s: %s", self._end.device.name, self._end.address, self._end.reason)
        self.name = await self._ask(self.control.begin_session, self._keys.public)
        log.info("session %s of %s at %s", self.name, self.user, self.control.server)

    async def _keep_lease(self) -> None:
        wait = RENEW_EVERY
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._keep_once()
                wait = RENEW_EVERY
            except TpnetError as error:
                if wait != RETRY_EVERY:
                    log.warning("%s %s", error, error.hint)
                wait = RETRY_EVERY

    async def _keep_once(self) -> None:
        """Renew, or make the session anew where it is gone: ended by an admin, or its lease ran out."""
        try:
            if self._end is None or not self._end.alive():
                raise NotThere("The tunnel's device has died.")
            await self.renew()
        except NotThere as error:
            if "does not answer" in error.message:
                raise
            log.warning("%s Beginning a new session.", error)
            for link in self._links.values():
                link.close(forget=True)
            self._links.clear()
            # A new key: whoever ended the session may have meant the old one.
            self._close_tunnel()
            self._keys = KeyPair()
            former = self.name
            await self._register()
            self._former.add(former)
            await self._restored()
        await self._end_former()
        await self._renewed()

    async def _end_former(self) -> None:
        """Delete sessions that this one replaces. No agent would: no intercept names them any more."""
        for name in list(self._former):
            try:
                await self._ask(self.control.end_session, name)
            except TpnetError as error:
                log.warning("the session %s is still to be ended: %s", name, error)
                return
            self._former.discard(name)

    def _tell_of_unclaimed(self) -> None:
        """From the control's own thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._wake.set)

    def _tell(self) -> None:
        """From the control's own thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._news.set)

    async def _keep_links(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                young = any(
                    not link.ever_up and link.silent_for < FIRST_SECONDS for link in self._links.values()
                )
                gone = any(link.gone for link in self._links.values())
                pause = FIRST_NUDGES if young else ASK_GONE if gone else NUDGE_EVERY
                async with asyncio.timeout(pause):
                    await self._news.wait()
            self._news.clear()
            try:
                await self._link_all()
            except TpnetError as error:
                log.warning("%s", error)

    async def _link_all(self) -> None:
        """A link to each node that serves an intercept of ours, and to no other."""
        end = self._end
        if end is None or not self.name:
            return
        if not end.alive():
            self._wake.set()
            return
        wanted = self.control.nodes(self.name)
        now = time.monotonic()
        # An agent that ends takes back what it has said of our intercepts; the next one is soon looked for all the same.
        for node in sorted(wanted | {node for node, link in self._links.items() if link.gone}):
            if node in wanted:
                self._want_again(node, now)
            try:
                await self._keep_link(node, now)
            except TpnetError as error:
                # One node's trouble is not the others': its part in a status may outlive it.
                if self._said.get(node) != error.message:
                    log.warning("node %s: %s", node, error)
                self._said[node] = error.message
            else:
                self._said.pop(node, None)
        for node in self._links.keys() - wanted:
            self._want_no_more(node, now)

    async def _keep_link(self, node: str, now: float) -> None:
        link = self._links.get(node)
        if link is None or link.gone or link.silent_for > ASK_AFTER:
            await self._look_up(node, now)
        else:
            self._asked.pop(node, None)
        if (link := self._links.get(node)) is not None:
            link.nudge()

    def _want_again(self, node: str, now: float) -> None:
        """A node that serves us, perhaps after a while in which it did not."""
        link, since = self._links.get(node), self._unwanted.pop(node, None)
        if since is not None and link is not None and not (link.up and now - since < KEEP_SECONDS):
            # Its agent may have let go of us meanwhile, and knows nothing of the keys that were agreed on. One that
            # answers has not: it would lose what it sends while keys are agreed on anew.
            self._asked.pop(node, None)
            self._links.pop(node).close(forget=True)

    def _want_no_more(self, node: str, now: float) -> None:
        """A node that serves us no more."""
        link = self._links[node]
        if self._busy(str(link.agent.address)):
            # What is under way when an intercept is left ends in its own time. The agent keeps its end as long.
            self._unwanted[node] = now
            link.nudge()
        elif now - self._unwanted.setdefault(node, now) > KEEP_SECONDS:
            del self._unwanted[node]
            self._asked.pop(node, None)
            self._links.pop(node).close(forget=True)
            log.info("node %s serves no intercept of ours any more", node)

    async def _look_up(self, node: str, now: float) -> None:
        """Read who the node's agent is, and link to it unless we are. The longer it is silent, the less often."""
        last, times = self._asked.get(node, (-ASK_SELDOM, 0))
        link = self._links.get(node)
        pause, quickly = (
            (ASK_GONE, GONE_QUICKLY) if link is not None and link.gone else (ASK_AFTER, ASK_QUICKLY)
        )
        if now - last < min(pause * 2 ** max(0, times - quickly), ASK_SELDOM):
            return
        self._asked[node] = now, min(times + 1, quickly + 10)
        spec = await self._ask(self.control.agent, node)
        agent = AgentPeer(spec.public_key, spec.heartbeat_port, spec.endpoints)
        old = self._links.get(node)
        if old is not None:
            if old.agent == agent:
                return
            gone = old.gone
            old.close(forget=not gone)
            if gone:  # it may have responses under way yet; new streams of it are refused from here on
                self._loop.call_later(RETIRED_SECONDS, self._retire, self.tunnel, old.agent.public_key)
        self._links[node] = link = Link(self.tunnel, agent, lambda up: self._changed(node, up))
        await link.start()

    def _retire(self, end: TunnelEnd, public_key: str) -> None:
        """Forget an agent that has had its time, unless it is one that is there."""
        if end is self._end and all(link.agent.public_key != public_key for link in self._links.values()):
            with contextlib.suppress(TpnetError):
                end.remove_peer(public_key)

    def _changed(self, node: str, up: bool) -> None:
        link = self._links.get(node)
        gone = link is not None and link.gone
        how = "answers" if up else "has said goodbye" if gone else "has not answered for two seconds"
        log.info("the agent of node %s %s", node, how)
        self._settling.set()
        self._news.set()

    def _close_tunnel(self) -> None:
        for link in self._links.values():
            link.close()
        self._links.clear()
        if self._end is not None:
            self._end.close()
            self._end = None

    async def _ask(self, call: Callable[..., T], *args: object) -> T:
        """A blocking call to the API server, in a thread."""
        return await asyncio.to_thread(call, *args)
