"""What the worker counts: per target, per intercept. ``tpnet.proxy.worker`` sends it to the supervisor.

Must never hold anything of a request but its verdict and the name of the intercept that took it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from tpnet.proxy.channel import Counters

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet


class TargetCount:
    """Totals of one target since the worker's start. ``open`` is a number of connections, not a total."""

    __slots__ = ("accepted", "app_requests", "open", "reasons", "requests", "unmatched", "verdicts")

    def __init__(self) -> None:
        self.open = 0
        self.accepted = 0
        self.unmatched = 0  # the verdict ``F:app``, which nearly all requests get
        self.requests = 0  # all others
        self.app_requests = 0  # those of them that went to the app
        self.verdicts: defaultdict[str, int] = defaultdict(int)
        self.reasons: defaultdict[str, int] = defaultdict(int)

    def as_data(self) -> dict[str, Any]:
        """Plain data, as ``tpnet.proxy.channel.Counters`` says, plus ``reasons`` of the target's own."""
        return {
            "open": self.open,
            "accepted": self.accepted,
            "requests": self.requests + self.unmatched,
            "app_requests": self.app_requests + self.unmatched,
            "verdicts": dict(self.verdicts) | ({"F:app": self.unmatched} if self.unmatched else {}),
            "reasons": dict(self.reasons),
        }


class InterceptCount:
    """Totals of one intercept: requests that went to its session, and why matched ones did not."""

    __slots__ = ("hits", "last_hit", "reasons")

    def __init__(self) -> None:
        self.hits = 0
        self.last_hit = 0.0
        self.reasons: defaultdict[str, int] = defaultdict(int)

    def hit(self) -> None:
        """A request goes to the session."""
        self.hits += 1
        self.last_hit = time.time()

    def as_data(self) -> dict[str, Any]:
        """Plain data, as ``tpnet.proxy.channel.Counters`` describes it."""
        return {"hits": self.hits, "last_hit": self.last_hit, "reasons": dict(self.reasons)}


AT_ONCE = 40
"""Targets, intercepts and sessions in one message."""
_T = TypeVar("_T")


class Book:
    """All counts of a worker."""

    __slots__ = ("_last", "intercepts", "targets")

    def __init__(self) -> None:
        self.targets: dict[int, TargetCount] = {}
        self.intercepts: defaultdict[str, InterceptCount] = defaultdict(InterceptCount)
        self._last: Counters | None = None

    def keep_only(self, intercepts: AbstractSet[str]) -> None:
        """Forget the intercepts that are none of these."""
        for name in self.intercepts.keys() - intercepts:
            del self.intercepts[name]

    def changed(self, sessions: dict[str, int]) -> list[Counters]:
        """The totals, in messages that need no file in memory; none when they are what was given last.

        ``sessions`` as ``Counters`` says.
        """
        now = Counters(
            targets={str(target): count.as_data() for target, count in self.targets.items()},
            intercepts={name: count.as_data() for name, count in self.intercepts.items()},
            sessions=sessions,
        )
        if now == self._last:
            return []
        self._last = now
        parts = max(1, *(-(-len(table) // AT_ONCE) for table in (now.targets, now.intercepts, now.sessions)))
        return [
            Counters(
                part_of(now.targets, number),
                part_of(now.intercepts, number),
                part_of(now.sessions, number),
                more=number < parts - 1,
            )
            for number in range(parts)
        ]


def part_of(table: dict[str, _T], number: int) -> dict[str, _T]:
    """The entries of one of the messages that a table is sent in."""
    return dict(islice(table.items(), number * AT_ONCE, (number + 1) * AT_ONCE))
