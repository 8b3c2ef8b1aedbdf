"""Objects that are asked for by name: services, workloads, namespaces. asyncio.

``tpnet.agent.cluster.controller`` says which it needs. Each is asked for at once when it is first needed, again when
that may have changed, and every half minute. It must never forget an answer because the API server went away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from tpnet.control.kubernetes.api import Unreachable
from tpnet.model import NotThere, TpnetError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tpnet.control.kubernetes.api import Api, Object, Resource

_log = logging.getLogger(__name__)

EVERY = 30.0
"""Seconds until an object is asked for again, spread by a quarter."""
SOONEST = 2.0
"""Seconds between two questions about one object, whatever happens."""
_AT_ONCE = 8
_RETRY, _RETRY_MOST = 1.0, 30.0


class Ref(NamedTuple):
    """One object."""

    resource: Resource
    namespace: str
    name: str


class Lookups:
    """``known`` has what ``read`` made of each object; ``None`` for one that is not there.

    ``changed()`` is called when an answer differs from the one before.
    """

    def __init__(
        self, api: Api, read: Callable[[Resource, Object], Any], changed: Callable[[], None]
    ) -> None:
        self._api = api
        self._read = read
        self._changed = changed
        self._due: dict[Ref, float] = {}
        self._asked: dict[Ref, float] = {}
        self._pause: dict[Ref, float] = {}
        self._asking: set[Ref] = set()
        self._wake = asyncio.Event()
        self.known: dict[Ref, Any] = {}

    def want(self, refs: set[Ref]) -> None:
        """These are needed from now on, and no others."""
        for ref in self._due.keys() - refs:
            for table in (self._due, self._asked, self._pause, self.known):
                table.pop(ref, None)
        for ref in refs - self._due.keys():
            self._due[ref] = 0.0
            self._wake.set()

    def refresh(self, ref: Ref) -> None:
        """It may have changed."""
        if ref in self._due:
            soon = self._asked.get(ref, 0.0) + SOONEST
            if soon < self._due[ref]:
                self._due[ref] = soon
                self._wake.set()

    async def run(self) -> None:
        """Ask until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                now = time.monotonic()
                for ref, due in list(self._due.items()):
                    if due <= now and ref not in self._asking and len(self._asking) < _AT_ONCE:
                        self._asking.add(ref)
                        group.create_task(self._ask(ref))
                self._wake.clear()
                waiting = [due for ref, due in self._due.items() if ref not in self._asking]
                pause = max(0.0, min(waiting) - time.monotonic()) if waiting else EVERY
                if pause == 0.0 and len(self._asking) >= _AT_ONCE:
                    pause = EVERY  # whoever has its answer wakes us
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()

    async def _ask(self, ref: Ref) -> None:
        self._asked[ref] = time.monotonic()
        wait = EVERY * random.uniform(0.75, 1.25)  # noqa: S311 - spreads load
        try:
            self._answer(
                ref, self._read(ref.resource, await self._api.get(ref.resource, ref.name, ref.namespace))
            )
            self._pause.pop(ref, None)
        except TpnetError as error:
            if isinstance(error, NotThere) and not isinstance(error, Unreachable):
                self._answer(ref, None)
            else:
                pause = self._pause.get(ref, _RETRY)
                self._pause[ref] = min(pause * 2, _RETRY_MOST)
                wait = pause * random.uniform(0.5, 1.5)  # noqa: S311 - spreads load
                _log.debug("%s %s/%s: %s", ref.resource.kind, ref.namespace, ref.name, error.message)
        finally:
            self._asking.discard(ref)
            if ref in self._due:
                self._due[ref] = time.monotonic() + wait
            self._wake.set()

    def _answer(self, ref: Ref, value: Any) -> None:
        if ref in self._due and (ref not in self.known or self.known[ref] != value):
            self.known[ref] = value
            self._changed()
