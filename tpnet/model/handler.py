"""The text that names a handler: where intercepted requests go on the developer's side.

The command line, the session daemon and the cluster's control read it. Pure. It must never look a name up: what a
name stands for is the developer's computer's to say, at the time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address

from tpnet.model.errors import InvalidInput

LOCALHOST = "localhost"
"""What is meant where no host is named: this computer, by either family."""

_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?")
_PORT = re.compile(r"[0-9]{1,5}")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?P<rest>[^/?#]*)")
_HINT = "Such as 8080, localhost:8080, [::1]:8080 or 192.0.2.7:8080."


@dataclass(frozen=True, slots=True)
class Handler:
    """A host name or address, and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def split_handler(text: str) -> tuple[str, int | None]:
    """Host and port of ``HOST``, ``PORT``, ``HOST:PORT``, ``:PORT``, ``IPV6``, ``[IPV6]`` or ``[IPV6]:PORT``.

    An empty text, or one without a host, means ``localhost``; the port is ``None`` where none is named. Raises
    ``InvalidInput``, which says what is right.
    """
    if url := _URL.match(text):
        raise InvalidInput(f"The handler {text!r} is a URL.", f"Only its host and port: {url['rest']}")
    if text.startswith("["):
        inside, bracket, rest = text[1:].partition("]")
        if not bracket or not _is_ipv6(inside) or (rest and not rest.startswith(":")):
            raise _malformed(text)
        return inside, _port(text, rest[1:]) if rest else None
    if text.count(":") > 1:
        return _bare_ipv6(text), None
    host, colon, port = text.partition(":")
    if not colon and _PORT.fullmatch(host):
        return LOCALHOST, _port(text, host)
    if host and not _HOST.fullmatch(host):
        raise _malformed(text)
    return host or LOCALHOST, _port(text, port) if colon else None


def parse_handler(text: str, port: int | None = None) -> Handler:
    """The handler that a text names; ``port`` is used where it names none. Raises ``InvalidInput``."""
    host, named = split_handler(text)
    chosen = port if named is None else named
    if chosen is None:
        raise InvalidInput(f"The handler {text!r} names no port.", _HINT)
    return Handler(host, chosen)


def _bare_ipv6(text: str) -> str:
    """An IPv6 address without brackets, whose last group cannot be meant for a port."""
    before, _, last = text.rpartition(":")
    if _is_ipv6(before) and _PORT.fullmatch(last) and 0 < int(last) < 65536:
        address = f" or [{text}]" if _is_ipv6(text) else ""
        raise InvalidInput(
            f"The handler {text!r} is an address, or an address and a port.",
            f"Say which: [{before}]:{last}{address}.",
        )
    if not _is_ipv6(text):
        raise _malformed(text)
    return text


def _is_ipv6(text: str) -> bool:
    try:
        return IPv6Address(text).scope_id is None
    except ValueError:
        return False


def _port(text: str, digits: str) -> int:
    if _PORT.fullmatch(digits) is None:
        raise _malformed(text)
    if not 0 < int(digits) < 65536:
        raise InvalidInput(f"The handler {text!r} has no port that there is.", "Ports are 1 to 65535.")
    return int(digits)


def _malformed(text: str) -> InvalidInput:
    return InvalidInput(f"The handler {text!r} is not HOST:PORT.", _HINT)
