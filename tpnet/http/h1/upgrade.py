"""Upgrades to a protocol that carries requests itself: HTTP/2 (RFC 7540, 3.2), HTTP over TLS (RFC 2817).

Called by ``head``, ``requests`` and ``responses``. After such an upgrade every later request of the connection goes
where the first one went, so none may take others along to a session. Here alone are bytes of a request left out; it
must never leave out any but those of the upgrade.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from tpnet.http.h1.grammar import CRLF, options

if TYPE_CHECKING:
    from collections.abc import Callable

_CARRIERS: Final = frozenset({b"h2c", b"h2", b"http", b"tls"})
"""Names of protocols, without a version, that carry requests; lower case."""
_upgrades: Final = re.compile(rb"\n(?i:upgrade):[ \t]*+([^\r\n]*)").findall


def _carries(protocol: bytes) -> bool:
    # Drafts of HTTP/2 were called h2c-14 and so on.
    return re.split(rb"[/-]", protocol.lower())[0] in _CARRIERS


def names_carrier(value: bytes) -> bool:
    """Whether an Upgrade field's value names a protocol that carries requests."""
    return any(map(_carries, options(value)))


def switches_to_carrier(head: bytes) -> bool:
    """Whether the head of a 101 names such a protocol."""
    return any(map(names_carrier, _upgrades(head)))


def _without(line: bytes, gone: Callable[[bytes], bool]) -> bytes | None:
    """A field line without some members of its list: that very line if it has none of them, ``None`` if no other."""
    name, _, value = line.partition(b":")
    members = options(value)
    kept = [member for member in members if member and not gone(member)]
    if not any(map(gone, members)):
        return line
    return name + b": " + b", ".join(kept) if kept else None


def without_carriers(head: bytes) -> bytes:
    """A request head that does not ask for such a protocol.

    Left out are their names in Upgrade, HTTP2-Settings, and what Connection says of a field that is left out.
    Other lines stay as they are.
    """
    start = len(head) - len(head.lstrip(CRLF))
    first, *lines = head[start:].split(CRLF)
    fields = [(line.partition(b":")[0].lower(), line) for line in lines]
    protocols = [
        protocol
        for name, line in fields
        if name == b"upgrade"
        for protocol in options(line.partition(b":")[2])
        if protocol and not _carries(protocol)
    ]
    gone = {b"http2-settings"} if protocols else {b"http2-settings", b"upgrade"}
    kept = [head[:start] + first]
    for name, line in fields:
        if name in gone:
            continue
        if name == b"upgrade":
            left = _without(line, _carries)
        elif name == b"connection":
            left = _without(line, lambda option: option.lower() in gone)
        else:
            left = line
        if left is not None:
            kept.append(left)
    return CRLF.join(kept)
