"""Sessions, and whether they live. asyncio.

An agent asks for a session when an intercept first names it, and after that only while its tunnel is dead: thousands
of agents must not hear of every renewal. Whether it is still there although its tunnel lives, the two agents that
answer for an intercept of it ask once a minute, and the others when one says that it is gone: who removes a session need
not wait for its computer to agree. It must never end a session by comparing clocks of two machines: a lease is over when
it was seen unchanged for its length.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tpnet.agent.cluster.decide import UNKNOWN, LeaseState, Standing
from tpnet.agent.cluster.facts import lease_of
from tpnet.control.kubernetes.resources import SESSIONS, SYSTEM_NAMESPACE
from tpnet.model import NotThere, TpnetError
from tpnet.tunnel import check_public_key

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from tpnet.control.kubernetes.api import Api

_log = logging.getLogger(__name__)

LOOK_EVERY = 0.5
"""Seconds between two looks at who is to be asked for."""
MARGIN = (0.5, 2.5)
"""Seconds beyond the end of a lease until it is looked at, spread."""
CHECK_EVERY = (45.0, 75.0)
"""Seconds until a session whose tunnel lives is asked for again by the agents that answer for it, spread."""
AGAIN = 15.0
"""Seconds until a session that has ended is asked for again: its computer may have slept."""
_ASK_SECONDS = 10.0
"""Seconds that one question may take. None waits for another's."""


@dataclass(slots=True)
class _Entry:
    """``seen_at``: when the renewal of ``standing`` was first seen. ``since``: since when it stands so.

    ``ours``: this agent asks for it also while its tunnel lives. ``doubted``: another has said that it is gone.
    """

    standing: Standing = UNKNOWN
    seen_at: float = 0.0
    since: float = 0.0
    due: float = 0.0
    asked_at: float = 0.0
    alive: bool = False
    ours: bool = False
    doubted: bool = False


class Leases:
    """``changed()`` is called when a session's standing has changed. ``clock`` is monotonic."""

    def __init__(
        self, api: Api, changed: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._api = api
        self._changed = changed
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._wake = asyncio.Event()

    def want(self, names: Iterable[str], ours: Collection[str] = ()) -> None:
        """These sessions are named by intercepts that concern this node, and no others; ``ours`` it answers for."""
        names = set(names)
        for name in self._entries.keys() - names:
            del self._entries[name]
        for name in names - self._entries.keys():
            self._entries[name] = _Entry(since=self._clock())
            self._wake.set()
        for name, entry in self._entries.items():
            entry.ours = name in ours

    def heard(self, alive: Callable[[str], bool], doubted: Collection[str] = ()) -> None:
        """``alive(name)``: whether any agent hears a session's heartbeat at this moment.

        ``doubted`` are those of which an agent has said that they are gone.
        """
        now = self._clock()
        for name, entry in self._entries.items():
            if name in doubted and not entry.doubted and now - entry.asked_at > AGAIN:
                entry.doubted = True
                entry.due = now + random.uniform(0.0, 1.0)  # noqa: S311 - spreads load
            was, entry.alive = entry.alive, alive(name)
            if was and not entry.alive:
                entry.due = now + random.uniform(0.0, 1.0)  # noqa: S311 - spreads load
                entry.seen_at = now  # it was there until now, whether it could renew or not

    def standings(self) -> dict[str, Standing]:
        """Every session that is wanted."""
        return {name: entry.standing for name, entry in self._entries.items()}

    def ended_for(self, name: str) -> float:
        """For how many seconds a session has been over or gone; 0 while it is not."""
        entry = self._entries.get(name)
        if entry is None or entry.standing.state not in {LeaseState.OVER, LeaseState.GONE}:
            return 0.0
        return self._clock() - entry.since

    async def run(self) -> None:
        """Ask until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                now = self._clock()
                due = [
                    name
                    for name, entry in self._entries.items()
                    if entry.due <= now
                    and (
                        entry.ours
                        or entry.doubted
                        or not (entry.alive and entry.standing.state is LeaseState.LIVE)
                    )
                ]
                for name in due:
                    self._entries[name].due = now + _ASK_SECONDS  # until it is answered
                    group.create_task(self._ask(name))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY):
                        await self._wake.wait()
                self._wake.clear()

    async def _ask(self, name: str) -> None:
        entry = self._entries.get(name)
        if entry is None:
            return
        entry.asked_at, entry.doubted = self._clock(), False
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                item = await self._api.get(SESSIONS, name, SYSTEM_NAMESPACE)
            if "deletionTimestamp" in item["metadata"]:
                self._take(name, Standing(LeaseState.GONE), AGAIN)  # whatever keeps it from going
                return
            lease = lease_of(item)
            check_public_key(lease.public_key)
        except TimeoutError:
            self._unanswered(name, "no answer in time")
            return
        except TpnetError as error:
            if (
                isinstance(error, NotThere) and '" not found' in error.message
            ):  # it, and not its kind or the server
                self._take(name, Standing(LeaseState.GONE), AGAIN)
            else:
                self._unanswered(name, error.message)
            return
        entry = self._entries.get(name)
        if entry is None:
            return
        now = self._clock()
        before = entry.standing.lease
        if before is None or (before.uid, before.renew_time) != (lease.uid, lease.renew_time):
            entry.seen_at = now
        left = entry.seen_at + lease.seconds - now
        margin = random.uniform(*MARGIN)  # noqa: S311 - spreads load
        was_live = entry.standing.state is LeaseState.LIVE and before is not None and before.uid == lease.uid
        if entry.alive and was_live:
            # It cannot renew, but it is there. Only who hears nothing of it goes by the lease.
            self._take(name, Standing(LeaseState.LIVE, lease), random.uniform(*CHECK_EVERY))  # noqa: S311
        elif left > 0:
            self._take(name, Standing(LeaseState.LIVE, lease), left + margin)
        else:
            self._take(name, Standing(LeaseState.OVER, lease), AGAIN)

    def _unanswered(self, name: str, why: str) -> None:
        if (entry := self._entries.get(name)) is not None:
            entry.due = self._clock() + random.uniform(2.0, 4.0)  # noqa: S311 - spreads load
            entry.seen_at = self._clock()  # while nobody answers us, nobody can renew
            _log.debug("session %s: %s", name, why)

    def _take(self, name: str, standing: Standing, wait: float) -> None:
        entry = self._entries.get(name)
        if entry is None:
            return
        now = self._clock()
        entry.due = now + wait
        before, entry.standing = entry.standing, standing
        if before.state is not standing.state:
            entry.since = now
            if standing.state is not LeaseState.LIVE:
                _log.info("session %s is %s", name, standing.state)
        if before != standing:
            self._changed()
