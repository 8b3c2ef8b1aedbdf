"""What a tunnel needs of a WireGuard device, and the choice between the two that there are.

``tpnet.tunnel.end`` calls this. Drivers must never log or return a private key (``get`` of wireguard-go
prints it).
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tpnet.kernel.uids import WORKER_UIDS
from tpnet.model import TpnetError

if TYPE_CHECKING:
    from ipaddress import IPv6Address

    from tpnet.datapath.netns import NetNs
    from tpnet.tunnel.keys import KeyPair

Endpoint = tuple[str, int]
"""An IP address and a UDP port."""

NAME_PREFIX = "tpn"
"""Every interface of ours is called this and eight hex digits."""


class DeviceError(TpnetError):
    """The WireGuard device could not be made or refused a setting."""


@dataclass(frozen=True, slots=True)
class PeerStats:
    """One peer as the device sees it.

    ``last_handshake`` in Unix seconds, 0 for never; ``rx`` and ``tx`` in bytes.
    """

    public_key: str
    allowed: IPv6Address | None
    endpoint: Endpoint | None
    last_handshake: float
    rx: int
    tx: int


class WireGuardDevice(Protocol):
    """A WireGuard interface, born in its maker's network namespace.

    When it is moved, its UDP socket stays there. Every call blocks for some milliseconds and raises
    ``DeviceError``.
    """

    name: str
    """The interface's name, unique on the machine."""
    kind: str
    """``kernel`` or ``wireguard-go``."""
    watch: int
    """A descriptor that becomes readable when the device has died, the device's own; -1 where it never does."""

    def entered(self, ns: NetNs) -> None:
        """The interface has been moved to this namespace: later calls find it there."""

    def configure(self, keys: KeyPair, port: int) -> int:
        """Set the own key and UDP port (0: any free one), with the link up. Returns the port in use."""

    def move_away(self, port: int = 0) -> int:
        """Use another UDP port from now on, or any free one where that is taken; which is returned."""

    def set_peer(
        self, public_key: str, allowed: IPv6Address, *, endpoint: Endpoint | None = None, keepalive: int = 0
    ) -> None:
        """Add a peer or change it. Without an endpoint it speaks first. ``keepalive`` in seconds, 0: off."""

    def remove_peer(self, public_key: str) -> None:
        """Forget a peer and its keys; one that is not there is no error."""

    def peers(self) -> dict[str, PeerStats]:
        """Every peer by its public key."""

    def alive(self) -> bool:
        """Whether the device still works; once False it stays False and a new one must be opened."""

    def close(self) -> None:
        """Remove the interface. May be called twice."""


def new_name() -> str:
    """An interface name that nobody has: 11 characters, of the 15 that Linux allows."""
    return NAME_PREFIX + os.urandom(4).hex()


def open_device(uids: range = WORKER_UIDS) -> tuple[WireGuardDevice, str]:
    """A device, still down, in the caller's namespace; and a sentence that says why it is of this kind.

    The kernel's own WireGuard is taken where it is there, else ``wireguard-go``, which becomes one of the users ``uids``.
    Raises ``DeviceError``.
    """
    from tpnet.tunnel.kernel import KernelDevice
    from tpnet.tunnel.wireguard_go import WireGuardGo

    try:
        return KernelDevice(), "The kernel has WireGuard."
    except OSError as error:
        # EOPNOTSUPP: no such link kind, and no module to load for it (rtnl_newlink in net/core/rtnetlink.c).
        why = (
            "The kernel has no WireGuard (module wireguard, CONFIG_WIREGUARD)"
            if error.errno == errno.EOPNOTSUPP
            else f"The kernel's WireGuard cannot be used ({error.strerror or error})"
        )
    return WireGuardGo(uids), f"{why}; wireguard-go runs in its place."
