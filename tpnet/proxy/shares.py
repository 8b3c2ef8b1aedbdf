"""How much of what a worker has each client address and each target takes: sockets, and bytes of unfinished heads.

A share is a part of what is free, not of all: a target may have half as much as that, a source a quarter. So one target
that takes all it can gets a third, a source a fifth; each further one that does so takes as large a part of what is left,
and leaves the rest, while whoever has little is never over his share. What is over it is the app's. Must never cost a
request more than a look.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

    from tpnet.proxy.counters import TargetCount
    from tpnet.proxy.loop import Loop

KEPT = 48 << 20
"""Bytes of unfinished heads that a worker keeps in all, at most."""
OF_SOURCE, OF_TARGET = 1 / 4, 1 / 2
"""The largest part of what is free that a source has, and a target."""
_AGAIN = 3 / 4
_SOCKETS = 2  # of a connection: its client's and its app's


class Shares:
    """What is taken of a worker whose ``loop`` may have ``most`` sockets."""

    __slots__ = ("_kept", "_loop", "_most", "_sources")

    def __init__(self, loop: Loop, most: int) -> None:
        self._loop = loop
        self._most = most
        self._sources: Counter[str] = Counter()
        self._kept: Counter[Hashable] = Counter()

    # Sockets.

    def begun(self, source: str) -> None:
        """A client has come from there."""
        self._sources[source] += 1

    def ended(self, source: str) -> None:
        """It has gone."""
        left = self._sources[source] - 1
        if left:
            self._sources[source] = left
        else:
            del self._sources[source]

    def over(self, source: str) -> bool:
        """Whether a client address has more than its share of the sockets."""
        return self._sources[source] * _SOCKETS > self._free * OF_SOURCE

    def target_over(self, count: TargetCount) -> bool:
        """Whether a target has."""
        return count.open * _SOCKETS > self._free * OF_TARGET

    def again(self, source: str) -> bool:
        """Whether a client address that was over its share is clearly within it again."""
        return self._sources[source] * _SOCKETS < self._free * OF_SOURCE * _AGAIN

    def target_again(self, count: TargetCount) -> bool:
        """Whether a target that was is."""
        return count.open * _SOCKETS <= self._free * OF_TARGET * _AGAIN

    @property
    def _free(self) -> int:
        return max(0, self._most - self._loop.sockets)

    # Bytes.

    def keep(self, source: str, target: Hashable, more: int) -> bool:
        """So many more (or fewer) bytes of a head from there are kept. Whether both are within their shares."""
        kept = self._kept
        for who in (None, source, target):
            kept[who] += more
            if not kept[who]:
                del kept[who]
        free = KEPT - kept[None]
        return more <= 0 or (kept[source] <= free * OF_SOURCE and kept[target] <= free * OF_TARGET)
