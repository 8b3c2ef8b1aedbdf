"""Sessions as the supervisor last told them, and what names the way to one. Data only; must never do I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol


class SessionRoute(NamedTuple):
    """Names a session's side: where its requests are taken, and the intercept that sends them there."""

    session: str
    port: int
    intercept: str


class Loses(Protocol):
    """Something that hangs on a session."""

    def session_lost(self) -> None:
        """The tunnel was declared down, or the session is gone."""


@dataclass(slots=True)
class SessionState:
    """One session. ``upstreams`` are the live connections to it."""

    address: str
    up: bool
    ports: frozenset[int]
    upstreams: set[Loses]
