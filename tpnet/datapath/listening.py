"""Which TCP ports listen inside a network namespace, and on which addresses. Polled by the supervisor.

The redirect takes a SYN before anybody has looked whether the app listens, so the agent mirrors the app's
listeners (``Redirect.enable`` takes what this gives). Speaks sock_diag (linux/inet_diag.h) over a socket that
it keeps: 5 polls a second of a hundred namespaces must cost next to nothing. Must never be handed a port that
it should leave out: the agent's own listeners are known by their address.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import TYPE_CHECKING, Self

from tpnet.model import TpnetError

if TYPE_CHECKING:
    from tpnet.datapath.netns import NetNs

OUR_ADDRESS = "192.0.2.116"
"""Where the agent's listeners are bound: an address that no machine has (TEST-NET-1, RFC 5737), so that
nobody can connect to them and only redirected connections arrive."""

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST_DUMP = 0x301
_NLM_F_DUMP_INTR = 0x10
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_TCP_LISTEN = 10
_INET_DIAG_SKV6ONLY = 11
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_REQUEST = struct.Struct("=BBBBI48s")  # struct inet_diag_req_v2
_MESSAGE = 72  # sizeof(struct inet_diag_msg)
_ATTRIBUTE = struct.Struct("=HH")
_TRIES = 5


class ListenTable:
    """The listening sockets of one namespace, read as often as one likes. Holds one netlink socket there."""

    __slots__ = ("_label", "_socket")

    def __init__(self, netns: NetNs) -> None:
        self._label = netns.label
        self._socket = netns.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
        self._socket.settimeout(2.0)

    def read(self) -> dict[int, frozenset[str]]:
        """Port to the addresses it listens on; ``0.0.0.0`` and ``::`` mean all of a family.

        A dual-stack listener counts as both. Raises ``TpnetError`` when the kernel gives no answer.
        """
        ports: dict[int, set[str]] = {}
        try:
            for family in (socket.AF_INET, socket.AF_INET6):
                for port, address in self._dump(family):
                    if address != OUR_ADDRESS:
                        ports.setdefault(port, set()).add(address)
        except OSError as error:
            raise TpnetError(
                f"The kernel does not list the listening ports of {self._label}: {error}."
            ) from error
        return {port: frozenset(addresses) for port, addresses in ports.items()}

    def close(self) -> None:
        """Let go of the netlink socket."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _dump(self, family: int) -> list[tuple[int, str]]:
        for _ in range(_TRIES):
            found, whole = self._dump_once(family)
            if whole:
                break
        return found

    def _dump_once(self, family: int) -> tuple[list[tuple[int, str]], bool]:
        """What listens, and whether the table held still while the kernel walked through it."""
        body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, 1 << _TCP_LISTEN, b"")
        head = _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 0, 0)
        self._socket.send(head + body)
        found: list[tuple[int, str]] = []
        whole = True
        while True:
            data = self._socket.recv(1 << 16)
            at = 0
            while at < len(data):
                length, kind, flags, _, _ = _HEADER.unpack_from(data, at)
                whole = whole and not flags & _NLM_F_DUMP_INTR
                if kind == _NLMSG_DONE:
                    return found, whole
                if kind == _NLMSG_ERROR:
                    number = -struct.unpack_from("=i", data, at + _HEADER.size)[0]
                    raise OSError(number, "sock_diag refused")
                found += _endpoints(data[at + _HEADER.size : at + length])
                at += (length + 3) & ~3


def listening(netns: NetNs) -> dict[int, frozenset[str]]:
    """``ListenTable.read``, once."""
    with ListenTable(netns) as table:
        return table.read()


def listening_ports(netns: NetNs) -> set[int]:
    """The ports that others can reach: those that do not listen on loopback addresses only."""
    return {port for port, addresses in listening(netns).items() if reachable(addresses)}


def reachable(addresses: frozenset[str]) -> bool:
    """Whether one of these addresses is not a loopback one."""
    return not all(ipaddress.ip_address(address).is_loopback for address in addresses)


def _endpoints(message: bytes) -> list[tuple[int, str]]:
    """Port and address(es) of one ``struct inet_diag_msg`` and its attributes."""
    family = message[0]
    port = int.from_bytes(message[4:6], "big")
    if family == socket.AF_INET:
        return [(port, socket.inet_ntop(socket.AF_INET, message[8:12]))]
    source = message[8:24]
    if source[:12] == b"\0" * 10 + b"\xff\xff":
        return [(port, socket.inet_ntop(socket.AF_INET, source[12:]))]
    address = (port, socket.inet_ntop(socket.AF_INET6, source))
    if any(source) or _v6_only(message):
        return [address]
    return [address, (port, "0.0.0.0")]  # noqa: S104  what listens, not what we bind


def _v6_only(message: bytes) -> bool:
    at = _MESSAGE
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if kind == _INET_DIAG_SKV6ONLY:
            return bool(message[at + _ATTRIBUTE.size])
        at += max((length + 3) & ~3, _ATTRIBUTE.size)
    return False
