"""Where an agent's intercepts come from: people at its control socket, or a cluster.

The supervisor starts one ``Orders`` and looks after everything else. It must never depend on which one it is.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from tpnet.agent.calls import Calls
from tpnet.control.local.store import Store
from tpnet.model import AgentStatus, Intercept, InterceptStatus, Session, SessionGrant
from tpnet.model.codec import prepare

if TYPE_CHECKING:
    from tpnet.agent.answers import Parts
    from tpnet.agent.book import Book
    from tpnet.control.local.server import Backend


class Orders(Protocol):
    """Called in the supervisor's event loop: ``prepare`` and ``begin`` first, ``stop`` and ``end`` last.

    ``end`` may come without any of the others.
    """

    overlaps: bool
    """Whether the next agent may start on this node while this one waits for what is under way."""

    @property
    def book(self) -> Book:
        """What is wanted at this moment."""

    async def prepare(self) -> None:
        """Do what takes time while the rest of the agent is made. Raises ``TpnetError``."""

    async def begin(self, parts: Parts) -> Backend:
        """Take orders from now on; gives what answers at the control socket. Raises ``TpnetError``."""

    def glance(self) -> None:
        """Several times a second: targets may have become ready, or have ceased to be."""

    async def look(self) -> None:
        """Once a second: make up for what was missed. Raises ``TpnetError``, to be logged."""

    def session_changed(self) -> None:
        """A session's tunnel has come up or gone down."""

    async def stop(self) -> None:
        """Want nothing more. The targets are given back next."""

    async def end(self) -> None:
        """The targets have been given back, and their connections have ended."""


class LocalOrders:
    """Without a cluster: the control socket is all there is."""

    def __init__(self) -> None:
        self.book = Store()
        self.overlaps = True
        self._calls: Calls | None = None

    async def prepare(self) -> None:
        """See ``Orders``: sessions of an agent before this one are about to ask."""
        await asyncio.to_thread(prepare, AgentStatus, Session, SessionGrant, Intercept, InterceptStatus)

    async def begin(self, parts: Parts) -> Backend:
        """See ``Orders``."""
        self._calls = Calls(parts, self.book)
        return self._calls

    def glance(self) -> None:
        """See ``Orders``. Whoever wants to know asks."""

    async def look(self) -> None:
        """See ``Orders``: leases end, and targets that could not be raised are tried again."""
        if self._calls is not None:
            await self._calls.expire_sessions()
            await self._calls.reconcile()

    def session_changed(self) -> None:
        """See ``Orders``. Whoever wants to know asks."""

    async def stop(self) -> None:
        """See ``Orders``. Without a control socket nobody asks for anything."""

    async def end(self) -> None:
        """See ``Orders``. Nothing is kept elsewhere."""
