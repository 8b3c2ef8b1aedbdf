"""Carries out what people and sessions ask over the control socket, without a cluster.

``tpnet.control.local.server`` calls it in the supervisor's event loop. It must never leave half of an
intercept behind: one that could not be made on every target is withdrawn from all.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from tpnet.agent.answers import Answers, what_listens, with_targets
from tpnet.datapath.listening import listening
from tpnet.model import NotThere

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tpnet.agent.answers import NetNsKey, Parts
    from tpnet.control.local.store import Store
    from tpnet.datapath.target import Target
    from tpnet.model import Intercept, InterceptStatus, Session, SessionGrant

_log = logging.getLogger(__name__)


class Calls(Answers):
    """``tpnet.control.local.server.Backend``; see ``tpnet.control.Control`` for what each call does.

    ``store`` is the book of ``parts``.
    """

    def __init__(self, parts: Parts, store: Store) -> None:
        super().__init__(parts)
        self._store = store
        self._registering = asyncio.Lock()
        self._creating = asyncio.Lock()  # so that no two take one namespace under two names

    async def register_session(self, session: Session) -> SessionGrant:
        """See ``Control``."""
        store, sessions = self._store, self._parts.sessions
        async with self._registering:
            store.check_session(session)
            await self._end(session.name)
            session = store.add_session(session)
            try:
                grant = await sessions.add(session)
            except BaseException:
                await self._end(session.name)
                raise
        _log.info("session %s of %s begins", session.name, session.user)
        return grant

    async def renew_session(self, name: str, handlers: Mapping[str, bool]) -> float:
        """See ``Control``."""
        lease = self._store.renew(name, handlers)
        self._parts.sessions.tell(name)
        return lease

    async def end_session(self, name: str) -> None:
        """See ``Control``."""
        async with self._registering:
            await self._end(name)

    async def expire_sessions(self) -> None:
        """End the sessions whose lease is over."""
        for name in self._store.overdue():
            _log.warning("the lease of session %s is over", name)
            await self.end_session(name)

    async def _end(self, name: str) -> None:
        store = self._store
        entry = store.sessions.get(name)
        if entry is None:
            return
        dropped = store.drop_session(name)
        _log.info("session %s ends, and with it %d intercepts", name, len(dropped))
        await self.reconcile()
        await self._parts.sessions.drop(entry.session)

    async def create_intercept(self, intercept: Intercept) -> InterceptStatus:
        """See ``Control``."""
        self._store.check_intercept(intercept)
        async with self._creating:
            return await self._create(intercept)

    async def _create(self, intercept: Intercept) -> InterceptStatus:
        parts = self._parts
        store = self._store
        look = functools.partial(_look_for, intercept.port)
        found = await asyncio.to_thread(with_targets, intercept.target, look)
        names = tuple(self.known_name(name, key) for name, key in found)
        await parts.workers.wait_ready()
        intercept = store.add(replace(intercept, targets=names))
        try:
            await self.reconcile()
            parts.targets.check((name, intercept.port) for name in names)
            store.activate(intercept)
            parts.sessions.tell(intercept.session)
            await self.reconcile()
        except BaseException:
            store.withdraw(intercept)
            await self.reconcile()
            raise
        _log.info("%s's intercept %s stands on port %d of %s", *_words(intercept))
        return self.status_of(intercept)

    async def delete_intercept(self, name: str, user: str, force: bool) -> dict[str, int]:
        """See ``Control``."""
        parts = self._parts
        intercept = self._store.remove(name, user, force=force)
        wanted = self._store.desired()
        draining = 0
        for target in intercept.targets:
            key = (target, intercept.port)
            door = parts.targets.door(key)
            if door is not None and key not in wanted:
                draining += parts.ledger.target(door.number).get("open", 0)
        _log.info("%s's intercept %s is removed by %s", intercept.user, name, user)
        await self.reconcile()
        parts.sessions.tell(intercept.session)
        return {"draining": draining}


def _words(intercept: Intercept) -> tuple[str, str, int, str]:
    return intercept.user, intercept.name, intercept.port, ", ".join(intercept.targets)


def _look_for(port: int, target: Target) -> tuple[str, NetNsKey]:
    """The target's name, if something listens on the port, be it for the namespace itself only."""
    there = set(listening(target.netns))
    if port not in there:
        raise NotThere(f"Nothing listens on port {port} of {target.name}.", what_listens(there))
    return target.name, target.netns.key
