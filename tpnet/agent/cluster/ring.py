"""Which agent answers for an intercept: a consistent hash over the nodes that have an agent. Pure.

Every agent asks the same and comes to the same answer without a leader. It must stay cheap for thousands of nodes and
tens of thousands of intercepts: a node that comes or goes moves only what was or becomes its own.
"""

from __future__ import annotations

import bisect
import hashlib

POINTS = 16
"""Places of each node on the ring: the more, the more even the shares."""


class Ring:
    """The nodes with an agent. ``owners`` names those that answer, the first one first."""

    def __init__(self) -> None:
        self._points: list[tuple[int, str]] = []
        self.nodes: frozenset[str] = frozenset()

    def set_nodes(self, nodes: frozenset[str]) -> None:
        """These have an agent now."""
        gone, new = self.nodes - nodes, nodes - self.nodes
        if gone:
            self._points = [point for point in self._points if point[1] not in gone]
        if new:
            self._points += [(_hash(f"{node}#{number}"), node) for node in new for number in range(POINTS)]
            self._points.sort()
        self.nodes = nodes

    def owners(self, uid: str, count: int = 2) -> tuple[str, ...]:
        """The agents that answer for an intercept: should the first not, the second does."""
        start = bisect.bisect_left(self._points, (_hash(uid), ""))
        found: list[str] = []
        for offset in range(len(self._points)):
            node = self._points[(start + offset) % len(self._points)][1]
            if node not in found:
                found.append(node)
                if len(found) == min(count, len(self.nodes)):
                    break
        return tuple(found)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
