"""The endpoints of intercepted services, kept current: one watch for each service. asyncio.

``tpnet.agent.cluster.controller`` says which services. It must never watch the endpoints of a service that nobody
intercepts.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tpnet.agent.cluster.facts import endpoints_of
from tpnet.control.kubernetes.api import label_is
from tpnet.control.kubernetes.informer import Informer, only_identity
from tpnet.control.kubernetes.resources import ENDPOINT_SLICES

if TYPE_CHECKING:
    from collections.abc import Callable

    from tpnet.agent.cluster.facts import Endpoint, Key, Object
    from tpnet.control.kubernetes.api import Api

_SERVICE = "kubernetes.io/service-name"


class _Watch:
    """One service's slices."""

    def __init__(self, api: Api, service: Key, changed: Callable[[Key], None]) -> None:
        self._service = service
        self._told = changed
        self._parts: dict[str, tuple[Endpoint, ...]] = {}
        self.informer = Informer(
            api,
            ENDPOINT_SLICES,
            self._changed,
            namespace=service[0],
            labels=label_is(_SERVICE, service[1]),
            slim=only_identity,
        )
        self.tasks = [asyncio.create_task(self.informer.run()), asyncio.create_task(self._first())]

    def endpoints(self) -> tuple[Endpoint, ...]:
        return tuple(one for name in sorted(self._parts) for one in self._parts[name])

    async def _first(self) -> None:
        await self.informer.synced.wait()
        self._told(self._service)  # also when there are none

    def _changed(self, key: Key, item: Object | None) -> None:
        if item is None:
            self._parts.pop(key[1], None)
        else:
            self._parts[key[1]] = endpoints_of(item)
        if self.informer.synced.is_set():
            self._told(self._service)


class Slices:
    """``changed(service)`` is called when its endpoints have changed, and when they are first known."""

    def __init__(self, api: Api, changed: Callable[[Key], None]) -> None:
        self._api = api
        self._changed = changed
        self._watches: dict[Key, _Watch] = {}

    def want(self, services: set[Key]) -> None:
        """Follow these and no others."""
        for key in self._watches.keys() - services:
            for task in self._watches.pop(key).tasks:
                task.cancel()
        for key in services - self._watches.keys():
            self._watches[key] = _Watch(self._api, key, self._changed)

    def known(self) -> dict[Key, tuple[Endpoint, ...]]:
        """The endpoints of every service whose list has come."""
        return {
            key: watch.endpoints() for key, watch in self._watches.items() if watch.informer.synced.is_set()
        }

    async def close(self) -> None:
        """Follow none."""
        tasks = [task for watch in self._watches.values() for task in watch.tasks]
        self.want(set())
        await asyncio.gather(*tasks, return_exceptions=True)
