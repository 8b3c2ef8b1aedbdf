"""Writes to the API server: each thing's latest, one at a time, again until it is in. asyncio.

``tpnet.agent.cluster.controller`` puts them. It must never write the same thing again in a tight loop because the
watch has not shown it yet, nor all at once when the API server is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tpnet.control.kubernetes.api import Unreachable
from tpnet.model import Conflict, NotThere, TpnetError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

_log = logging.getLogger(__name__)

AT_ONCE = 4
"""Writes under way at the same time."""
SHOWN_WITHIN = 5.0
"""Seconds that the watch has to show what was written before it is written again."""
_RETRY, _RETRY_MOST = 0.5, 30.0


@dataclass(slots=True)
class _Entry:
    """``value`` is what is to be, or was, written; ``func`` writes it, ``None`` when that is done."""

    value: object = None
    func: Callable[[], Awaitable[object]] | None = None
    due: float = 0.0
    pause: float = _RETRY
    done_at: float = 0.0
    busy: bool = False
    trouble: str = ""


class Writer:
    """What is put under one key replaces what was, if that has not been written yet. ``writes`` counts them."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, _Entry] = {}
        self._wake = asyncio.Event()
        self.writes = 0

    def put(self, key: Hashable, value: object, func: Callable[[], Awaitable[object]]) -> None:
        """See that ``func`` is called; not if that was done for an equal ``value`` just now."""
        entry = self._entries.setdefault(key, _Entry())
        shown_by = entry.done_at + SHOWN_WITHIN if entry.done_at else 0.0
        under_way = entry.busy or entry.func is not None or time.monotonic() < shown_by
        if under_way and entry.value == value:
            return
        entry.value, entry.func = value, func
        self._wake.set()

    def written_at(self, key: Hashable) -> float:
        """The monotonic time of the last write under that key, 0 for never."""
        entry = self._entries.get(key)
        return entry.done_at if entry is not None else 0.0

    def forget(self, keep: Callable[[Hashable], bool]) -> None:
        """Drop what is not to be kept and not being written."""
        for key in [key for key, entry in self._entries.items() if not entry.busy and not keep(key)]:
            del self._entries[key]

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                now = time.monotonic()
                busy = sum(entry.busy for entry in self._entries.values())
                waiting = [
                    (key, entry)
                    for key, entry in self._entries.items()
                    if entry.func is not None and not entry.busy
                ]
                for key, entry in waiting:
                    if entry.due <= now and busy < AT_ONCE:
                        entry.busy = True
                        busy += 1
                        group.create_task(self._write(key, entry))
                later = [entry.due - now for _, entry in waiting if entry.due > now]
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(later, default=_RETRY_MOST)):
                        await self._wake.wait()
                self._wake.clear()

    async def _write(self, key: Hashable, entry: _Entry) -> None:
        func, entry.func = entry.func, None
        assert func is not None, "there is something to write"
        try:
            self.writes += 1
            await func()
        except TpnetError as error:
            self._failed(key, entry, error, func)
        else:
            entry.pause, entry.due, entry.trouble = _RETRY, 0.0, ""
        finally:
            entry.done_at = time.monotonic()
            entry.busy = False
            self._wake.set()

    def _failed(
        self, key: Hashable, entry: _Entry, error: TpnetError, func: Callable[[], Awaitable[object]]
    ) -> None:
        if isinstance(error, NotThere | Conflict) and not isinstance(error, Unreachable):
            return  # it is no more, or another by now
        if entry.trouble != error.message:
            entry.trouble = error.message
            _log.warning("%s could not be written: %s", key, error.message)
        if entry.func is None:
            entry.func = func
        entry.due = time.monotonic() + entry.pause * random.uniform(0.5, 1.5)  # noqa: S311 - spreads load
        entry.pause = min(entry.pause * 2, _RETRY_MOST)
