"""What the kernel knows of the other end of a TCP connection within this computer (sock_diag(7)).

Must never say that an end is closed for good unless that is certain: who asks acts as if nothing sent there is read.
"""

from __future__ import annotations

import socket
import struct
import sys

_SOCK_DIAG = 4  # include/uapi/linux/netlink.h
_BY_FAMILY, _ERROR = 20, 2  # include/uapi/linux/sock_diag.h, netlink.h
_HEAD = struct.Struct("=IHHII")  # struct nlmsghdr
_REQUEST = struct.Struct("=4BI")  # struct inet_diag_req_v2, but for what names the connection
_NAME = struct.Struct("!HH16s16s")  # struct inet_diag_sockid
_ANY = struct.pack("=3I", 0, 0xFFFFFFFF, 0xFFFFFFFF)  # its rest: any interface, no cookie
_STATE_AT = _HEAD.size + 1  # struct inet_diag_msg
_INODE_AT = _HEAD.size + 4 + _NAME.size + len(_ANY) + 16
_SENT_FIN = {4, 5, 6, 9, 11}
"""include/net/tcp_states.h: FIN_WAIT1, FIN_WAIT2, TIME_WAIT, LAST_ACK, CLOSING."""


def is_closed_for_good(sock: socket.socket) -> bool:
    """Whether the other end has sent FIN and no process holds it any more: what is sent from now on, nobody reads.

    An end that is only shut down for writing has a process, which may read on. ``False`` as well where it cannot be
    known: the other end is on another computer or in another network namespace, or this is not Linux.
    """
    if sys.platform != "linux":
        return False
    try:
        here, there = sock.getsockname(), sock.getpeername()
        name = _NAME.pack(there[1], here[1], _packed(sock, there[0]), _packed(sock, here[0])) + _ANY
        request = _REQUEST.pack(sock.family, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF) + name
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as diag:
            diag.send(_HEAD.pack(_HEAD.size + len(request), _BY_FAMILY, 1, 0, 0) + request)
            found = diag.recv(4096, socket.MSG_DONTWAIT)
    except OSError:
        return False
    if len(found) < _INODE_AT + 4 or _HEAD.unpack_from(found)[1] != _BY_FAMILY:
        return False
    # A socket that was not accepted yet has no inode either, but has sent no FIN.
    inode = int.from_bytes(found[_INODE_AT : _INODE_AT + 4], sys.byteorder)
    return found[_STATE_AT] in _SENT_FIN and not inode


def _packed(sock: socket.socket, address: str) -> bytes:
    return socket.inet_pton(sock.family, address.partition("%")[0])
