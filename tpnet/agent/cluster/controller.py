"""Where a cluster's agent has its orders from: again and again from what is wanted to what is. asyncio.

The supervisor runs one ``ClusterOrders``. It must never depend on having seen how things came about: each step looks
at everything, and whatever failed is tried again. While the API server is away, what runs goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tpnet.agent.answers import Answers
from tpnet.agent.cluster.book import ClusterBook
from tpnet.agent.cluster.decide import REFUSED, SESSION_GONE, LeaseState, decide
from tpnet.agent.cluster.publish import Publisher
from tpnet.agent.cluster.world import World, keep_running
from tpnet.agent.namespace import addresses_of_node
from tpnet.control.kubernetes.library import library
from tpnet.model import Refused, Session, TpnetError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from typing import NoReturn

    from tpnet.agent.answers import Parts
    from tpnet.agent.cluster.decide import Outcome
    from tpnet.agent.cluster.facts import Lease
    from tpnet.control.kubernetes.api import Api
    from tpnet.control.local.server import Backend
    from tpnet.model import Intercept, InterceptStatus, SessionGrant

_log = logging.getLogger(__name__)

SYNC_SECONDS = 5.0
"""Seconds that the first lists may take before the agent says that it is ready without them."""
STEP_PAUSE = 0.02
"""Seconds between two steps at least: what changes together is taken together."""
LEAVING_SECONDS = 12.0
"""Seconds that a session may use the tunnel after its last intercept here, and longer while something is under way to
it: that is to be answered, and who comes back soon has a tunnel."""
NODE_EVERY = 30.0
"""Seconds between two looks at the node's own addresses, if no new target asks for one."""
GOODBYE_SECONDS = 2.0
"""Seconds for the last words to the API server."""


@dataclass(frozen=True, slots=True)
class _Running:
    """What there is once it has begun."""

    parts: Parts
    world: World
    publisher: Publisher
    answers: ReadOnly


class ClusterOrders:
    """``tpnet.agent.orders.Orders``. ``node``: the name of this node; ``addresses`` by which it is reached.

    ``connect`` gives the API server, as the service account of the agents. ``overlaps``: see ``Orders``; an agent in a
    pod has a UDP port to itself, and is replaced when its pod has ended.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Api]],
        node: str,
        addresses: Sequence[str],
        *,
        overlaps: bool = False,
    ) -> None:
        self.book = ClusterBook()
        self.overlaps = overlaps
        self._connect = connect
        self._node = node
        self._addresses = tuple(addresses)
        self._dirty = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._goodbye: asyncio.Task[None] | None = None
        self._seen: object = None
        self._node_at = 0.0
        self._leaving: dict[str, float] = {}  # sessions that no intercept here goes to any more, since when
        self._undo = contextlib.AsyncExitStack()
        self._cluster: tuple[Api, World] | None = None
        self._running: _Running | None = None
        self._outcome: Outcome | None = None

    async def prepare(self) -> None:
        """See ``Orders``: the API server is found, and the first lists are asked for."""
        await asyncio.to_thread(library)  # 0.3 s
        api = await self._connect()
        self._undo.push_async_callback(api.close)
        world = World(api, self._node, self._dirty.set)
        self._undo.push_async_callback(world.close)
        world.start()
        self._cluster = api, world

    async def begin(self, parts: Parts) -> Backend:
        """See ``Orders``. Without an API server it begins all the same, and waits for it."""
        assert self._cluster is not None, "prepared"
        api, world = self._cluster
        publisher = Publisher(api, self._node, self._addresses, parts, world)
        self._running = running = _Running(parts, world, publisher, ReadOnly(parts))
        if not await world.synced(SYNC_SECONDS):
            _log.warning("not everything is known yet: %s", world.trouble or "the API server is slow")
        await self._step(running)
        self._tasks = [
            asyncio.create_task(keep_running(lambda: self._run(running))),
            asyncio.create_task(keep_running(publisher.writer.run)),
        ]
        return running.answers

    def glance(self) -> None:
        """See ``Orders``."""
        if self._running is not None:
            doors = self._running.parts.targets.doors()
            seen = [(door.key, door.ready, door.reason) for door in doors]
            if seen != self._seen:
                self._seen = seen
                self._dirty.set()

    async def look(self) -> None:
        """See ``Orders``."""
        self._dirty.set()

    def session_changed(self) -> None:
        """See ``Orders``."""
        self._dirty.set()

    async def stop(self) -> None:
        """See ``Orders``: from now on this node's parts say that its agent ends."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._running is not None:
            await self._running.world.close()
            if self._outcome is not None:
                self._goodbye = asyncio.create_task(self._running.publisher.say_goodbye(self._outcome))

    async def end(self) -> None:
        """See ``Orders``: the node has no agent any more."""
        if self._goodbye is not None:
            await asyncio.wait([self._goodbye], timeout=GOODBYE_SECONDS)
            self._goodbye.cancel()
        if self._running is not None:
            with contextlib.suppress(TpnetError, TimeoutError):
                async with asyncio.timeout(GOODBYE_SECONDS):
                    await self._running.publisher.withdraw()
        await self._undo.aclose()

    async def _run(self, running: _Running) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(STEP_PAUSE)
            self._dirty.clear()
            await self._step(running)

    async def _step(self, running: _Running) -> None:
        """Once from what is wanted to what is, as far as it goes."""
        world, publisher = running.world, running.publisher
        world.follow(world.view())
        outcome = decide(world.view())
        if not outcome.wanted.keys() <= self.book.desired().keys() or time.monotonic() > self._node_at:
            self._node_at = time.monotonic() + NODE_EVERY
            running.parts.targets.set_node(await asyncio.to_thread(addresses_of_node))
        self.book.set_wanted(outcome.wanted, outcome.probes, outcome.addresses)
        await self._set_sessions(wanted_sessions(outcome), running.parts)
        await running.answers.reconcile()
        self._outcome = outcome
        world.leases.heard(publisher.heard_somewhere(outcome), said_gone(outcome))
        if world.is_synced:
            publisher.publish(outcome)

    async def _set_sessions(self, wanted: Mapping[str, Lease], parts: Parts) -> None:
        """Let these sessions into the tunnel, and no others."""
        sessions = parts.sessions
        for name, entry in list(self.book.sessions.items()):
            lease = wanted.get(name)
            if lease is not None and lease.public_key == entry.session.public_key:
                self._leaving.pop(name, None)
                continue
            since = self._leaving.setdefault(name, time.monotonic())
            waited = time.monotonic() - since >= LEAVING_SECONDS
            if lease is None and not (waited and parts.ledger.open_to(name) == 0):
                continue
            self._leaving.pop(name, None)
            self.book.drop_session(name)
            await sessions.drop(entry.session)
        for name, lease in wanted.items():
            if name in self.book.sessions:
                sessions.tell(name)  # its intercepts may have other ports now
                continue
            session = Session(name, lease.user, lease.public_key, created=lease.created)
            self.book.add_session(session)
            try:
                await sessions.admit(session)
            except TpnetError as error:
                self.book.drop_session(name)
                _log.warning("session %s cannot be let in: %s", name, error.message)


def said_gone(outcome: Outcome) -> set[str]:
    """The sessions that are live here, of which another agent has said in a condition that they are gone."""
    return {
        case.wish.spec.session
        for case in outcome.cases.values()
        if case.session is LeaseState.LIVE
        and any(one.reason == SESSION_GONE for one in case.wish.report.conditions)
    }


def wanted_sessions(outcome: Outcome) -> dict[str, Lease]:
    """The sessions that intercepts of this node go to. One that has lost to another may win at any time."""
    return {
        case.lease.name: case.lease
        for case in outcome.cases.values()
        if case.spots
        and case.lease is not None
        and case.session is LeaseState.LIVE
        and not (case.problem is not None and case.problem.reason == REFUSED)
    }


class ReadOnly(Answers):
    """``tpnet.control.local.server.Backend`` of an agent that takes its orders from a cluster."""

    async def register_session(self, session: Session) -> SessionGrant:
        """Refused."""
        del session
        _refuse()

    async def renew_session(self, name: str, handlers: Mapping[str, bool]) -> float:
        """Refused."""
        del name, handlers
        _refuse()

    async def end_session(self, name: str) -> None:
        """Refused."""
        del name
        _refuse()

    async def create_intercept(self, intercept: Intercept) -> InterceptStatus:
        """Refused."""
        del intercept
        _refuse()

    async def delete_intercept(self, name: str, user: str, force: bool) -> dict[str, int]:
        """Refused."""
        del name, user, force
        _refuse()


def _refuse() -> NoReturn:
    raise Refused(
        "This agent takes its orders from the cluster.",
        "Use the command on a computer with a kubeconfig: it makes the objects that the agents follow.",
    )
