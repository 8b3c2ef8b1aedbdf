"""The sessions and intercepts of one agent, in memory: who has what, until when, and which targets it takes.

``tpnet.agent`` keeps one and calls it from its event loop. It must never take in what ``tpnet.rules`` would
refuse, nor let one user touch what is another's. Pure but for its two clocks: leases run on the monotonic
one, so that setting the time of day ends none.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tpnet.model import MAX_CONNECT_SECONDS, Conflict, Intercept, InvalidInput, NotThere, Refused, Session
from tpnet.model.names import check_name
from tpnet.rules import check_rules, conflict_error, find_conflict
from tpnet.tunnel import check_public_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tpnet.rules import Probe

LEASE = 30.0
"""Seconds that a session stands without being renewed."""

TargetKey = tuple[str, int]
"""A target: the canonical name of its namespace, and its port."""

_MAX_TEXT = 1024


@dataclass(slots=True)
class SessionEntry:
    """A session and its lease. ``handlers``: what it last said of its handlers, by intercept name."""

    session: Session
    lease_end: float
    handlers: dict[str, bool] = field(default_factory=dict)


@dataclass(slots=True)
class InterceptEntry:
    """An intercept. Until it is ``active`` its targets are wanted, and its rules are not."""

    intercept: Intercept
    active: bool = False


class Store:
    """What people have asked for. Every method is immediate and leaves things as they were when it raises."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._serial = 0
        self.sessions: dict[str, SessionEntry] = {}
        self.intercepts: dict[str, InterceptEntry] = {}

    def check_session(self, session: Session) -> None:
        """Raise ``InvalidInput`` or ``Conflict`` when ``add_session`` would."""
        check_name("session", session.name)
        _check_text("user", session.user)
        check_public_key(session.public_key)
        for other in self.sessions.values():
            if other.session.name == session.name and other.session.user != session.user:
                raise Conflict(
                    f"{other.session.user} has a session named {session.name}.",
                    "Choose another name for yours.",
                )
            if other.session.name != session.name and other.session.public_key == session.public_key:
                raise Conflict(
                    f"The key of session {session.name} is that of session {other.session.name}.",
                    "Every session makes a key pair of its own.",
                )

    def add_session(self, session: Session) -> Session:
        """Begin a session, ending the one that it replaces first; gives it with its time of creation."""
        self.check_session(session)
        self.drop_session(session.name)
        session = replace(session, created=self._wall())
        self.sessions[session.name] = SessionEntry(session, self._clock() + LEASE)
        return session

    def renew(self, name: str, handlers: Mapping[str, bool]) -> float:
        """Renew a lease; returns its seconds. Raises ``NotThere``."""
        entry = self.session(name)
        entry.lease_end = self._clock() + LEASE
        entry.handlers = dict(handlers)
        return LEASE

    def session(self, name: str) -> SessionEntry:
        """The session of that name. Raises ``NotThere``."""
        try:
            return self.sessions[name]
        except KeyError:
            raise NotThere(
                f"There is no session {name}.", "Its lease may have ended; begin a new one."
            ) from None

    def drop_session(self, name: str) -> list[Intercept]:
        """End a session, and with it the intercepts that are returned. One that is not there is fine."""
        self.sessions.pop(name, None)
        gone = [entry.intercept for entry in self.intercepts.values() if entry.intercept.session == name]
        for intercept in gone:
            del self.intercepts[intercept.name]
        return gone

    def lease_left(self, name: str) -> float:
        """Seconds until the session is dropped unless it renews."""
        return max(0.0, self.session(name).lease_end - self._clock())

    def overdue(self) -> list[str]:
        """The sessions whose lease is over. They are still there: the caller drops them."""
        now = self._clock()
        return [name for name, entry in self.sessions.items() if entry.lease_end <= now]

    def check_intercept(self, intercept: Intercept) -> None:
        """Raise what ``add`` would, as far as that can be told before its targets are known."""
        check_name("intercept", intercept.name)
        _check_text("user", intercept.user)
        _check_text("target", intercept.target)
        _check_text("handler", intercept.handler or "-")
        for what, port in (("port", intercept.port), ("tunnel port", intercept.tunnel_port)):
            if not 0 < port < 65536:
                raise InvalidInput(f"The {what} of {intercept.name} is {port}; ports are 1 to 65535.")
        if not 0 < intercept.connect_timeout <= MAX_CONNECT_SECONDS:
            raise InvalidInput(
                f"The connect timeout of {intercept.name} is {intercept.connect_timeout} s; it may be 1 to "
                f"{MAX_CONNECT_SECONDS}."
            )
        check_rules(intercept.headers, intercept.path)
        owner = self.session(intercept.session).session.user
        if owner != intercept.user:
            raise Refused(
                f"Session {intercept.session} is {owner}'s, not {intercept.user}'s.",
                "An intercept goes to a session of one's own.",
            )
        taken = self.intercepts.get(intercept.name)
        if taken is not None:
            whose = "You have" if taken.intercept.user == intercept.user else f"{taken.intercept.user} has"
            raise Conflict(
                f"{whose} an intercept named {intercept.name} already.",
                f"Choose another name with --name, or end that one: tpnet leave {intercept.name}",
            )

    def add(self, intercept: Intercept) -> Intercept:
        """Take an intercept in, not active yet, and give it with ``created`` and ``serial``.

        Raises ``Conflict`` when another takes the same requests of a target, and what ``check_intercept``
        raises.
        """
        self.check_intercept(intercept)
        if not intercept.targets:
            raise InvalidInput(f"The intercept {intercept.name} has no targets.")
        names = set(intercept.targets)
        others = (entry.intercept for entry in self.intercepts.values())
        rivals = [other for other in others if other.port == intercept.port and names & set(other.targets)]
        if other := find_conflict(intercept, rivals):
            raise conflict_error(other, self._wall())
        self._serial += 1
        intercept = replace(intercept, created=self._wall(), serial=self._serial)
        self.intercepts[intercept.name] = InterceptEntry(intercept)
        return intercept

    def activate(self, intercept: Intercept) -> None:
        """From now on its rules are wanted. Raises ``NotThere`` when it was removed meanwhile."""
        entry = self.intercepts.get(intercept.name)
        if entry is None or entry.intercept.serial != intercept.serial:
            raise NotThere(f"The intercept {intercept.name} was removed while it was being made.")
        entry.active = True

    def withdraw(self, intercept: Intercept) -> None:
        """Remove an intercept that could not be made; one that is gone, or is another by now, is fine."""
        entry = self.intercepts.get(intercept.name)
        if entry is not None and entry.intercept.serial == intercept.serial:
            del self.intercepts[intercept.name]

    def remove(self, name: str, user: str, *, force: bool = False) -> Intercept:
        """Remove an intercept for ``user``. Raises ``NotThere``, ``Refused``."""
        entry = self.intercepts.get(name)
        if entry is None:
            raise NotThere(f"There is no intercept {name}.", "tpnet list shows those that there are.")
        owner = entry.intercept.user
        if owner != user and not force:
            raise Refused(
                f"The intercept {name} is {owner}'s, not {user}'s.",
                f"Ask {owner} to end it, or end it by force.",
            )
        return self.intercepts.pop(name).intercept

    def of_session(self, name: str) -> list[Intercept]:
        """The intercepts that go to a session."""
        return [entry.intercept for entry in self.intercepts.values() if entry.intercept.session == name]

    def handler_up(self, intercept: Intercept) -> bool:
        """Whether its handler listens, as far as the session has said; until then it is taken to."""
        entry = self.sessions.get(intercept.session)
        return entry is not None and entry.handlers.get(intercept.name, True)

    def probes(self, key: TargetKey) -> tuple[Probe, ...]:
        """What the kubelet asks of a target: without a cluster there is none."""
        del key
        return ()

    def addresses(self, name: str) -> None:
        """By what addresses a target is reached: without a cluster nobody says."""
        del name

    def desired(self) -> dict[TargetKey, tuple[Intercept, ...]]:
        """Every target to be redirected, with the intercepts whose rules are to stand, oldest first."""
        wanted: dict[TargetKey, tuple[Intercept, ...]] = {}
        for entry in self.intercepts.values():
            for name in entry.intercept.targets:
                key = (name, entry.intercept.port)
                wanted[key] = (*wanted.get(key, ()), entry.intercept) if entry.active else wanted.get(key, ())
        return wanted


def _check_text(what: str, text: str) -> None:
    if not text or len(text) > _MAX_TEXT or not text.isprintable():
        raise InvalidInput(f"The {what} is empty, longer than {_MAX_TEXT} characters or not printable.")
