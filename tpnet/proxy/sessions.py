"""Sessions as the supervisor last told them, and what names the way to one. Data only; must never do I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from tpnet.model import CONNECT_SECONDS


class SessionRoute(NamedTuple):
    """Names a session's side: where its requests are taken, and the intercept that sends them there.

    ``patience``: seconds to wait for the handler to be reached while the session is heard.
    """

    session: str
    port: int
    intercept: str
    patience: float = CONNECT_SECONDS


class Loses(Protocol):
    """Something that hangs on a session."""

    def session_lost(self) -> None:
        """The tunnel was declared down, or the session is gone."""

    def session_quiet(self) -> None:
        """A heartbeat is missing."""


@dataclass(slots=True)
class SessionState:
    """One session. ``upstreams`` are the live connections to it.

    ``silent``: it is quiet, and has not confirmed what was sent to it: nothing more is sent until it is heard again.
    """

    address: str
    up: bool
    ports: frozenset[int]
    upstreams: set[Loses]
    quiet: bool = False
    silent: bool = False
