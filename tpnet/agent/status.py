"""What is true now, for ``status``, ``list`` and ``watch``: put together from book, targets and counters.

``tpnet.agent.answers`` asks. It reads and never changes anything; of requests it knows counts and names alone.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from tpnet.model import InterceptStatus, TargetStatus
from tpnet.proxy.channel import Counters
from tpnet.proxy.testimony import LieError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tpnet.agent.book import Book
    from tpnet.agent.namespace import Door
    from tpnet.agent.sessions import Sessions
    from tpnet.agent.targets import Targets
    from tpnet.model import Intercept

_MOST_PARTS = 512
"""Messages in which one round of counters may come: of some 20,000 targets and intercepts."""
Count = dict[str, Any]
"""A count of ``channel.Counters``: numbers, and tables of numbers."""


class Ledger:
    """Totals over the lives of workers, which each begin at zero."""

    def __init__(self) -> None:
        self._now: tuple[Mapping[str, Count], Mapping[str, Count]] = ({}, {})
        self._sessions: Mapping[str, int] = {}
        self._coming = Counters()
        self._parts = 0
        self._before: tuple[dict[str, Count], dict[str, Count]] = ({}, {})

    def take(self, counters: Counters) -> None:
        """What the worker counts. Raises ``LieError`` where that has no end."""
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise LieError("its counters have no end")
        coming = self._coming
        coming.targets.update(counters.targets)
        coming.intercepts.update(counters.intercepts)
        coming.sessions.update(counters.sessions)
        if not counters.more:
            self._now = (coming.targets, coming.intercepts)
            self._sessions = coming.sessions
            self._coming = Counters()
            self._parts = 0

    def worker_lost(self) -> None:
        """Its connections are gone; what it counted stays."""
        for now, before in zip(self._now, self._before, strict=True):
            for name, count in now.items():
                before[name] = added(before.get(name, {}), count)
                before[name].pop("open", None)
        self._now = ({}, {})
        self._sessions = {}
        self._coming = Counters()
        self._parts = 0

    def open_to(self, session: str) -> int:
        """Connections to a session, as they were within the last second or two."""
        return self._sessions.get(session, 0)

    def target(self, number: int) -> Count:
        """Totals of a target."""
        return self._total(0, str(number))

    def intercept(self, intercept: Intercept) -> Count:
        """Totals of an intercept."""
        return self._total(1, counted_name(intercept))

    def keep_only(self, numbers: Iterable[int], intercepts: Iterable[Intercept]) -> None:
        """Forget what is no more."""
        kept = ({str(number) for number in numbers}, {counted_name(one) for one in intercepts})
        for before, names in zip(self._before, kept, strict=True):
            for name in before.keys() - names:
                del before[name]

    def _total(self, kind: int, name: str) -> Count:
        return added(self._before[kind].get(name, {}), self._now[kind].get(name, {}))


def counted_name(intercept: Intercept) -> str:
    """The name that the worker knows an intercept by, and counts it under.

    It tells an intercept from an earlier one of the same name, whose counts may still be on their way.
    """
    return f"{intercept.name}#{intercept.serial}"


def added(one: Mapping[str, Any], other: Mapping[str, Any]) -> Count:
    """The sum, number by number; of ``last_hit`` the later one. Tables keep what is above zero."""
    total: Count = {}
    for name in one.keys() | other.keys():
        a, b = one.get(name), other.get(name)
        if isinstance(a, dict) or isinstance(b, dict):
            table = Counter(a or {})
            table.update(b or {})
            total[name] = dict(+table)
        elif name == "last_hit":
            total[name] = max(a or 0.0, b or 0.0)
        else:
            total[name] = (a or 0) + (b or 0)
    return total


def target_status(door: Door, ledger: Ledger) -> TargetStatus:
    """One target."""
    count = ledger.target(door.number)
    return TargetStatus(
        name=door.name,
        port=door.port,
        ready=door.ready,
        reason=door.reason,
        redirect=door.namespace.redirect.kind,
        addresses=door.namespace.addresses,
        open=count.get("open", 0),
        requests=count.get("requests", 0),
        app_requests=count.get("app_requests", 0),
        verdicts=count.get("verdicts", {}),
        since=door.since,
        left=door.left,
    )


def target_statuses(targets: Targets, ledger: Ledger) -> tuple[TargetStatus, ...]:
    """Those that are redirected, then those that were left and have open connections yet."""
    left = (target_status(door, ledger) for door in targets.left())
    return (
        *(target_status(door, ledger) for door in targets.doors()),
        *(target for target in left if target.open),
    )


def intercept_status(
    intercept: Intercept, book: Book, targets: Targets, sessions: Sessions, ledger: Ledger
) -> InterceptStatus:
    """One intercept: where it stands, and whatever keeps it from working, in sentences."""
    ready = 0
    problems: list[str] = []
    for name in intercept.targets:
        key = (name, intercept.port)
        door = targets.door(key)
        if door is not None and door.ready:
            ready += 1
        elif door is not None:
            problems.append(f"{name}: {door.reason} (since {max(0, time.time() - door.since):.0f} s)")
        else:
            failure = targets.failures.get(key)
            problems.append(failure.message if failure is not None else f"{name}: not redirected yet")
    count = ledger.intercept(intercept)
    return InterceptStatus(
        intercept=intercept,
        ready=ready,
        total=len(intercept.targets),
        handler_up=book.handler_up(intercept),
        session_up=sessions.up(intercept.session),
        hits=count.get("hits", 0),
        last_hit=count.get("last_hit", 0.0),
        reasons=count.get("reasons", {}),
        problems=tuple(problems),
    )


def memory_kib(pids: Iterable[int]) -> int:
    """Resident memory of these processes together, in KiB (proc(5), VmRSS); 0 for those that are gone."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/status", encoding="utf-8") as status:
                total += sum(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
        except OSError:
            continue
    return total
