"""What the cluster wants of this node, in the words that the rest of the agent has for it.

``tpnet.agent.cluster.controller`` turns its pages; sessions, targets and status read it. It decides nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tpnet.control.local.store import InterceptEntry, SessionEntry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tpnet.agent.reconcile import Wanted
    from tpnet.control.local.store import TargetKey
    from tpnet.model import Intercept, Session
    from tpnet.rules import Probe


class ClusterBook:
    """``tpnet.agent.book.Book``. An intercept of several ports has an entry for each."""

    def __init__(self) -> None:
        self._wanted: dict[TargetKey, Wanted] = {}
        self._probes: dict[TargetKey, tuple[Probe, ...]] = {}
        self._addresses: dict[str, tuple[str, ...]] = {}
        self.sessions: dict[str, SessionEntry] = {}
        self.intercepts: dict[str, InterceptEntry] = {}

    def set_wanted(
        self,
        wanted: Mapping[TargetKey, Wanted],
        probes: Mapping[TargetKey, tuple[Probe, ...]],
        addresses: Mapping[str, tuple[str, ...]],
    ) -> None:
        """From now on these targets, with these rules, these probes of the kubelet's, and these addresses by name."""
        self._wanted = dict(wanted)
        self._probes = dict(probes)
        self._addresses = dict(addresses)
        found: dict[str, Intercept] = {}
        for rules in self._wanted.values():
            for one in rules:
                key = f"{one.name}:{one.port}"
                before = found.get(key)
                found[key] = one if before is None else replace(one, targets=(*before.targets, *one.targets))
        self.intercepts = {key: InterceptEntry(one, active=True) for key, one in found.items()}

    def add_session(self, session: Session) -> None:
        """A session that may use the tunnel."""
        self.sessions[session.name] = SessionEntry(session, 0.0)

    def drop_session(self, name: str) -> None:
        """It may no longer."""
        self.sessions.pop(name, None)

    def of_session(self, name: str) -> list[Intercept]:
        """See ``Book``."""
        return [entry.intercept for entry in self.intercepts.values() if entry.intercept.session == name]

    def handler_up(self, intercept: Intercept) -> bool:
        """See ``Book``. Nobody says so here: the session does, request by request."""
        return intercept.session in self.sessions

    def lease_left(self, name: str) -> float:
        """See ``Book``. While the tunnel lives nobody asks, so there is no number to tell."""
        del name
        return 0.0

    def probes(self, key: TargetKey) -> tuple[Probe, ...]:
        """See ``Book``."""
        return self._probes.get(key, ())

    def addresses(self, name: str) -> tuple[str, ...]:
        """See ``Book``. Of a pod that nothing is known of: none, which no namespace has."""
        return self._addresses.get(name, ())

    def desired(self) -> Mapping[TargetKey, Wanted]:
        """See ``Book``."""
        return self._wanted
