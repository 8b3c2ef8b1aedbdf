"""Copies of one's own intercepts, kept current: which agents serve them, and which of them wait for a session.

``client`` calls it, in the API's event loop but for what is only read. It must never keep more than one user's.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from tpnet.control.kubernetes.api import label_is
from tpnet.control.kubernetes.informer import Informer
from tpnet.control.kubernetes.resources import INTERCEPTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tpnet.control.kubernetes.api import Api, Object

SESSION_LABEL = "tpnet.dev/session"
"""The label of an Intercept with its session's name: by it the daemon watches its own alone."""
COPY_SECONDS = 1.0
"""Seconds that ``caught_up`` waits."""


class Copies:
    """By namespace and session; the session ``""`` stands for intercepts that no session has taken."""

    def __init__(self, api: Api) -> None:
        """Follows nothing yet."""
        self._api = api
        self._informers: dict[tuple[str, str], tuple[Informer, asyncio.Task[None]]] = {}
        self._moved = asyncio.Event()

    async def follow(self, namespace: str, session: str, changed: Callable[[], None]) -> None:
        """Keep a copy of a session's intercepts in ``namespace``; ``changed`` is called at each change.

        Of a session that is followed already nothing changes. Whatever is followed for other sessions than this one
        is let go of: a user's daemon has one at a time.
        """
        if (namespace, session) in self._informers:
            return

        def moved(_key: object, _item: object) -> None:
            self._moved.set()
            changed()

        labels = label_is(SESSION_LABEL, session) if session else f"!{SESSION_LABEL}"
        informer = Informer(self._api, INTERCEPTS, moved, namespace=namespace, labels=labels)
        task = asyncio.get_running_loop().create_task(informer.run())
        self._informers[namespace, session] = informer, task
        former = [key for key in self._informers if session and key[1] not in {"", session}]
        await self._end([self._informers.pop(key)[1] for key in former])

    def namespaces(self, session: str) -> list[str]:
        """Where a session's intercepts are followed."""
        return [namespace for namespace, followed in list(self._informers) if followed == session]

    def objects(self, session: str, namespace: str = "") -> list[Object]:
        """A session's intercepts, in one namespace or all, as far as they are known. Any thread may ask."""
        return [
            item
            for (where, followed), (informer, _) in list(self._informers.items())
            if followed == session and namespace in {"", where}
            for item in list(informer.objects.values())
        ]

    async def caught_up(self, item: Object) -> None:
        """Wait, not for long, until the copy is as far as ``item``, which was read elsewhere, in what agents said."""
        meta = item["metadata"]
        followed = self._informers.get((meta["namespace"], item["spec"]["session"]))
        if followed is None:
            return
        objects, key = followed[0].objects, (meta["namespace"], meta["name"])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(COPY_SECONDS):
                while not nodes_of(item) <= nodes_of(objects.get(key, {})):
                    self._moved.clear()
                    await self._moved.wait()

    async def close(self) -> None:
        """Follow nothing any more."""
        await self._end([task for _, task in self._informers.values()])
        self._informers.clear()

    @staticmethod
    async def _end(tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def nodes_of(obj: Object) -> set[str]:
    """The nodes whose agents have said something of an intercept."""
    return {part["node"] for part in (obj.get("status") or {}).get("nodes") or ()}
