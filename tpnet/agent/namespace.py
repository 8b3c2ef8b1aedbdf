"""One namespace with targets in it: what is open and changed there, and a door for each port.

``tpnet.agent.targets`` makes, probes, follows and closes them. Opening and closing block for some
milliseconds and run in threads; the methods of ``Door`` are a few system calls. It must never leave a change
behind that is not on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from tpnet.datapath.changes import Changes
from tpnet.datapath.hold import Hold, others_in, stay_on
from tpnet.datapath.listening import ListenTable
from tpnet.datapath.netns import NetNs
from tpnet.datapath.redirect import EbpfRedirect, Redirect
from tpnet.datapath.source_address import BEFORE, SourceAddress
from tpnet.datapath.target import resolve_targets
from tpnet.kernel.netlink import IPRoute, NetlinkError
from tpnet.kernel.signs import Level
from tpnet.model import Refused, TpnetError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from tpnet.agent.reconcile import Wanted
    from tpnet.agent.state import StateFile
    from tpnet.control.local.store import TargetKey
    from tpnet.datapath.program import Program
    from tpnet.datapath.target import Target
    from tpnet.kernel.signs import Signs

_log = logging.getLogger(__name__)

PROBE_ADDRESS = "127.116.112.110"
"""Where a new redirect is tried: nobody calls it, so that a probe meets no client and the app hears none."""
_PROBE_SECONDS = 2.0
UNDONE = (
    "something in the pod has removed tpnet's rule or route, or turned its sysctl or the interface lo off: new"
    " connections go to the app"
)
LOOK_SECONDS = 10.0
"""Seconds between two looks at what nobody tells of, which are sysctls."""
PUT_BACK_SECONDS = 30.0
"""Seconds until what somebody has undone is done again: who does so on purpose is not fought with."""
_RT_SCOPE_UNIVERSE = 0  # linux/rtnetlink.h: not a loopback or link-local address


class LiveNamespace:
    """A target's namespace while anything of it is redirected, or a connection still passes through.

    By port: ``doors`` are those that are wanted; ``left`` those that nobody wants any more, and whose open connections
    have yet to end. A port is in one of the two at most. ``undone``: why nobody can be redirected here, since somebody
    has undone what that takes; empty while all is well.
    """

    def __init__(
        self, target: Target, redirect: Redirect, source: SourceAddress, table: ListenTable, changes: Changes
    ) -> None:
        self.target = target
        self.netns: NetNs = target.netns
        self.redirect = redirect
        self.source = source
        self.table = table
        self.undone = ""
        self._changes = changes
        self._look_at = time.monotonic() + LOOK_SECONDS
        self.addresses = addresses_of(self.netns)
        self.doors: dict[int, Door] = {}
        self.left: dict[int, Door] = {}
        self.trouble = ""
        self._marks = {redirect.hold.number}
        self._stays: Hold | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing here is redirected and no connection passes through."""
        return not self.doors and not self.left

    def has(self, number: int) -> bool:
        """Whether the target of that number is here, be it one that was left."""
        return any(door.number == number for door in (*self.doors.values(), *self.left.values()))

    @property
    def to_look_at(self) -> bool:
        """Whether somebody may have undone what is changed here, or ``look`` is to put it back."""
        return self._changes.seen() or time.monotonic() >= self._look_at

    def look(self) -> None:
        """Set ``undone``. Blocks for a millisecond."""
        now = time.monotonic()
        if self.undone and now >= self._look_at:
            with contextlib.suppress(TpnetError):
                self.source.apply()
            self._look_at = now + PUT_BACK_SECONDS
        before, self.undone = self.undone, "" if self.source.holds() else UNDONE
        if self.undone and not before:
            self._look_at = now + PUT_BACK_SECONDS
            _log.warning("%s: %s", self.target.name, self.undone)
        elif not self.undone:
            self._look_at = now + LOOK_SECONDS
            if before:
                _log.info("%s: what a redirect takes is there again", self.target.name)

    def rename(self, target: Target) -> None:
        """The namespace goes by this target's name from now on. What is open stays; ``target`` is used up."""
        target.close()
        self.target = replace(target, netns=self.netns)
        for door in self.left.values():
            door.name, door.key = target.name, (target.name, door.port)

    def withdraw(self) -> None:
        """Redirect nothing here any more, and let another agent do so; what open connections need stays. Blocks.

        Raises ``TpnetError``, with nothing redirected all the same.
        """
        try:
            if self._stays is None:
                self._stays = stay_on(self.netns)
                self._marks.add(self._stays.number)
        finally:
            self.redirect.close()

    def close(self, state: StateFile) -> None:
        """Undo every change, unless another agent needs it; the lock last. Blocks.

        What cannot be undone is inert, stays on disk, and is swept later.
        """
        try:
            with state.held():
                if not others_in(self.netns, self._marks):
                    self.source.undo()
                    state.forget(self.netns.inode)
        except (TpnetError, OSError) as error:
            _log.warning("%s: %s", self.target.name, error)
        self.redirect.close()
        if self._stays is not None:
            self._stays.close()
        self._changes.close()
        self.table.close()
        self.target.close()


class Door:
    """One target: a port whose new connections come to ``listener`` while it is enabled.

    ``number`` names it to the worker, for as long as that has a connection of it. ``since``: from when
    it is ready or not, in Unix seconds. Once it is ``left``, ``accepts`` is true while the worker has the
    listener, ``times`` counts how often it was left, and ``over`` is set when its last connection has ended.
    """

    def __init__(
        self, number: int, key: TargetKey, namespace: LiveNamespace, listener: socket.socket
    ) -> None:
        self.number = number
        self.key = key
        self.name, self.port = key
        self.namespace = namespace
        self.listener = listener
        self.rules: Wanted = ()
        self._reason = "not redirected yet"
        self.since = time.time()
        self.accepts = True
        self.left = False
        self.times = 0
        self.over = asyncio.Event()
        self.seen_out: asyncio.Task[None] | None = None
        self._at: frozenset[str] = frozenset()

    @property
    def ready(self) -> bool:
        """Whether new connections are redirected at this moment."""
        return bool(self._at) and not self._declined

    @property
    def reason(self) -> str:
        """Why it is not ready; empty when it is."""
        if self._at and self._declined:
            return "the worker has no sockets left for new connections: they go to the app"
        return self._reason

    @property
    def _declined(self) -> bool:
        """Whether the worker leaves new connections to the app, by itself."""
        return self.namespace.redirect.level(self.port) is Level.AWAY

    def follow(self, addresses: frozenset[str]) -> None:
        """Redirect at exactly the addresses where the app listens; none: not at all."""
        if not addresses:
            self.disable(f"nothing listens on {self.port}")
        elif addresses != self._at:
            try:
                self.namespace.redirect.enable(self.port, addresses)
            except TpnetError as error:
                self.disable(error.message)
                return
            if not self._at:
                self.since = time.time()
            self._at, self._reason = addresses, ""

    def disable(self, reason: str) -> None:
        """New connections reach the app from here on."""
        if self._at:
            self.namespace.redirect.disable(self.port)
            self._at = frozenset()
            self.since = time.time()
        self._reason = reason

    def leave(self) -> None:
        """Nobody wants it any more. New connections reach the app, open ones end in their own time."""
        self.disable("no intercept stands here any more")
        self.rules = ()
        self.left = True
        self.times += 1
        self.over.clear()

    def take_up(self, listener: socket.socket) -> None:
        """It is wanted again, with this listener, and not redirected yet."""
        self.listener = listener
        self.accepts, self.left = True, False
        self._reason = "not redirected yet"
        if self.seen_out is not None:
            self.seen_out.cancel()
            self.seen_out = None

    def turn_away(self) -> None:
        """Reset whoever waits at the listener, which is disabled: the next attempt reaches the app."""
        with contextlib.suppress(OSError):
            while True:
                self.listener.accept()[0].close()


def open_namespace(target: Target, program: Program, signs: Signs, state: StateFile) -> LiveNamespace:
    """Enter a target's namespace: lock, redirect without ports, the client's address kept.

    ``target`` is the returned object's to close, and closed when this raises ``TpnetError``, which leaves nothing
    behind: ``Refused``, ``Conflict`` with another agent.
    """
    with contextlib.ExitStack() as undo:
        undo.callback(target.close)
        name, netns = target.name, target.netns
        redirect = undo.enter_context(EbpfRedirect(netns, program, signs))
        table = undo.enter_context(ListenTable(netns))
        changes = undo.enter_context(contextlib.closing(Changes(netns)))
        try:
            with state.held():
                source = _source_address(netns, redirect.hold, state)
                state.note(netns.inode, name, source.to_json())
                try:
                    source.apply()
                except TpnetError:
                    state.forget(netns.inode)
                    raise
        except OSError as error:
            raise TpnetError(
                f"What is changed in {name} cannot be written down: {error.strerror}.",
                "The run directory must be writable, and its disk not full.",
            ) from error
        changes.seen()  # our own
        namespace = LiveNamespace(target, redirect, source, table, changes)
        undo.pop_all()
        return namespace


def _source_address(netns: NetNs, hold: Hold, state: StateFile) -> SourceAddress:
    """What to change there. An agent that ends may have changed it already, and written down what it was before."""
    if not others_in(netns, {hold.number}):
        return SourceAddress(netns)
    return SourceAddress.from_json(netns, state.load().get(str(netns.inode), BEFORE))


def resolve(name: str) -> Target:
    """The one target of a canonical name, which the caller closes. Raises ``NotThere``, ``Refused``."""
    target, *others = resolve_targets(name)
    for other in others:
        other.close()
    return target


def prove(name: str, netns: NetNs, addresses: Collection[str] | None) -> None:
    """Prove that a namespace is the one that others reach by these addresses; ``None``: nobody says. Blocks.

    Whatever led here, to be redirected is the pod of the intercept, and no other. Raises ``Refused``.
    """
    if addresses is None:
        return
    there = {ip_address(one) for one in _run_in(netns, every_address)}
    missing = [one for one in addresses if _address(one) not in there]
    if missing or not addresses:
        has = ", ".join(sorted(str(one) for one in there if not one.is_loopback)) or "none"
        raise Refused(
            f"The network namespace found for {name} is not its pod's: that has the address"
            f" {', '.join(missing) or '(not known)'}, the namespace {has}.",
            "Nothing there is redirected. If its network plugin gives the pod's address to something else, as for a"
            " virtual machine in a pod, it cannot be intercepted.",
        )


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def probe(namespace: LiveNamespace, port: int, listener: socket.socket) -> None:
    """Prove that a connection inside the namespace reaches the listener. Nobody else notices; a millisecond.

    Nothing is redirected before and after. Raises ``TpnetError``.
    """
    namespace.redirect.enable(port, [PROBE_ADDRESS])
    try:
        with namespace.netns.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.settimeout(_PROBE_SECONDS)
            client.connect((PROBE_ADDRESS, port))
            _accept(listener, client)
    except OSError as error:
        raise TpnetError(
            f"The redirect of {namespace.target.name}:{port} does not work: a connection made inside did not"
            f" arrive ({error.strerror or error}).",
            "Its interface lo must be up, and no other sk_lookup program may interfere: bpftool link show.",
        ) from error
    finally:
        namespace.redirect.disable(port)


def _accept(listener: socket.socket, client: socket.socket) -> None:
    """Accept ``client``; the handshake over loopback is complete when connect returns."""
    ours = client.getsockname()[1]
    deadline = time.monotonic() + _PROBE_SECONDS
    while True:
        try:
            accepted, peer = listener.accept()
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError("not accepted in time") from None
            time.sleep(0.001)
            continue
        accepted.close()
        if peer[1] == ours:
            return


def addresses_of(netns: NetNs) -> tuple[str, ...]:
    """The addresses by which others reach a namespace, IPv4 first; empty when they cannot be read."""
    return _run_in(netns, own_addresses)


def _run_in(netns: NetNs, look: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
    try:
        return netns.run(look)
    except TpnetError:
        return ()


def addresses_of_node() -> tuple[str, ...]:
    """The addresses of the machine, whatever namespace this process is in; empty when they cannot be read. Blocks."""
    try:
        with NetNs.from_pid(1, "the node") as netns:
            return addresses_of(netns)
    except TpnetError:
        return ()


def own_addresses() -> tuple[str, ...]:
    """The same for the namespace of the calling thread, which must not have an event loop."""
    return tuple(address for scope, address in _own() if scope == _RT_SCOPE_UNIVERSE)


def every_address() -> tuple[str, ...]:
    """Those of the calling thread's namespace, whoever reaches them."""
    return tuple(address for _, address in _own())


def _own() -> list[tuple[int, str]]:
    """Scope and address, IPv4 first."""
    try:
        with IPRoute() as ip:
            found = [
                (
                    message["family"],
                    message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"),
                    message["scope"],
                )
                for message in ip.get_addr()
            ]
    except (NetlinkError, OSError):
        return []
    return [(scope, address) for _, address, scope in sorted(found)]
