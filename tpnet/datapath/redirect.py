"""Redirects: the kernel state that hands a target's new connections to the agent. Held by the supervisor.

``Redirect`` is what every kind of redirect offers; ``EbpfRedirect`` is the first choice (Linux 5.9 and
later). A redirect must never outlive its process, and must never take a connection that the app would not
have got: nothing is pinned, and a port's entries mirror the addresses the app listens on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import struct
from typing import TYPE_CHECKING, Protocol, Self

from tpnet.datapath.hold import Hold, lock_namespace
from tpnet.datapath.listening import OUR_ADDRESS
from tpnet.datapath.netns import NetNs
from tpnet.datapath.refusal import explain_refusal
from tpnet.kernel import bpf
from tpnet.kernel.endpoint import pack_endpoint
from tpnet.kernel.netlink import IPRoute, NetlinkError
from tpnet.kernel.signs import SUPERVISOR, WORKER, Level, Signs
from tpnet.model import Conflict, Refused, TpnetError

if TYPE_CHECKING:
    from collections.abc import Collection

    from tpnet.datapath.program import Program

EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104  what the app listens on, not what we bind
"""All addresses of both families."""

KEEPALIVE = {socket.TCP_KEEPIDLE: 40, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 10}
"""The keepalive of accepted sockets, in seconds and probes: a client whose kernel answers none of ten probes is gone.
The app cannot find that out by a keepalive of its own, since that speaks to us."""

_IP_FREEBIND = 15
_BACKLOG = 4096
_PROBE_PORT = 80
_PROBE_SECONDS = 2.0
_PORTS = range(20_000, 32_000)  # below the kernel's own choice for outgoing connections


class Redirect(Protocol):
    """The redirect of one network namespace; any number of ports."""

    kind: str
    """Its name in ``status``."""
    bypass_fd: int
    """The map (``tpnet.proxy.bypass.BypassMap``) that lets the agent's own connections pass; stays the
    redirect's."""
    hold: Hold
    """Its mark, which keeps other agents away."""

    def add(self, port: int) -> socket.socket:
        """Make the listener for a port. Nothing is redirected yet.

        The listener is the caller's to use and stays the redirect's to close. Accepted sockets keep the address that
        the client called as their local address, send at once (TCP_NODELAY), are reset, not ended, if their process
        dies (SO_LINGER 0), and find out whether their client is gone (``KEEPALIVE``). Raises ``Conflict`` when the
        port was added before, ``TpnetError``.
        """

    def entrust(self, port: int) -> int:
        """From now on the port gets connections only while there are signs of life (``tpnet.kernel.signs``).

        To be called before anybody's connections are redirected: until then it gets them all. Returns the place
        of its levels, which begin at ``LOW``. May be called again, for a worker that is new.
        """

    def level(self, port: int) -> Level:
        """What the port needs to get IPv4 connections, as the worker last set it."""

    def enable(self, port: int, addresses: Collection[str] = EVERYWHERE) -> None:
        """From now on new connections to the port at exactly these local addresses come to its listener.

        ``addresses``: where the app listens, as ``ListenTable.read`` gives them. May be called again with
        others. Connections that are open, to the app or to us, stay as they are. Raises ``TpnetError``.
        """

    def disable(self, port: int) -> None:
        """From now on new connections to the port reach the app, or are refused if nothing listens.

        Who came before may still be in the listener's queue: go on accepting for a while. May be called
        again.
        """

    def remove(self, port: int) -> None:
        """``disable``, then close this process's listener for good. A port that was not added is fine."""

    def close(self) -> None:
        """Detach and let go of everything, the namespace's lock last. Further calls do nothing."""


class EbpfRedirect:
    """A ``Redirect`` by an sk_lookup program on a bpf link, and a sockhash with the listeners."""

    kind = "ebpf"

    def __init__(self, netns: NetNs, program: Program, signs: Signs) -> None:
        """Attach to ``netns`` with nothing redirected.

        Raises ``Conflict`` when another agent is there, ``Refused`` when the kernel does not want to.
        """
        self._netns = netns
        self._signs = signs
        self._places: dict[int, int] = {}
        self._listeners: dict[int, socket.socket] = {}
        self._keys: dict[int, set[bytes]] = {}
        with contextlib.ExitStack() as undo:
            self.hold = undo.enter_context(lock_namespace(netns))
            loaded = program.load(signs)
            undo.callback(loaded.close)
            self.bypass_fd = loaded.maps["bypass"]
            self._listeners_fd = loaded.maps["listeners"]
            self._places_fd = loaded.maps["places"]
            try:
                self._link = bpf.link_to_netns(loaded.program, netns.fd)
            except OSError as error:
                raise explain_refusal(error, "link") from error
            undo.callback(os.close, self._link)  # the first to go: the kernel detaches the program
            self._undo = undo.pop_all()

    def add(self, port: int) -> socket.socket:
        """See ``Redirect.add``."""
        if port in self._listeners:
            raise Conflict(f"Port {port} of {self._netns.label} is redirected already.")
        listener = make_listener(self._netns)
        try:
            place = self._signs.take_place()
        except OSError as error:
            listener.close()
            raise TpnetError(f"Port {port} of {self._netns.label} cannot be redirected: {error}.") from error
        self._signs.set_levels(place, Level.ALWAYS)
        bpf.map_update(self._places_fd, struct.pack("=I", port), struct.pack("=I", place))
        self._places[port] = place
        self._listeners[port] = listener
        self._keys[port] = set()
        return listener

    def entrust(self, port: int) -> int:
        """See ``Redirect.entrust``."""
        place = self._places[port]
        self._signs.set_levels(place, Level.LOW)
        return place

    def level(self, port: int) -> Level:
        """See ``Redirect.level``."""
        place = self._places.get(port)
        return Level.AWAY if place is None else self._signs.level(place, v4=True)

    def enable(self, port: int, addresses: Collection[str] = EVERYWHERE) -> None:
        """See ``Redirect.enable``."""
        keys = {pack_endpoint(address, port) for address in addresses}
        value = struct.pack("=Q", self._listeners[port].fileno())
        present = self._keys[port]
        for key in keys - present:
            try:
                bpf.map_update(self._listeners_fd, key, value)
            except OSError as error:
                raise TpnetError(
                    f"Port {port} of {self._netns.label} could not be redirected: {error.strerror}.",
                    "At most 1024 addresses and ports can be redirected in one namespace."
                    if error.errno == errno.E2BIG
                    else "",
                ) from error
            present.add(key)
        for key in present - keys:
            bpf.map_delete(self._listeners_fd, key)
        self._keys[port] = keys

    def disable(self, port: int) -> None:
        """See ``Redirect.disable``."""
        for key in self._keys.get(port, ()):
            bpf.map_delete(self._listeners_fd, key)
        if port in self._keys:
            self._keys[port] = set()

    def remove(self, port: int) -> None:
        """See ``Redirect.remove``."""
        self.disable(port)
        self._keys.pop(port, None)
        if listener := self._listeners.pop(port, None):
            listener.close()
            bpf.map_delete(self._places_fd, struct.pack("=I", port))
            self._signs.free_place(self._places.pop(port))

    def close(self) -> None:
        """See ``Redirect.close``."""
        for port in list(self._listeners):
            self.remove(port)
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def make_signs() -> Signs:
    """Signs of life for redirects. Raises ``Refused`` that names what is missing."""
    try:
        return Signs.create()
    except OSError as error:
        raise explain_refusal(error, "map") from error


def make_listener(netns: NetNs) -> socket.socket:
    """A listening, non-blocking TCP socket inside ``netns`` that only a redirect can bring connections to.

    Dual-stack; where the kernel has no IPv6 at all, IPv4. Raises ``TpnetError``.
    """
    try:
        listener = netns.socket(socket.AF_INET6, socket.SOCK_STREAM)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # v4-mapped: the kernel makes a listener on any other single IPv6 address IPv6-only, whatever V6ONLY
        # says.
        address = f"::ffff:{OUR_ADDRESS}"
    except OSError:
        listener = netns.socket(socket.AF_INET, socket.SOCK_STREAM)
        address = OUR_ADDRESS
    listener.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
    listener.setblocking(False)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        listener.setsockopt(socket.IPPROTO_TCP, option, value)
    # Accepted sockets hold the app's port (__inet_inherit_port); with this they do not keep an app that
    # restarts, and sets it too, from binding it.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for port in random.sample(_PORTS, 50):
        try:
            listener.bind((address, port))
            listener.listen(_BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            listener.close()
            raise TpnetError(f"No listener could be made in {netns.label}: {error.strerror}.") from error
        return listener
    listener.close()
    raise TpnetError(f"No free port was found in {netns.label} for a listener.")


def probe(program: Program) -> None:
    """Prove that a redirect works on this kernel, in a namespace made for it. Milliseconds, once at start.

    Raises ``Refused`` when the kernel refuses something, ``TpnetError`` when no connection comes through.
    """
    with (
        contextlib.closing(make_signs()) as signs,
        NetNs.anonymous("the self-test") as netns,
        EbpfRedirect(netns, program, signs) as redirect,
        netns.socket(socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        try:
            netns.run(_loopback_up)
        except NetlinkError as error:
            raise Refused(
                f"The self-test of the redirect cannot set up its namespace: {os.strerror(error.code)}.",
                "Run the agent as root; in a container, with CAP_NET_ADMIN.",
            ) from error
        listener = redirect.add(_PROBE_PORT)
        redirect.entrust(_PROBE_PORT)
        signs.beat(WORKER)
        signs.beat(SUPERVISOR)
        redirect.enable(_PROBE_PORT)
        listener.settimeout(_PROBE_SECONDS)
        client.settimeout(_PROBE_SECONDS)
        try:
            client.connect(("127.0.0.1", _PROBE_PORT))
            listener.accept()[0].close()
        except OSError as error:
            raise TpnetError(
                f"The self-test of the redirect failed: no connection reached its listener ({error}).",
                "Is another sk_lookup program at work? bpftool link show tells.",
            ) from error


def _loopback_up() -> None:
    with IPRoute() as ip:
        ip.link("set", index=ip.link_lookup(ifname="lo")[0], state="up")
