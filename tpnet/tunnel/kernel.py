"""The kernel's own WireGuard, through netlink (pyroute2).

``tpnet.tunnel.device.open_device`` calls this. It must never leave an interface behind in its maker's
namespace.
"""

from __future__ import annotations

import errno
import os
from base64 import b64encode
from ipaddress import IPv6Address, ip_interface
from typing import TYPE_CHECKING, Any, TypeVar

from tpnet.datapath.netns import NetNs
from tpnet.kernel.netlink import IPRoute, NetlinkError, WireGuard
from tpnet.tunnel.device import DeviceError, Endpoint, PeerStats, new_name
from tpnet.tunnel.keys import check_public_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tpnet.tunnel.keys import KeyPair

T = TypeVar("T")


class KernelDevice:
    """The ``WireGuardDevice`` of kernels that have WireGuard (Linux 5.6, ``CONFIG_WIREGUARD``).

    Making it raises ``OSError``: ``EOPNOTSUPP`` where the kernel has none. The interface vanishes with the
    namespace it was moved to, so that nothing is left when its owner is killed.
    """

    kind = "kernel"
    watch = -1

    def __init__(self) -> None:
        self.name = new_name()
        self._closed = False
        # pyroute2 runs an event loop of its own, and a thread has one at most: hence a thread for each
        # question.
        self._ns = NetNs.own()
        try:
            self._ns.run(self._add)
        except NetlinkError as error:
            self._ns.close()
            raise OSError(error.code, os.strerror(error.code)) from error

    def entered(self, ns: NetNs) -> None:
        """See ``WireGuardDevice``."""
        self._ns.close()
        self._ns = NetNs(os.dup(ns.fd), ns.label)

    def configure(self, keys: KeyPair, port: int) -> int:
        """See ``WireGuardDevice``."""
        self._set(private_key=b64encode(keys.private_bytes()).decode())
        try:
            if port:
                self._run(lambda wireguard: wireguard.set(self.name, listen_port=port))
        except NetlinkError as error:
            raise DeviceError(
                f"WireGuard cannot use UDP port {port}: {os.strerror(error.code)}.",
                f"See who has it: ss -lunp 'sport = {port}'",
            ) from error
        return next((int(m.get_attr("WGDEVICE_A_LISTEN_PORT") or 0) for m in self._info()), 0)

    def move_away(self, port: int = 0) -> int:
        """See ``WireGuardDevice``."""
        try:
            self._set(listen_port=port)
        except DeviceError:
            self._set(listen_port=0)
        return next((int(m.get_attr("WGDEVICE_A_LISTEN_PORT") or 0) for m in self._info()), 0)

    def set_peer(
        self, public_key: str, allowed: IPv6Address, *, endpoint: Endpoint | None = None, keepalive: int = 0
    ) -> None:
        """See ``WireGuardDevice``."""
        check_public_key(public_key)
        peer: dict[str, Any] = {
            "public_key": public_key,
            "persistent_keepalive": keepalive,
            "replace_allowed_ips": True,
            "allowed_ips": [f"{allowed}/128"],
        }
        if endpoint is not None:
            peer["endpoint_addr"], peer["endpoint_port"] = endpoint
        self._set(peer=peer)

    def remove_peer(self, public_key: str) -> None:
        """See ``WireGuardDevice``."""
        check_public_key(public_key)
        self._set(peer={"public_key": public_key, "remove": True})

    def peers(self) -> dict[str, PeerStats]:
        """See ``WireGuardDevice``."""
        return parse_peers(self._info())

    def alive(self) -> bool:
        """See ``WireGuardDevice``: the kernel's device cannot die of itself."""
        return not self._closed

    def close(self) -> None:
        """See ``WireGuardDevice``."""
        if self._closed:
            return
        self._closed = True

        try:
            self._ns.run(self._remove)
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise DeviceError(f"{self.name} could not be removed: {os.strerror(error.code)}.") from error
        finally:
            self._ns.close()

    def _add(self) -> None:
        with IPRoute() as route:
            route.link("add", ifname=self.name, kind="wireguard")

    def _remove(self) -> None:
        with IPRoute() as route:
            for index in route.link_lookup(ifname=self.name):
                route.link("del", index=index)

    def _set(self, **settings: Any) -> None:
        try:
            self._run(lambda wireguard: wireguard.set(self.name, **settings))
        except NetlinkError as error:
            raise DeviceError(
                f"The kernel refused a WireGuard setting of {self.name}: {os.strerror(error.code)}."
            ) from error

    def _info(self) -> list[Any]:
        try:
            return self._run(lambda wireguard: list(wireguard.info(self.name)))
        except NetlinkError as error:
            raise DeviceError(f"The kernel does not know {self.name}: {os.strerror(error.code)}.") from error

    def _run(self, ask: Callable[[Any], T]) -> T:
        """Ask over a netlink socket made for this one question in the namespace where the interface is."""

        def inside() -> T:
            with WireGuard() as wireguard:
                return ask(wireguard)

        return self._ns.run(inside)


def parse_peers(messages: Iterable[Any]) -> dict[str, PeerStats]:
    """The peers in a dump, which may span several messages.

    See WG_CMD_GET_DEVICE in include/uapi/linux/wireguard.h. A peer with many addresses is continued in
    the next message; ours have one.
    """
    found: dict[str, PeerStats] = {}
    for message in messages:
        for peer in message.get_attr("WGDEVICE_A_PEERS") or ():
            key = peer.get_attr("WGPEER_A_PUBLIC_KEY").decode()
            endpoint = peer.get_attr("WGPEER_A_ENDPOINT")
            handshake = peer.get_attr("WGPEER_A_LAST_HANDSHAKE_TIME") or {"tv_sec": 0, "tv_nsec": 0}
            allowed = next(
                (
                    address
                    for entry in peer.get_attr("WGPEER_A_ALLOWEDIPS") or ()
                    if isinstance(address := ip_interface(entry["addr"]).ip, IPv6Address)
                ),
                None,
            )
            found[key] = PeerStats(
                public_key=key,
                allowed=allowed,
                endpoint=(endpoint["addr"], endpoint["port"]) if endpoint else None,
                last_handshake=handshake["tv_sec"] + handshake["tv_nsec"] / 1e9,
                rx=peer.get_attr("WGPEER_A_RX_BYTES") or 0,
                tx=peer.get_attr("WGPEER_A_TX_BYTES") or 0,
            )
    return found
