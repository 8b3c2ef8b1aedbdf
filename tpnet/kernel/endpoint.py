"""The key of the BPF maps: one end of a connection. ``bpf/redirect.c`` calls it ``struct endpoint``.

The worker packs one for every connection to the app, so nothing here is slower than it must be. Must never differ
from the C program's layout, which a test compiles and compares.
"""

from __future__ import annotations

import socket
import struct

ENDPOINT = struct.Struct("=16sHH")
"""``struct endpoint`` of bpf/redirect.c: address, port, zero. Address and port are in network byte order."""

_MAPPED = b"\0" * 10 + b"\xff\xff"


def pack_endpoint(address: str, port: int) -> bytes:
    """The key of one end of a connection: an address as ``accept`` gives it, a port.

    IPv4 may come plain or v4-mapped; both give the same key. Raises ``OSError`` for text that is no address.
    """
    if ":" in address:
        packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    else:
        packed = _MAPPED + socket.inet_pton(socket.AF_INET, address)
    return ENDPOINT.pack(packed, socket.htons(port), 0)
