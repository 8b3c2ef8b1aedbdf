"""The app sees the client's own address: what that takes in a target's namespace, and sockets that do it.

Called by the supervisor when a target is intercepted, when it no longer is, and at start (``sweep``). The
worker binds its connection to the app to the client's address (IP_TRANSPARENT). Its mark goes with the SYN to
the app's accepted socket (``tcp_fwmark_accept``), or to the kernel's RST when nothing listens
(``fwmark_reflect``), so that answers follow one rule to one local route and stay inside. For packets without
the mark nothing changes. Must never touch the host's namespace,
nor netfilter, nor ``route_localnet``.

Order matters: the rule comes first and goes last, so whoever finds our rule knows that the rest may be ours,
and whoever does not find it touches nothing.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tpnet.datapath.hold import lock_namespace, others_in
from tpnet.datapath.netns import streams
from tpnet.kernel.filters import attach
from tpnet.kernel.netlink import IPRoute, NetlinkError
from tpnet.model import InvalidInput, TpnetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tpnet.datapath.netns import NetNs

MARK = 0x74700000
MASK = 0xFFFF0000
"""Outside the 0xfff that Istio uses inside pods. Marks do not leave a namespace, so those of nodes do not
matter."""
PRIORITY = 747
"""Of the rule: after the local table (0), before any rule that a pod's network plugin adds for all
packets."""
PROTOCOL = 116
"""Who made the rule and the route, as ``ip rule`` and ``ip route`` show it (rt_protos: nobody's)."""
TABLE = 29808

_NEEDED = "tcp_fwmark_accept"
_SYSCTLS = {
    _NEEDED: Path("/proc/sys/net/ipv4/tcp_fwmark_accept"),  # for IPv6 too
    "ipv4_fwmark_reflect": Path("/proc/sys/net/ipv4/fwmark_reflect"),
    "ipv6_fwmark_reflect": Path("/proc/sys/net/ipv6/fwmark_reflect"),
}
BEFORE = {_NEEDED: "0"}
"""What is taken to have been there before when nobody knows: the kernel's default."""
_LO_WITHOUT_IPV6 = Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6")

_ANYWHERE: dict[int, str] = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Nobody's addresses (RFC 5737, RFC 3849)."""
_RTN_LOCAL = 2
_SCOPE_HOST = 254
_SO_MARK = 36
_IP_TRANSPARENT = 19
_IPV6_TRANSPARENT = 75


class SourceAddress:
    """One namespace's changes. ``families``: AF_INET, and AF_INET6 unless the namespace has it disabled.

    Use: look (the constructor), write ``to_json`` down, ``apply``; later ``undo``, throw the record away.
    """

    __slots__ = ("_before", "_netns", "families")

    def __init__(self, netns: NetNs) -> None:
        """Look at what is there, change nothing. Raises ``TpnetError`` when the kernel lacks it."""
        self._netns = netns
        self._before, self.families = netns.run(_look)

    def to_json(self) -> dict[str, Any]:
        """What was there before, for ``sweep`` after a crash. Write it down before ``apply``."""
        return dict(self._before)

    @classmethod
    def from_json(cls, netns: NetNs, data: dict[str, Any]) -> Self:
        """The changes that ``to_json`` spoke of, in this namespace. Raises ``InvalidInput``."""
        if _NEEDED not in data or not all(data.get(name, "0") in {"0", "1"} for name in _SYSCTLS):
            raise InvalidInput(f"The record of {netns.label} has no value of {_NEEDED}, or a strange one.")
        found = cls(netns)
        found._before = {name: data.get(name, "0") for name in found._before}
        return found

    def apply(self) -> None:
        """Make the changes; those already there stay. Raises ``TpnetError``, with nothing left behind."""
        try:
            self._netns.run(self._apply)
        except (NetlinkError, OSError) as error:
            self.undo()
            raise TpnetError(
                f"The client's address cannot be kept in {self._netns.label}: {_reason(error)}.",
                "Its interface lo must be up, and this process needs CAP_NET_ADMIN and a writable /proc/sys.",
            ) from error

    def holds(self) -> bool:
        """Whether it is as ``apply`` has made it: the app's answers stay inside. Half a millisecond; raises nothing."""
        try:
            return self._netns.run(self._holds)
        except (NetlinkError, OSError, TpnetError):
            return False

    def undo(self) -> None:
        """Put everything back as it was. May be called again. Raises ``TpnetError``."""
        try:
            self._netns.run(self._undo)
        except (NetlinkError, OSError) as error:
            raise TpnetError(
                f"{self._netns.label} could not be put back as it was: {_reason(error)}."
            ) from error

    def _apply(self) -> None:
        with IPRoute() as ip:
            loopback = ip.link_lookup(ifname="lo")[0]
            for family in self.families:
                _unless_there(lambda f=family: ip.rule("add", family=f, **_RULE))
                _unless_there(
                    lambda f=family: ip.route("add", family=f, dst="default", oif=loopback, **_ROUTE)
                )
        for name, before in self._before.items():
            if before != "1":
                _SYSCTLS[name].write_text("1", encoding="ascii")

    def _holds(self) -> bool:
        before, families = _look()
        with IPRoute() as ip:
            return before[_NEEDED] == "1" and all(
                ip.route("get", family=family, dst=_ANYWHERE[family], mark=MARK)[0]["type"] == _RTN_LOCAL
                for family in families
            )

    def _undo(self) -> None:
        for name, before in self._before.items():
            if _SYSCTLS[name].read_text(encoding="ascii").strip() != before:
                _SYSCTLS[name].write_text(before, encoding="ascii")
        with IPRoute() as ip:
            for family in (socket.AF_INET, socket.AF_INET6):
                for route in _our_routes(ip, family):
                    ip.route("del", family=family, dst="default", oif=route.get_attr("RTA_OIF"), **_ROUTE)
                for _ in _our_rules(ip, family):
                    ip.rule("del", family=family, **_RULE)


def sweep(netns: NetNs, recorded: dict[str, Any] | None = None) -> bool:
    """Undo what an agent that died left in ``netns``; whether there was anything.

    ``recorded`` is its ``to_json``; without it the sysctls go back to the kernel's default, 0. Only for a
    namespace whose lock (``hold.lock_namespace``) the caller holds. Raises ``TpnetError``.
    """
    if not netns.run(_has_ours):
        return False
    SourceAddress.from_json(netns, recorded or BEFORE).undo()
    return True


def sweep_all(namespaces: Iterable[NetNs], recorded: Mapping[str, dict[str, Any]]) -> list[str]:
    """``sweep`` those of ``namespaces`` where no agent lives; the labels of those that had something.

    ``recorded``: ``to_json`` by ``str(netns.inode)``. A namespace that cannot be swept does not keep the
    others from it: what is left there is inert. Some 2 ms for each namespace.
    """
    swept = []
    for netns in namespaces:
        with contextlib.suppress(TpnetError, NetlinkError):
            # Look before taking the lock: somebody else may be about to take it.
            if not netns.run(_has_ours):
                continue
            with lock_namespace(netns) as hold:
                if others_in(netns, {hold.number}):
                    continue  # an agent that ends has connections there
                if sweep(netns, recorded.get(str(netns.inode))):
                    swept.append(netns.label)
    return swept


def app_sockets(netns: NetNs, family: int, count: int, program: int = -1) -> list[socket.socket]:
    """Unconnected sockets for connections to the app that may be bound to any source address (20 us each).

    Non-blocking, TCP_NODELAY, marked; fewer where descriptors run out. ``family``: AF_INET or AF_INET6. ``program``: a
    filter of what may arrive at them (``tpnet.kernel.filters``). Raises ``OSError``: EMFILE when there is not one, EPERM
    without CAP_NET_ADMIN.
    """
    level, option = (
        (socket.IPPROTO_IP, _IP_TRANSPARENT)
        if family == socket.AF_INET
        else (socket.IPPROTO_IPV6, _IPV6_TRANSPARENT)
    )
    made = streams(netns, family, count)
    try:
        for sock in made:
            sock.setsockopt(level, option, 1)
            sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, MARK)
            if program >= 0:
                attach(sock, program)
    except OSError:
        for sock in made:
            sock.close()
        raise
    return made


def app_socket(netns: NetNs, family: int) -> socket.socket:
    """``app_sockets``, one."""
    return app_sockets(netns, family, 1)[0]


_RULE = {
    "table": TABLE,
    "priority": PRIORITY,
    "fwmark": MARK,
    "fwmask": MASK,
    "protocol": PROTOCOL,
}
_ROUTE = {"type": _RTN_LOCAL, "scope": _SCOPE_HOST, "table": TABLE, "proto": PROTOCOL}


def _look() -> tuple[dict[str, str], tuple[int, ...]]:
    before = {}
    for name, path in _SYSCTLS.items():
        try:
            before[name] = path.read_text(encoding="ascii").strip()
        except FileNotFoundError as error:
            if name == _NEEDED:
                raise TpnetError(f"The client's address cannot be kept: there is no {path}.") from error
        except OSError as error:
            raise TpnetError(
                f"The client's address cannot be kept: {path} cannot be read ({error.strerror})."
            ) from error
    try:
        with_ipv6 = _LO_WITHOUT_IPV6.read_text(encoding="ascii").strip() == "0"
    except OSError:
        with_ipv6 = False
    return before, (socket.AF_INET, socket.AF_INET6) if with_ipv6 else (socket.AF_INET,)


def _has_ours() -> bool:
    with IPRoute() as ip:
        return any(_our_rules(ip, family) for family in (socket.AF_INET, socket.AF_INET6))


def _our_rules(ip: Any, family: int) -> list[Any]:
    return [
        rule
        for rule in ip.get_rules(family=family)
        if rule.get_attr("FRA_PRIORITY") == PRIORITY
        and rule.get_attr("FRA_PROTOCOL") == PROTOCOL
        and rule.get_attr("FRA_FWMARK") == MARK
    ]


def _our_routes(ip: Any, family: int) -> list[Any]:
    return [route for route in ip.get_routes(family=family, table=TABLE) if route["proto"] == PROTOCOL]


def _unless_there(add: Any) -> None:
    try:
        add()
    except NetlinkError as error:
        if error.code != 17:  # EEXIST
            raise


def _reason(error: Exception) -> str:
    return str(error.args[-1] if error.args else error)
