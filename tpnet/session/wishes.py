"""The intercepts that a session stands for: what the user wants, kept true at the agent.

The session daemon calls this. Level-triggered: whatever the agent forgot is told it again, whatever
somebody removed there is let go of here. It must never leave a door open that no intercept of ours stands
behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tpnet.model import (
    Conflict,
    Intercept,
    InterceptStatus,
    InvalidInput,
    NotThere,
    TpnetError,
    parse_handler,
)
from tpnet.session.client import END_SECONDS
from tpnet.session.forward import PATIENCE, Forward
from tpnet.session.handlers import HandlerWatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from tpnet.control.base import Control
    from tpnet.model import Handler
    from tpnet.session.cluster import ClusterPresence
    from tpnet.session.presence import Presence

    AnyPresence = Presence | ClusterPresence

FIRST_PORT, LAST_PORT = 20000, 29999
"""TCP ports at the tunnel address, taken in turn: one just given up is not soon another handler's."""
_LATE_COMERS = 0.2
"""Seconds that the door of a removed intercept stays open, for requests that were decided just before."""
_FIRST_WISH_SECONDS = 5.0
_DIAL_SHARE = 0.7
"""Of the time that a request waits: what a dial to its handler may take. The rest is the tunnel's."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Wish:
    """An intercept, its door, and whether the agent has it. ``problem`` says why not."""

    intercept: Intercept
    handler: Handler
    door: Forward
    standing: bool = False
    problem: str = ""


class Wishes:
    """All of one session's intercepts, and the session itself."""

    def __init__(self, control: Control, make_presence: Callable[..., AnyPresence]) -> None:
        """``make_presence`` takes ``handlers``, ``restored``, ``renewed`` and ``busy``, as ``Presence`` does."""
        self._control = control
        self._watch = HandlerWatch(self._handler_changed)
        self._presence = make_presence(
            handlers=self._handlers, restored=self._restore, renewed=self._compare, busy=self._busy
        )
        self._wishes: dict[str, _Wish] = {}
        self._closing: dict[Forward, float] = {}
        self._kept = False
        self._passed: dict[str, str] = {}  # what waits for a session and cannot have this one, and why
        self._ending = False
        self._untold: set[str] = set()  # removed while no agent answered
        self._lock = asyncio.Lock()
        self._next_port = FIRST_PORT
        self._started = time.time()
        self._patience = time.monotonic() + _FIRST_WISH_SECONDS

    async def open(self) -> None:
        """Open the session. Raises ``TpnetError``."""
        try:
            await self._presence.open()
        except BaseException:
            self._watch.close()
            raise
        self._patience = time.monotonic() + _FIRST_WISH_SECONDS

    async def run(self) -> None:
        """Keep everything standing until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._presence.run())
            group.create_task(self._watch.run())
            group.create_task(self._drain())

    async def close(self) -> None:
        """End the session, its intercepts with it; what is under way has ``END_SECONDS`` to be answered.

        Raises ``TpnetError`` when the agent cannot be told.
        """
        try:
            await self.withdraw()
            await self.finish()
            await self._presence.end()
        finally:
            for door in self._doors():
                door.close()
            self._watch.close()

    async def withdraw(self) -> dict[str, str]:
        """Remove the intercepts while there are still doors for the requests that were decided just before.

        Those that cannot be removed, and why; they go with the session.
        """
        self._ending = True  # from now on nothing is made again that is missing
        behind: dict[str, str] = {}
        async with self._lock:
            standing = [wish for wish in self._wishes.values() if wish.standing]
            for wish in standing:
                name = wish.intercept.name
                try:
                    await asyncio.to_thread(self._control.delete_intercept, name, self._presence.user)
                    wish.standing = False
                except NotThere:
                    wish.standing = False
                except TpnetError as error:
                    behind[name] = error.message
        if standing:
            await asyncio.sleep(_LATE_COMERS)
        return behind

    async def finish(self) -> int:
        """Accept no more, and let what is open end, for ``END_SECONDS``. How many had to be cut off."""
        doors = self._doors()
        for door in doors:
            door.shut()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                while any(door.open for door in doors):  # noqa: ASYNC110 - a look costs nothing
                    await asyncio.sleep(0.05)
        cut = sum(door.open for door in doors)
        for door in doors:
            door.close()
        return cut

    @property
    def idle(self) -> bool:
        """Whether nobody wants anything any more, and nothing is on its way."""
        busy = self._wishes or self._closing or self._lock.locked() or self._kept
        return not busy and time.monotonic() > self._patience

    def stay(self) -> None:
        """Somebody is about to ask for an intercept: do not end for want of one just now."""
        self._patience = max(self._patience, time.monotonic() + _FIRST_WISH_SECONDS)

    async def follow(self, namespace: str) -> None:
        """Serve what kubectl makes in ``namespace``, and stay for that until told to end. Raises ``TpnetError``."""
        await self._presence.follow(namespace)
        self._kept = True

    async def add(self, draft: Intercept) -> InterceptStatus:
        """Open a door and create the intercept. Raises ``TpnetError``, leaving nothing."""
        handler = parse_handler(draft.handler)
        if draft.user != self._presence.user:
            raise InvalidInput(f"This is the session of {self._presence.user}, not of {draft.user}.")
        async with self._lock:
            if draft.name in self._wishes:
                raise Conflict(
                    f"You have an intercept {draft.name} already.",
                    f"Leave it first (tpnet leave {draft.name}), or give this one another --name.",
                )
            port = self._free_port()
            door = self._door(draft, handler, port)
            intercept = dataclasses.replace(
                draft, session=self._presence.name, handler=str(handler), tunnel_port=port
            )
            wish = _Wish(intercept, handler, door)
            try:
                problem = await self._watch.add(draft.name, handler)
                status = await self._create(wish)
            except BaseException:
                self._watch.remove(draft.name)
                door.close()
                raise
            self._wishes[draft.name] = wish
            self._untold.discard(draft.name)
        log.info("intercept %s of %s stands, for %s", draft.name, draft.target, handler)
        with contextlib.suppress(TpnetError):  # the keeper of the lease finds out by itself
            await self._presence.settled()
        return dataclasses.replace(
            status, handler_up=not problem, handler_problem=problem, session_up=self._presence.up
        )

    async def remove(self, name: str) -> dict[str, Any]:
        """Remove an intercept; its connections end in their own time. See ``SessionClient.remove``.

        It is let go of here even while no agent answers. Raises ``NotThere`` and what the agent raises.
        """
        async with self._lock:
            wish = self._wishes.get(name)
            if wish is None:
                raise NotThere(f"This session has no intercept {name}.")
            try:
                await asyncio.to_thread(self._control.delete_intercept, name, self._presence.user)
                told = True
            except NotThere as error:
                told = await self._presence.agent_answers()
                log.info("intercept %s is removed here alone: %s", name, error)
            if not told:
                self._untold.add(name)
            self._forget(wish)
        return {
            "draining": wish.door.open,
            "last": not self._wishes and not self._kept,
            "told": told,
        }

    def info(self) -> dict[str, Any]:
        """What ``SessionClient.info`` returns, but for the process's own."""
        presence = self._presence
        facts: dict[str, Any] = {
            "session": presence.name,
            "user": presence.user,
            "started": self._started,
            "up": presence.up,
            "draining": sum(door.open for door in self._closing),
            "address": "",
            "wireguard": "",
            "agents": [
                {
                    "node": node,
                    "address": str(link.agent.address),
                    "endpoint": ":".join(map(str, link.endpoint or ())),
                    "up": link.up,
                    "rtt_ms": round(link.rtt_ms, 2),
                    "mtu": link.path,
                }
                for node, link in sorted(presence.links().items())
            ],
        }
        first = facts["agents"][0] if facts["agents"] else {"endpoint": "", "address": "", "rtt_ms": 0.0}
        facts["endpoint"], facts["rtt_ms"] = first["endpoint"], first["rtt_ms"]
        facts["agent_address"] = first["address"]
        with contextlib.suppress(TpnetError):
            end = presence.tunnel
            facts["address"], facts["wireguard"] = str(end.address), end.reason
        facts["intercepts"] = [
            {
                "name": name,
                "handler": str(wish.handler),
                "handler_up": not self._watch.problem(name),
                "handler_problem": self._watch.problem(name),
                "tunnel_port": wish.intercept.tunnel_port,
                "open": wish.door.open,
                "total": wish.door.total,
                "refused": wish.door.refused,
                "problem": wish.problem,
            }
            for name, wish in sorted(self._wishes.items())
        ]
        return facts

    def _doors(self) -> list[Forward]:
        return [*self._closing, *(wish.door for wish in self._wishes.values())]

    def _busy(self, agent: str) -> bool:
        return any(door.open_from(agent) for door in self._doors())

    def _free_port(self) -> int:
        taken = {door.port for door in self._closing}
        taken |= {wish.intercept.tunnel_port for wish in self._wishes.values()}
        while True:
            port = self._next_port
            self._next_port = port + 1 if port < LAST_PORT else FIRST_PORT
            if port not in taken:
                return port

    def _door(self, intercept: Intercept, handler: Handler, port: int) -> Forward:
        """A door at the tunnel address. Raises ``TpnetError``."""

        def patience() -> float:
            # Of a handler that is known not to listen, nobody waits long to hear it.
            return (
                PATIENCE if self._watch.problem(intercept.name) else _DIAL_SHARE * intercept.connect_timeout
            )

        end = self._presence.tunnel
        listener = end.socket()
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((str(end.address), port))
            return Forward(listener, self._presence.is_agent, handler, self._watch.look_now, patience, end)
        except OSError as error:
            listener.close()
            raise TpnetError(f"Port {port} of the tunnel cannot be opened: {error.strerror}.") from error
        except BaseException:
            listener.close()
            raise

    def _handlers(self) -> dict[str, bool]:
        return {name: not self._watch.problem(name) for name, wish in self._wishes.items() if wish.standing}

    def _handler_changed(self) -> None:
        self._presence.wake()

    async def _create(self, wish: _Wish) -> InterceptStatus:
        await self._presence.expect(wish.intercept)
        status = await asyncio.to_thread(self._control.create_intercept, wish.intercept)
        wish.standing, wish.problem = True, ""
        return status

    def _forget(self, wish: _Wish) -> None:
        """Let go of a wish; its door stays open a while for what was decided before."""
        del self._wishes[wish.intercept.name]
        self._watch.remove(wish.intercept.name)
        self._closing[wish.door] = time.monotonic()
        self._patience = 0.0

    async def _restore(self) -> None:
        """The agent has a new session of ours: open every door anew, and create every intercept."""
        async with self._lock:
            self._untold.clear()
            there = await self._there()
            for name, wish in self._wishes.items():
                wish.standing = name in there
                wish.intercept = dataclasses.replace(wish.intercept, session=self._presence.name)
                # What an earlier agent has open in the same tunnel goes on.
                if wish.door.tunnel is not self._presence.tunnel:
                    wish.door.close()
                    wish.door = self._door(wish.intercept, wish.handler, wish.intercept.tunnel_port)
            await self._create_missing()
        await self._presence.renew()

    async def _create_missing(self) -> None:
        for wish in self._wishes.values():
            if wish.standing:
                continue
            try:
                await self._create(wish)
                log.info("intercept %s stands again", wish.intercept.name)
            except TpnetError as error:
                if wish.problem != error.message:
                    log.warning("intercept %s: %s", wish.intercept.name, error)
                wish.problem = error.message

    async def _compare(self) -> None:
        """After a renewal: create what is missing, and let go of what was removed at the agent, or here."""
        if self._ending or self._lock.locked() or not (self._wishes or self._untold or self._kept):
            return
        async with self._lock:
            for draft in await self._presence.unclaimed():
                await self._adopt(draft)
            await self._create_missing()
            there = await self._there()
            for name, wish in list(self._wishes.items()):
                if wish.standing and name not in there:
                    log.warning("intercept %s was removed at the agent", name)
                    self._forget(wish)
            for name in self._untold & there:
                with contextlib.suppress(NotThere):
                    await asyncio.to_thread(self._control.delete_intercept, name, self._presence.user)
                log.info("intercept %s is removed at the agent too", name)
            self._untold.clear()

    async def _adopt(self, draft: Intercept) -> None:
        """Open a door for an intercept that waits for a session, and take it."""
        if draft.name in self._wishes:
            return
        try:
            handler = parse_handler(draft.handler)
            port = self._free_port()
            door = self._door(draft, handler, port)
            intercept = dataclasses.replace(
                draft, session=self._presence.name, handler=str(handler), tunnel_port=port
            )
            try:
                await self._watch.add(draft.name, handler)
                await self._presence.claim(intercept)
            except BaseException:
                self._watch.remove(draft.name)
                door.close()
                raise
        except TpnetError as error:
            if self._passed.get(draft.name) != error.message:
                log.warning("intercept %s waits: %s", draft.name, error)
            self._passed[draft.name] = error.message
            return
        self._passed.pop(draft.name, None)
        self._wishes[draft.name] = _Wish(intercept, handler, door, standing=True)
        log.info("intercept %s of %s is taken, for %s", draft.name, draft.target, handler)

    async def _there(self) -> set[str]:
        """The names of this session's intercepts that the agent has."""
        return await asyncio.to_thread(self._control.standing, self._presence.name)

    async def _drain(self) -> None:
        """Close doors of removed intercepts when their connections have ended."""
        while True:
            await asyncio.sleep(0.1)
            now = time.monotonic()
            for door, since in list(self._closing.items()):
                if now - since > _LATE_COMERS:
                    door.shut()
                    if not door.open:
                        del self._closing[door]
