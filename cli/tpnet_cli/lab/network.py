"""The lab's namespaces, bridges, veth pairs, addresses and routes, over netlink.

``tpnet_cli.lab.build`` calls it.

Must never make an interface in the namespace of its caller: every pair is born where it belongs.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from pyroute2 import netns as named

from tpnet.datapath.netns import NAMED, NetNs
from tpnet.kernel.netlink import IPRoute
from tpnet_cli.lab.plan import (
    CLIENTS,
    FABRIC,
    LAPTOPS,
    MASKS,
    NODE,
    PLACES,
    PODS_GATEWAY,
    PODS_NETWORK,
    SHOPS,
    LabPaths,
    Place,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_NO_DAD = 0x02
"""IFA_F_NODAD, include/uapi/linux/if_addr.h: an IPv6 address can be used at once."""
_UPLINK = "eth0"
_BRIDGE = "br0"


def make_namespace(name: str) -> int:
    """Make a named namespace with ``lo`` up; gives its inode.

    In this process, unlike pyroute2's: a child of a process that was killed could make it after it was looked for.
    Raises ``OSError`` when the name is taken, ``Refused`` when the caller may not.
    """
    NAMED.mkdir(mode=0o755, parents=True, exist_ok=True)
    with NetNs.anonymous(name) as netns:
        netns.run(_first_settings)
        netns.bind(NAMED / name)
        return netns.inode


def remove_namespace(name: str, inode: int) -> bool:
    """Remove the name, if it stands for that very namespace (or for nothing); says whether it did."""
    path = NAMED / name
    with contextlib.suppress(OSError):
        status = path.stat()
        if inode and status.st_ino != inode and _is_namespace(path):
            return False
        named.remove(name)
        return True
    return False


def connect(paths: LabPaths) -> None:
    """Join the lab's namespaces: the machines over the fabric, the shops behind the node."""
    with contextlib.ExitStack() as stack:
        spaces = {name: stack.enter_context(NetNs.from_name(paths.netns(name))) for name in PLACES}
        node = spaces[NODE.name]
        spaces[FABRIC.name].run(lambda: _make_bridge(()))
        node.run(lambda: _make_bridge(PODS_GATEWAY))
        for place in (NODE, *CLIENTS, *LAPTOPS):
            _attach(spaces[FABRIC.name], spaces[place.name], place, gateway=())
        for place in SHOPS:
            _attach(node, spaces[place.name], place, gateway=PODS_GATEWAY)
        for place in (*CLIENTS, *LAPTOPS):
            spaces[place.name].run(_route_to_pods)
        node.run(_forward)


def switch_port(place: str, *, on: bool) -> None:
    """Detach a machine from the fabric's bridge, in whose namespace this runs, or attach it again.

    The machine's own interface stays up, so that nothing tells it: packets vanish.
    """
    with IPRoute() as route:
        master = _index(route, _BRIDGE) if on else 0
        route.link("set", index=_index(route, f"to-{place}"), master=master)


def _first_settings() -> None:
    with IPRoute() as route:
        route.link("set", index=1, state="up")  # lo


def _make_bridge(addresses: tuple[str, ...]) -> None:
    with IPRoute() as route:
        route.link("add", ifname=_BRIDGE, kind="bridge")
        index = _index(route, _BRIDGE)
        route.link("set", index=index, state="up")
        _add_addresses(route, index, addresses)


def _attach(bridge: NetNs, machine: NetNs, place: Place, gateway: tuple[str, ...]) -> None:
    """A veth pair from a bridge to a machine, born on both sides at once."""

    def on_the_bridge() -> None:
        with IPRoute() as route:
            route.link(
                "add",
                ifname=f"to-{place.name}",
                kind="veth",
                peer={"ifname": _UPLINK, "net_ns_fd": machine.fd},
            )
            route.link(
                "set", index=_index(route, f"to-{place.name}"), master=_index(route, _BRIDGE), state="up"
            )

    def on_the_machine() -> None:
        with IPRoute() as route:
            index = _index(route, _UPLINK)
            route.link("set", index=index, state="up")
            _add_addresses(route, index, (place.ipv4, place.ipv6))
            for address in _usable(gateway):
                route.route("add", dst="default", gateway=address, family=_family(address))

    bridge.run(on_the_bridge)
    machine.run(on_the_machine)


def _route_to_pods() -> None:
    with IPRoute() as route:
        for network, gateway in zip(PODS_NETWORK, (NODE.ipv4, NODE.ipv6), strict=True):
            if _usable((gateway,)):
                route.route("add", dst=network, gateway=gateway, family=_family(gateway))


def _forward() -> None:
    """Of the node alone: /proc/sys/net shows the namespace of the thread that opens it."""
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    if has_ipv6():
        Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")


def has_ipv6() -> bool:
    """Whether this kernel speaks IPv6; without it the lab has IPv4 alone."""
    return Path("/proc/sys/net/ipv6").exists()


def _usable(addresses: tuple[str, ...]) -> list[str]:
    return [address for address in addresses if address and (":" not in address or has_ipv6())]


def _add_addresses(route: Any, index: int, addresses: tuple[str, ...]) -> None:
    for address in _usable(addresses):
        version6 = ":" in address
        route.addr(
            "add",
            index=index,
            address=address,
            prefixlen=MASKS[version6],
            family=_family(address),
            **({"flags": _NO_DAD} if version6 else {}),
        )


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _index(route: Any, name: str) -> int:
    lookup: Callable[..., Any] = route.link_lookup
    return int(lookup(ifname=name)[0])


def _is_namespace(path: Path) -> bool:
    from tpnet.model import TpnetError

    try:
        NetNs.from_path(path).close()
    except TpnetError:
        return False
    return True
