"""Who has what, as the parts of the agent read it, wherever it comes from.

``tpnet.control.local.store.Store`` is one, ``tpnet.agent.cluster.book.ClusterBook`` the other. Nothing is changed by
way of this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from tpnet.agent.reconcile import Wanted
    from tpnet.control.local.store import InterceptEntry, SessionEntry, TargetKey
    from tpnet.model import Intercept
    from tpnet.rules import Probe


class Book(Protocol):
    """Sessions and intercepts by name, and what follows for the targets."""

    @property
    def sessions(self) -> Mapping[str, SessionEntry]:
        """Every session that may use the tunnel."""

    @property
    def intercepts(self) -> Mapping[str, InterceptEntry]:
        """Every intercept."""

    def of_session(self, name: str) -> list[Intercept]:
        """The intercepts that go to a session."""

    def handler_up(self, intercept: Intercept) -> bool:
        """Whether its handler listens, as far as is known."""

    def lease_left(self, name: str) -> float:
        """Seconds until a session is dropped unless it renews."""

    def probes(self, key: TargetKey) -> Sequence[Probe]:
        """What the kubelet asks of a target: the app's, whatever the rules say. None where there is no kubelet."""

    def addresses(self, name: str) -> Collection[str] | None:
        """By what addresses others say that a target is reached; ``None``: nobody says, and its name is all there is."""

    def desired(self) -> Mapping[TargetKey, Wanted]:
        """Every target to be redirected, with the intercepts whose rules are to stand, oldest first."""
