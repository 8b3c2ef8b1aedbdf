"""What the command line and the session daemon ask of the control plane, whatever stands behind it.

``tpnet_cli`` and ``tpnet.session`` call this; ``tpnet.control.local.LocalControl`` is the implementation for
a machine without a cluster. It must never show more of a request than names and counts: of header values,
only those that rules name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tpnet.model import (
        AgentStatus,
        Explanation,
        Intercept,
        InterceptStatus,
        Session,
        SessionGrant,
        Status,
        TargetInfo,
    )


class Control(Protocol):
    """Blocking calls.

    Each raises ``NotThere`` when nothing answers, ``Refused`` when the caller may not ask.
    """

    def info(self) -> AgentStatus:
        """The agent itself."""

    def resolve(self, target: str) -> list[TargetInfo]:
        """The targets that a user's text stands for, and what listens in each.

        Raises ``InvalidInput`` for text that is no target, ``NotThere`` when it stands for nothing,
        ``Refused`` for the host's own namespace.
        """

    def end_session(self, name: str) -> None:
        """End a session and its intercepts. Ending one that is gone is no error."""

    def create_intercept(self, intercept: Intercept) -> InterceptStatus:
        """Create an intercept, and wait until the redirect stands on every target and was probed.

        ``targets``, ``created`` and ``serial`` are filled in by the other side. Raises, leaving nothing
        behind: ``NotThere`` for no such target or session, or when nothing listens on the port; ``Refused``
        for the host's own namespace; ``Conflict`` for a name or for rules that are taken; ``InvalidInput``
        for a malformed object.
        """

    def delete_intercept(self, name: str, user: str, force: bool = False) -> dict[str, int]:
        """Remove an intercept; returns at once with ``{"draining": connections that may yet finish}``.

        Raises ``NotThere`` when there is none of that name, ``Refused`` when it is another user's and not
        ``force``.
        """

    def standing(self, session: str) -> set[str]:
        """The names of the intercepts of a session that there are."""

    def status(self) -> Status:
        """Everything that is true now."""

    def explain(
        self, target: str, port: int | None, method: str, path: str, headers: Sequence[tuple[str, str]]
    ) -> Explanation:
        """A dry run: where a request with this method, path (query allowed) and headers goes, and why.

        ``port`` may be ``None`` when one port of the target is intercepted, or when it listens on only one.
        Raises as ``resolve`` does, and ``InvalidInput`` when the port is not plain.
        """


class NodeControl(Control, Protocol):
    """What one node's agent, spoken to directly, offers besides."""

    def answers(self) -> bool:
        """Whether an agent is there, asked as cheaply as can be."""

    def register_session(self, session: Session) -> SessionGrant:
        """Begin a session. One of the same name and user is replaced, and its intercepts are dropped.

        Raises ``Conflict`` when another user has a session of that name, ``InvalidInput`` for a malformed key
        or name.
        """

    def renew_session(self, name: str, handlers: Mapping[str, bool]) -> float:
        """Renew the lease; returns its length in seconds.

        ``handlers`` says of each intercept of the session, by name, whether its handler listens. Names that
        are not intercepts of this session are passed over. Raises ``NotThere`` when the session is gone:
        register anew.
        """
