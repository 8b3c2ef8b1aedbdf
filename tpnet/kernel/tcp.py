"""What the kernel knows of a TCP connection (tcp(7), TCP_INFO), and options that Python has no name for.

Must never be asked of another kind of socket.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import _socket

TCP_NOTSENT_LOWAT = 25
"""include/uapi/linux/tcp.h: bytes that may wait to be sent, besides a piece that is under way."""
SO_BUF_LOCK = 72
"""include/uapi/asm-generic/socket.h, since 5.15: which buffers are of a fixed size; 0 leaves it to the kernel again."""

# struct tcp_info of include/uapi/linux/tcp.h, as far as tcpi_last_ack_recv.
_INFO = struct.Struct("=8B13I")
_UNACKED, _LAST_ACK_RECEIVED = 8 + 4, 8 + 12


class TcpInfo(NamedTuple):
    """Of a connection at this moment.

    ``unacked``: segments that were sent, and not confirmed by the other end's kernel. (What its closed window keeps from
    being sent is not among them.) ``silent``: seconds since it has confirmed anything.
    """

    unacked: int
    silent: float


def tcp_info(sock: _socket.socket) -> TcpInfo:
    """Raises ``OSError``."""
    found = _INFO.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size))
    return TcpInfo(found[_UNACKED], found[_LAST_ACK_RECEIVED] / 1000)
