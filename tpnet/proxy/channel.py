"""What supervisor and worker say to each other: typed messages with file descriptors over a SOCK_SEQPACKET pair.

The supervisor (``tpnet.agent``) and the worker (``tpnet.proxy.worker``) call this. Descriptors go from the supervisor to
the worker alone; what comes from a worker is taken by ``tpnet.proxy.testimony``. It must never block for long.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from tpnet.model import HeaderRule, Intercept, OnFailure, PathKind, PathRule
from tpnet.rules.probes import Probe

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_FDS = 250
"""File descriptors in one message; the kernel's SCM_MAX_FD is 253."""
INLINE = 60_000
"""Bytes of JSON sent in the datagram itself; more goes through a memfd, since a datagram is bounded by SO_SNDBUF."""


class Purpose(StrEnum):
    """What a prepared socket is for."""

    APP4 = "app4"
    APP6 = "app6"
    SESSION = "session"


# Supervisor to worker.


@dataclass(frozen=True, slots=True)
class TakeSigns:
    """Give signs of life from now on. The first message. Descriptor: their array (``tpnet.kernel.signs``)."""


@dataclass(frozen=True, slots=True)
class AddTarget:
    """Start to accept for a target; again for one that was removed and is not drained, whose connections stay.

    Descriptors: the listener, then the bypass map. ``place``: where its levels are among the signs of life; 0 for none.
    """

    target: int
    name: str
    port: int
    keep_source: bool = True
    place: int = 0


@dataclass(frozen=True, slots=True)
class SetRules:
    """The whole rule set of a target. ``intercepts`` as ``tpnet.model.codec.encode`` gives them.

    ``probes``: the kubelet's requests to it, which are the app's whatever the rules say.
    """

    target: int
    intercepts: list[dict[str, Any]] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SetNode:
    """The addresses of the node itself: of its kubelet, among others."""

    addresses: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SetSession:
    """A session's state. ``up`` is the tunnel's liveness; ``ports`` are tunnel ports whose handler listens.

    ``quiet``: a heartbeat is missing, so the tunnel may be dead, though it still counts as up.
    """

    name: str
    address: str
    up: bool
    ports: list[int] = field(default_factory=list)
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class DropSession:
    """Forget a session; matched requests under way end as if its tunnel had died."""

    name: str


@dataclass(frozen=True, slots=True)
class Sockets:
    """Prepared, unconnected sockets. ``target`` is 0 for sessions. Descriptors: as many as were prepared."""

    purpose: Purpose
    target: int = 0


@dataclass(frozen=True, slots=True)
class RemoveTarget:
    """Stop accepting for a target. Its connections live on; ``Drained`` says when the last one has ended.

    ``times`` is said again there: how often the target was removed, this time included. ``gone``: what is redirected
    there has gone, as far as anybody can tell.
    """

    target: int
    times: int
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Finish:
    """The agent ends: let every connection of every target end within ``seconds``.

    ``mark``: say so in the last response of each.
    """

    seconds: float
    mark: bool = True


# Worker to supervisor.


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker has dropped its privileges and serves."""

    pid: int


@dataclass(frozen=True, slots=True)
class NeedSockets:
    """Please prepare ``count`` more sockets."""

    purpose: Purpose
    count: int
    target: int = 0


@dataclass(frozen=True, slots=True)
class AppRefused:
    """The app's port refused a connection: nothing listens there at this moment."""

    target: int


@dataclass(frozen=True, slots=True)
class Full:
    """The worker's file descriptors run out, and new clients are to go to the apps; or there is room again."""

    full: bool


@dataclass(frozen=True, slots=True)
class NotTaken:
    """A target that was to be added is not: its descriptors found no room. Please add it again, a while later."""

    target: int


@dataclass(frozen=True, slots=True)
class Drained:
    """A target that was removed so many ``times`` has no connection left in this worker, which has forgotten it."""

    target: int
    times: int


@dataclass(frozen=True, slots=True)
class Counters:
    """Totals since the worker's start, sent once a second when they changed.

    ``targets``: per target id ``{"open", "accepted", "requests", "app_requests", "verdicts": {...}}``.
    ``intercepts``: per intercept name ``{"hits", "last_hit", "reasons": {...}}``, ``last_hit`` in Unix seconds.
    ``sessions``: per session name how many connections to it are open at this moment.
    ``more``: further messages complete these totals, which are long.
    """

    targets: dict[str, dict[str, Any]] = field(default_factory=dict)
    intercepts: dict[str, dict[str, Any]] = field(default_factory=dict)
    sessions: dict[str, int] = field(default_factory=dict)
    more: bool = False


Message = (
    TakeSigns
    | AddTarget
    | SetRules
    | SetNode
    | SetSession
    | DropSession
    | Sockets
    | RemoveTarget
    | Finish
    | Ready
    | NeedSockets
    | AppRefused
    | Full
    | NotTaken
    | Drained
    | Counters
)
_KINDS: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (
        TakeSigns,
        AddTarget,
        SetRules,
        SetNode,
        SetSession,
        DropSession,
        Sockets,
        RemoveTarget,
        Finish,
        Ready,
        NeedSockets,
        AppRefused,
        Full,
        NotTaken,
        Drained,
        Counters,
    )
}


class CutShortError(Exception):
    """Some descriptors of a message found no room in this process; those that did are closed again."""

    def __init__(self, message: Message) -> None:
        super().__init__(type(message).__name__)
        self.message = message


def intercept_of(data: dict[str, Any]) -> Intercept:
    """An intercept of ``SetRules``. The supervisor is trusted: no types are checked, and nothing heavy imported.

    (What checks them costs the worker two thirds of its start, in which all traffic is the app's.)
    """
    path = data["path"]
    more = {
        "targets": tuple(data["targets"]),
        "headers": tuple(HeaderRule(**one) for one in data["headers"]),
        "path": None if path is None else PathRule(PathKind(path["kind"]), path["value"]),
        "on_failure": OnFailure(data["on_failure"]),
    }
    return Intercept(**(data | more))


def probe_of(data: Sequence[Any]) -> Probe:
    """A probe of ``SetRules``."""
    path, headers = data
    return Probe(path, tuple((name, value) for name, value in headers))


def pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair: the supervisor's end, the worker's end. Both are non-blocking."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    return ours, theirs


def send(end: socket.socket, message: Message, fds: list[int] | tuple[int, ...] = ()) -> None:
    """Send one message.

    Raises ``BlockingIOError`` when the other end does not read, ``OSError`` when it is gone.
    """
    payload = json.dumps([type(message).__name__, asdict(message)], separators=(",", ":")).encode()
    if len(payload) <= INLINE:
        if fds:
            socket.send_fds(end, [b"J" + payload], fds)
        else:
            end.send(b"J" + payload)  # all that a worker may call
        return
    memfd = os.memfd_create("tpnet-message", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(memfd), "wb") as out:
            out.write(payload)
        socket.send_fds(end, [b"M"], [memfd, *fds])
    finally:
        os.close(memfd)


def receive(end: socket.socket) -> tuple[Message, list[int]] | None:
    """The supervisor's next message and its descriptors, which the caller owns; ``None`` at the end of the channel.

    Where this process has no room for all descriptors, ``Sockets`` come with those that found some: the rest will be
    asked for again. Any other message is a ``CutShortError`` then. Raises ``BlockingIOError`` when there is none yet,
    ``ValueError`` when it does not decode.
    """
    data, fds, flags, _ = socket.recv_fds(end, INLINE + 64, MAX_FDS + 3, socket.MSG_CMSG_CLOEXEC)
    if not data:
        return None
    try:
        if flags & socket.MSG_TRUNC:
            raise ValueError("a message between supervisor and worker was cut short")
        payload = data[1:]
        if data[:1] == b"M":
            size = os.fstat(fds[0]).st_size
            payload = os.pread(fds[0], size, 0)
            os.close(fds.pop(0))
        name, fields = json.loads(payload)
        message = _KINDS[name](**fields)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        _close(fds)
        raise ValueError(f"a message between supervisor and worker does not decode: {error}") from error
    if flags & socket.MSG_CTRUNC and not isinstance(message, Sockets):
        _close(fds)
        raise CutShortError(message)
    return message, fds


def _close(fds: list[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
