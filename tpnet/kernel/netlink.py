"""What is used of pyroute2, without the rest of it, which takes a fifth of an agent's start to import.

Whoever talks to the kernel by netlink imports from here.
"""

from __future__ import annotations

from tpnet.kernel.packages import package_without_init

package_without_init("pyroute2")

from pyroute2.iproute.linux import IPRoute  # noqa: E402
from pyroute2.netlink.exceptions import NetlinkError  # noqa: E402
from pyroute2.netlink.generic.wireguard import WireGuard  # noqa: E402

__all__ = ["IPRoute", "NetlinkError", "WireGuard"]
