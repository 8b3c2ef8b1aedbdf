"""The objects that people make: intercepts, their rules, and sessions. Plain data, no behaviour.

Used by every layer. Crosses sockets as JSON through ``tpnet.model.codec``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from tpnet.model.about import About

CONNECT_SECONDS, MAX_CONNECT_SECONDS = 10, 300
"""How long a matched request waits for the developer's process to be connected: where nothing is said, and at most."""


_NO_CONTROL = r"^[^\x00-\x08\x0a-\x1f\x7f-\x{9f}]*$"  # all but HTAB; RFC 9110 section 5.5


class PathKind(StrEnum):
    """How a path rule compares with the raw path of a request, its query left out."""

    EQUAL = "equal"
    PREFIX = "prefix"
    REGEX = "regex"


class OnFailure(StrEnum):
    """What becomes of a matched request when the developer's end is not there."""

    APP = "app"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class HeaderRule:
    """One header that a request must carry.

    ``name`` is compared without regard to case. ``value`` equals one field line's value byte for byte, or, with
    ``regex``, matches the whole of it (RE2, Latin-1). With ``digest`` the value is exact and not said: who holds the
    rule can tell whether a value is the one, and not which it is (``tpnet.rules.sealed``).
    """

    name: Annotated[
        str,
        About(
            "The header's name; upper and lower case are the same.",
            max_length=256,
            pattern="^[!#$%&'*+.^_`|~0-9A-Za-z-]+$",  # RFC 9110 section 5.6.2
        ),
    ]
    value: Annotated[
        str,
        About(
            "What the value of one of the request's lines of this header must equal, byte for byte; or, with regex, "
            "what the whole of it must match. Whoever may read the object can read it.",
            max_length=4096,
            pattern=_NO_CONTROL,
        ),
    ] = ""
    regex: Annotated[bool, About("Whether the value is a regex, in RE2's syntax.")] = False
    digest: Annotated[
        str,
        About(
            "In the place of value, for one that others are not to know: the first 8 hex digits of its SHA-256, a dash, "
            "and the SHA-256 of tpnet, the user of the intercept, the header's name in lower case and the value, with a "
            "zero byte between each two. It holds for that user's intercepts alone.",
            max_length=73,
            pattern="^[0-9a-f]{8}-[0-9a-f]{64}$",
        ),
    ] = ""


@dataclass(frozen=True, slots=True)
class PathRule:
    """What a request's raw path must be like."""

    kind: Annotated[
        PathKind,
        About(
            "equal: the path is the value. prefix: the path begins with the value. regex: the whole path matches "
            "the value, in RE2's syntax."
        ),
    ]
    value: Annotated[
        str,
        About(
            "What the request's raw path, without its query, is compared with.",
            min_length=1,
            max_length=4096,
            pattern=_NO_CONTROL,
        ),
    ]


@dataclass(frozen=True, slots=True)
class Intercept:
    """A standing wish: these requests of this port go to this session.

    ``headers`` empty means that it takes all (or all of a path). ``shared`` lets narrower ones of other users win.
    ``handler`` is ``host:port`` on the developer's
    computer, as shown to people. ``tunnel_port`` is the TCP port at the session's tunnel address where its requests
    are taken. ``created`` is in Unix seconds and ``serial`` counts creations; the older of two has the lower serial.
    ``targets`` are the canonical names (``Target.name``) that ``target``, the user's own text, stood for.
    ``connect_timeout``: seconds that a matched request waits for the handler to be connected while the session's
    heartbeat is heard.
    """

    name: str
    user: str
    session: str
    target: str
    targets: tuple[str, ...]
    port: int
    headers: tuple[HeaderRule, ...] = ()
    path: PathRule | None = None
    handler: str = ""
    tunnel_port: int = 0
    on_failure: OnFailure = OnFailure.APP
    created: float = 0.0
    serial: int = 0
    shared: bool = False
    connect_timeout: int = CONNECT_SECONDS


@dataclass(frozen=True, slots=True)
class Session:
    """A developer's live presence. ``public_key`` is WireGuard's, in base64; the private one never leaves its process."""

    name: str
    user: str
    public_key: str
    created: float = 0.0
