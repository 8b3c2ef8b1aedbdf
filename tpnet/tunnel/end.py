"""One end of a tunnel: a WireGuard device in a namespace of its own, with nothing else in it.

The agent makes one for its node, the session daemon one for the laptop. It must never change anything in
the namespace it is made in: there it leaves only the device's UDP socket. Whatever it makes hangs on this
process (the namespace on a file descriptor, the device on the namespace, the child on its parent), so that
nothing outlives it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from tpnet.datapath.netns import NetNs
from tpnet.kernel.netlink import IPRoute, NetlinkError
from tpnet.kernel.uids import WORKER_UIDS
from tpnet.tunnel.device import DeviceError, Endpoint, PeerStats, WireGuardDevice, open_device
from tpnet.tunnel.keys import KeyPair, address_of, prefix_of
from tpnet.tunnel.path import FULL, SMALLEST

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv6Address, IPv6Network

MTU = FULL
"""Bytes of an inner packet. IPv6's minimum (RFC 8200, section 5): every path of 1,360 bytes carries it."""
AGENT_UDP_PORT = 21820
"""The agent's WireGuard port; below 32768, so that no connection of the node happens to have it."""
_IFA_F_NODAD = 0x02  # linux/if_addr.h: usable at once; nobody else can have the address

_SYSCTLS = {
    # Peers reach neither each other nor anything else: no packet is ever passed on. The first can be
    # inherited as 1 from a node that forwards (net.core.devconf_inherit_init_net,
    # Documentation/admin-guide/sysctl/net.rst).
    "ipv4/ip_forward": "0",
    # Unacknowledged bytes end a connection after 50 s, not after 15 minutes (RFC 1122 4.2.3.5 asks for 100 s on the open
    # Internet; whether the other end lives is known by its heartbeat here). A closed window does not count.
    "ipv4/tcp_retries2": "7",
    "ipv6/conf/all/forwarding": "0",
    "ipv6/conf/all/disable_ipv6": "0",
    "ipv6/conf/all/accept_redirects": "0",
    "ipv6/conf/{name}/disable_ipv6": "0",
    "ipv6/conf/{name}/accept_ra": "0",
    "ipv6/conf/{name}/accept_redirects": "0",
    "ipv6/conf/{name}/addr_gen_mode": "1",  # no link-local address: the one address is the key's
}


class TunnelEnd:
    """A device, its private namespace, and the peers. Made by ``open`` or ``open_async``.

    ``address`` is the own tunnel address, ``port`` the UDP port in the caller's namespace, ``mtu`` in bytes,
    ``reason`` a sentence on why the device is of the kind it is.
    """

    def __init__(self, keys: KeyPair, prefix: IPv6Network, mtu: int, uids: range) -> None:
        self.keys = keys
        self.prefix = prefix
        self._uids = uids
        self.mtu = mtu
        self.port = 0
        self.address: IPv6Address = address_of(keys.public, prefix)
        self._closed = False
        self._paths: dict[IPv6Address, int] = {}
        self.ns = NetNs.anonymous("tunnel")
        try:
            self.device: WireGuardDevice
            self.device, self.reason = open_device(uids)
        except BaseException:
            self.ns.close()
            raise
        self._birthplace = NetNs.own()

    @classmethod
    def open(
        cls,
        keys: KeyPair,
        *,
        prefix: IPv6Network | None = None,
        port: int = 0,
        mtu: int = MTU,
        uids: range = WORKER_UIDS,
    ) -> TunnelEnd:
        """Make a tunnel end. Blocks for about a second with wireguard-go. ``port`` 0: any free one.

        ``uids``: users, of which a process that is the device becomes one.
        To be called in the process's main thread. Raises ``DeviceError``.
        """
        end = cls(keys, prefix or prefix_of(), mtu, uids)
        with end._closed_on_failure():
            end._place(port)
        return end

    @classmethod
    async def open_async(
        cls,
        keys: KeyPair,
        *,
        prefix: IPv6Network | None = None,
        port: int = 0,
        mtu: int = MTU,
        uids: range = WORKER_UIDS,
    ) -> TunnelEnd:
        """Like ``open``, in an event loop of the main thread, which goes on meanwhile."""
        end = cls(keys, prefix or prefix_of(), mtu, uids)
        with end._closed_on_failure():
            await asyncio.to_thread(end._place, port)
        return end

    async def revive(self) -> None:
        """Another device in the place of one that has died, with the same key and UDP port, and no peers yet.

        The namespace is the same, and with it every socket in it: what was open goes on once the peers are back. In
        the main thread. Raises ``DeviceError``; to be tried again then.
        """
        self.device.close()
        self._birthplace.close()
        self._birthplace = NetNs.own()
        self.device, self.reason = open_device(self._uids)
        try:
            await asyncio.to_thread(self._place, self.port)
        except BaseException:
            self.device.close()
            raise

    @contextlib.contextmanager
    def _closed_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _place(self, port: int) -> None:
        try:
            self._birthplace.run(self._move)
            self.ns.run(self._set_up)
            self.device.entered(self.ns)
            self.port = self.device.configure(self.keys, port)
            self._birthplace.close()
        except (OSError, NetlinkError) as error:
            code = error.code if isinstance(error, NetlinkError) else error.errno
            raise DeviceError(
                f"The tunnel's network namespace could not be set up: {os.strerror(code or 0)}.",
                "It takes root (CAP_NET_ADMIN and CAP_SYS_ADMIN).",
            ) from error

    def _move(self) -> None:
        with IPRoute() as route:
            (index,) = route.link_lookup(ifname=self.device.name)
            route.link("set", index=index, net_ns_fd=self.ns.fd)

    def _set_up(self) -> None:
        if not Path("/proc/sys/net/ipv6").exists():
            raise DeviceError(
                "The tunnel needs IPv6 inside its own namespace, and this kernel was started without it.",
                "Start it without ipv6.disable=1; ipv6.disable_ipv6=1 does no harm.",
            )
        for key, value in _SYSCTLS.items():
            Path("/proc/sys/net", key.format(name=self.device.name)).write_text(value)
        with IPRoute() as route:
            (lo,) = route.link_lookup(ifname="lo")
            route.link("set", index=lo, state="up")
            (index,) = route.link_lookup(ifname=self.device.name)
            route.link("set", index=index, mtu=self.mtu)
            route.addr("add", index=index, address=str(self.address), prefixlen=128, flags=_IFA_F_NODAD)
            route.link("set", index=index, state="up")

    def add_peer(
        self, public_key: str, *, endpoint: Endpoint | None = None, keepalive: int = 0
    ) -> IPv6Address:
        """Let the holder of a key in, at the one address that is its own, which is returned.

        Without ``endpoint`` the peer speaks first. ``keepalive`` in seconds, 0 for none. A peer that is there
        already is forgotten first, since one that has restarted, or is tried at another endpoint, needs a
        fresh handshake (else WireGuard keeps silent for 5 s to 15 s).
        Raises ``DeviceError``, ``InvalidInput``.
        """
        address = address_of(public_key, self.prefix)
        self.device.remove_peer(public_key)
        self.device.set_peer(public_key, address, endpoint=endpoint, keepalive=keepalive)
        self._route("replace", address)
        return address

    def set_endpoint(self, public_key: str, endpoint: Endpoint, *, keepalive: int = 0) -> None:
        """Point a peer that is there to an endpoint, be it the one it has; its keys and streams stay.

        To be called when the peer falls silent: wireguard-go sticks to the source address it first sent from.
        It chooses anew on EINVAL only, while recent kernels (seen: 6.18) answer ENETUNREACH for one that is
        gone; setting the endpoint makes it choose. Raises ``DeviceError``.
        """
        self.device.set_peer(
            public_key, address_of(public_key, self.prefix), endpoint=endpoint, keepalive=keepalive
        )

    def set_path(self, public_key: str, size: int) -> None:
        """Send a peer packets of at most ``size`` bytes (0: the smallest that are ever tried), from now on.

        TCP connections that are open go on with smaller segments, and send again what was lost. The device's own MTU
        stays, since below 1280 the kernel takes IPv6 from it. Raises ``DeviceError``.
        """
        address = address_of(public_key, self.prefix)
        self._paths[address] = size or SMALLEST
        self._route("replace", address)

    def move_away(self, port: int = 0) -> None:
        """Give up the UDP port for another, or any. Peers follow with the next packet to them. Raises ``DeviceError``."""
        self.port = self.device.move_away(port)

    def remove_peer(self, public_key: str) -> None:
        """Forget a peer: what it sends is dropped, connecting to it fails at once. May be called twice."""
        self.device.remove_peer(public_key)
        address = address_of(public_key, self.prefix)
        self._paths.pop(address, None)
        self._route("del", address)

    def peers(self) -> dict[str, PeerStats]:
        """Every peer by its public key. Raises ``DeviceError``."""
        return self.device.peers()

    def alive(self) -> bool:
        """Whether the device still works. When it does not: ``revive``."""
        return self.device.alive()

    def socket(self, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A blocking IPv6 socket inside the tunnel's namespace; ``kind`` as ``socket.socket`` takes it."""
        return self.ns.socket(socket.AF_INET6, kind)

    def close(self) -> None:
        """Remove the device and the namespace. Sockets that were made here stay open, and dead."""
        if self._closed:
            return
        self._closed = True
        try:
            self.device.close()
        finally:
            self._birthplace.close()
            self.ns.close()

    def _route(self, verb: str, address: IPv6Address) -> None:
        def change() -> None:
            with IPRoute() as route:
                (index,) = route.link_lookup(ifname=self.device.name)
                size = self._paths.get(address, self.mtu)
                metrics = {"mtu": size} if verb == "replace" and size < self.mtu else {}
                route.route(verb, dst=f"{address}/128", oif=index, metrics=metrics)

        try:
            self.ns.run(change)
        except NetlinkError as error:
            if verb == "del" and error.code == errno.ESRCH:
                return
            raise DeviceError(
                f"The route to {address} could not be set: {os.strerror(error.code)}."
            ) from error
