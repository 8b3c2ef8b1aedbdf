"""The kubelet's requests to a pod: its probes and lifecycle hooks, as the pod's own spec says them. Pure.

``tpnet.agent.cluster.facts`` reads them off a pod, the worker asks ``ProbeSet.has`` of requests that an intercept takes.
A probe must reach the app whatever stands there: who answers it for the app has its container killed. It must never
take a request away from an intercept for whose header the probe does not ask.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from tpnet.rules.view import HeadView


class Probe(NamedTuple):
    """A ``GET`` of the kubelet's. ``path``: with its query. ``headers``: those that the spec gives it, in order."""

    path: str
    headers: tuple[tuple[str, str], ...] = ()


class ProbeSet:
    """The probes of one port, ready to be compared with requests."""

    __slots__ = ("_by_path",)

    def __init__(self, probes: Iterable[Probe]) -> None:
        by_path: defaultdict[bytes, list[dict[bytes, list[bytes]]]] = defaultdict(list)
        for probe in probes:
            fields: defaultdict[bytes, list[bytes]] = defaultdict(list)
            for name, value in probe.headers:
                fields[name.lower().encode()].append(value.strip().encode())
            by_path[_plain(probe.path.encode())].append(dict(fields))
        self._by_path = dict(by_path)

    def has(
        self, target: bytes, head: HeadView, matched: Collection[bytes] = (), *, from_node: bool = False
    ) -> bool:
        """Whether a ``GET`` of this target is a probe's: its path, and all of its own headers.

        ``from_node``: it comes from the node's own address, as the kubelet's do; then the path is enough.
        ``matched``: the names, in lower case, of the headers by which an intercept takes it. A probe that is not
        given all of them by its spec cannot have sent it.
        """
        for fields in self._by_path.get(_plain(target), ()):
            if all(name in fields for name in matched) and (from_node or (fields and _carries(head, fields))):
                return True
        return False


def _carries(head: HeadView, fields: dict[bytes, list[bytes]]) -> bool:
    return all(list(head.values(name)) == values for name, values in fields.items())


def _plain(target: bytes) -> bytes:
    """A path with its query, whatever of it is percent-encoded: who writes it decides that (RFC 3986 section 6.2.2)."""
    return unquote_to_bytes(target)
