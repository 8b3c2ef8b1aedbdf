"""A copy of the API's objects of one kind, kept current: list, then watch, then again. asyncio.

Agents and the session daemon run one for each kind (and selection) they follow. It must never forget an object
because the API server went away, and never come back to a restarted one all at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from typing import TYPE_CHECKING, Any

from tpnet.control.kubernetes.api import Gone
from tpnet.model import Refused, TpnetError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tpnet.control.kubernetes.api import Api, Object, Resource

_log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0
"""Seconds before asking again after a failure; it doubles, and is spread by half."""
WATCH_SECONDS = (300, 600)
"""A watch lasts between so many seconds, so that thousands do not begin anew together."""

Key = tuple[str, str]
"""Namespace and name."""


class Informer:
    """``objects`` is what there is, by namespace and name.

    ``changed(key, object)`` is called in the event loop after each change, with ``None`` for what is gone.
    ``synced`` is set after the first list. ``slim`` makes of an object what is kept in ``objects``, its metadata at
    least: whoever takes what matters in ``changed`` need not have all of it in memory.
    """

    def __init__(
        self,
        api: Api,
        resource: Resource,
        changed: Callable[[Key, Object | None], None],
        *,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        slim: Callable[[Object], Object] = lambda item: item,
    ) -> None:
        self.objects: dict[Key, Object] = {}
        self.synced = asyncio.Event()
        self.trouble = ""
        """Why it is not current at this moment."""
        self._api = api
        self._resource = resource
        self._changed = changed
        self._slim = slim
        self._where: dict[str, Any] = {"namespace": namespace, "labels": labels, "fields": fields}

    async def run(self) -> None:
        """Follow until cancelled. Never ends by itself."""
        pause = FIRST_PAUSE
        version = ""
        while True:
            try:
                if not version:
                    version = await self._list()
                    self.synced.set()
                async for seen in self._watch(version):
                    version, pause = seen, FIRST_PAUSE
            except Gone:
                # All that follow are told so at once, by an API server that has restarted: they come back spread.
                version = ""
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - spreads load
                pause = min(pause * 2, LONGEST_PAUSE)
            except TpnetError as error:
                self._ill(error)
                if isinstance(error, Refused):
                    version = ""
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - spreads load
                pause = min(pause * 2, LONGEST_PAUSE)

    async def _list(self) -> str:
        items, version = await self._api.list(self._resource, **self._where)
        found = {key_of(item): item for item in items}
        for key in self.objects.keys() - found.keys():
            del self.objects[key]
            self._tell(key, None)
        for key, item in found.items():
            before = self.objects.get(key)
            self.objects[key] = self._slim(item)
            if before is None or _version(before) != _version(item):
                self._tell(key, item)
        return version

    async def _watch(self, version: str) -> AsyncIterator[str]:
        """Take events, and give the version after each."""
        seconds = random.randint(*WATCH_SECONDS)  # noqa: S311 - spreads load
        events = self._api.watch(self._resource, version, seconds=seconds, opened=self._well, **self._where)
        async with contextlib.aclosing(events):
            async for kind, item in events:
                if kind == "DELETED":
                    self.objects.pop(key_of(item), None)
                    self._tell(key_of(item), None)
                elif kind != "BOOKMARK":
                    self.objects[key_of(item)] = self._slim(item)
                    self._tell(key_of(item), item)
                yield _version(item)

    def _tell(self, key: Key, item: Object | None) -> None:
        try:
            self._changed(key, item)
        except Exception:  # noqa: BLE001 - a fault of ours must not end the watch
            _log.exception("a change of %s %s could not be taken", self._resource.long_name, "/".join(key))

    def _ill(self, error: TpnetError) -> None:
        if self.trouble != error.message:
            _log.warning("%s: %s", self._resource.long_name, error.message)
        self.trouble = error.message

    def _well(self) -> None:
        if self.trouble:
            _log.info("%s: current again", self._resource.long_name)
        self.trouble = ""


def key_of(item: Object) -> Key:
    """Namespace and name of an object."""
    meta = item["metadata"]
    return meta.get("namespace", ""), meta["name"]


def _version(item: Object) -> str:
    return str(item["metadata"]["resourceVersion"])


def only_identity(item: Object) -> Object:
    """For ``Informer``'s ``slim``: what it needs itself, and nothing else."""
    meta = item["metadata"]
    kept = {name: meta[name] for name in ("namespace", "name", "resourceVersion") if name in meta}
    return {"metadata": kept}
