"""Whether the other end is there: a heartbeat through the tunnel every half second, and its echo.

The session daemon sends (``HeartbeatSender``), the agent echoes and keeps watch (``HeartbeatReceiver``).
What arrives is hostile: a datagram of another size, kind or sender is ignored, and an echo is never longer
than what asked for it.

A heartbeat is 16 bytes, big-endian: ``tH``, the sender's last round trip in units of 0.1 ms (u16, 0:
unknown), a sequence number (u32), the size of the path in bytes as it is known to the sender (u16, see
``tpnet.tunnel.path``), six zeros. Padded with more zeros it is a probe of the path's size. Its echo is the same,
padding and all, with ``tE`` in front. An agent that ends sends a goodbye, and echoes no more: ``tG``, the UDP port that
its end of the tunnel is about to move to (u16, 0: none, or it is there), and zeros.
"""

from __future__ import annotations

import asyncio
import math
import struct
import time
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from typing import TYPE_CHECKING, Any

from tpnet.tunnel.path import FULL, SMALLEST, PathSize

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

INTERVAL = 0.5
"""Seconds between heartbeats."""
DEAD_AFTER = 2.0
"""Seconds of silence after which the other end counts as gone."""
QUIET_AFTER = 0.7
"""Seconds of silence after which it counts as quiet: one heartbeat is missing, which may mean nothing by itself."""
HEARTBEAT_PORT = 21821
"""The agent's UDP port, at its tunnel address, that echoes."""

_LAYOUT = struct.Struct("!2sHIH6x")
_HEADERS = 48
"""Bytes of IPv6 and UDP in front of a heartbeat."""
_LONGEST = FULL - _HEADERS
_ASK, _ECHO = b"tH", b"tE"
_IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IPV6_PMTUDISC_PROBE = (
    41,
    23,
    3,
)  # linux/in6.h: send whole packets, whatever the route's MTU says
_GOODBYE = struct.Struct("!2sH12x")
_BYE = b"tG"
_CHECK_EVERY = 0.1
_LATE = 0.5
_ASKS_KEPT = 128
_TELL_EVERY = 1.0


@dataclass(slots=True)
class Presence:
    """One session's liveness. ``seen`` is the monotonic time of its last heartbeat, 0 for never.

    ``quiet``: it is up, and a heartbeat is missing. ``path``: bytes of the largest packet that passes, as the session
    says.
    """

    up: bool = False
    seen: float = 0.0
    rtt_ms: float = 0.0
    path: int = FULL
    path_told: tuple[int, float] = (-1, 0.0)
    quiet: bool = False


class Liveness:
    """The agent's half without I/O: who is expected, and who is up."""

    def __init__(self) -> None:
        self._known: dict[IPv6Address, Presence] = {}
        self._checked = math.inf

    def expect(self, address: IPv6Address) -> None:
        """Begin to watch an address; it is down until it is heard."""
        self._known[address] = Presence()

    def forget(self, address: IPv6Address) -> None:
        """Stop watching an address, without a word to anybody."""
        self._known.pop(address, None)

    def get(self, address: IPv6Address) -> Presence:
        """What is known of an address; of an unknown one: down, never seen."""
        return self._known.get(address, Presence())

    def datagram(self, data: bytes, sender: IPv6Address, now: float) -> tuple[bytes | None, bool]:
        """Take a datagram. Returns its echo (None: ignore it), and whether the sender came up just now."""
        presence = self._known.get(sender)
        if presence is None or not _LAYOUT.size <= len(data) <= _LONGEST or data[:2] != _ASK:
            return None, False
        _, tenths, _, path = _LAYOUT.unpack_from(data)
        presence.rtt_ms = tenths / 10
        presence.path = path if SMALLEST <= path <= FULL else 0
        presence.seen = now
        came_up, presence.up = not presence.up, True
        return _ECHO + data[2:], came_up

    def paths(self, now: float) -> list[tuple[IPv6Address, int]]:
        """Whose path has another size than was last given here; of one session once a second at most."""
        found = []
        for address, presence in self._known.items():
            told, when = presence.path_told
            if presence.seen and presence.path != told and now - when >= _TELL_EVERY:
                presence.path_told = presence.path, now
                found.append((address, presence.path))
        return found

    def quiet(self, now: float) -> list[IPv6Address]:
        """Who has fallen quiet since this was last asked, or is heard again."""
        changed = [a for a, p in self._known.items() if p.quiet != (p.up and now - p.seen >= QUIET_AFTER)]
        for address in changed:
            self._known[address].quiet ^= True
        return changed

    def check(self, now: float) -> list[IPv6Address]:
        """Who has gone down since the last check. One that is late itself finds nobody: they may wait to be heard."""
        late, self._checked = now - self._checked > _LATE, now
        if late:
            return []
        gone = [a for a, p in self._known.items() if p.up and now - p.seen >= DEAD_AFTER]
        for address in gone:
            self._known[address].up = False
        return gone


class Pulse:
    """The daemon's half without I/O: heartbeats out, echoes in. ``up`` and ``rtt_ms`` are as of now.

    ``gone``: the agent has said goodbye, and nothing since; ``moves_to`` is the port that it named. ``path``: how large a
    packet passes.
    """

    def __init__(self) -> None:
        self.up = False
        self.gone = False
        self.moves_to = 0
        self.rtt_ms = 0.0
        self.seen = 0.0
        self.path = PathSize()
        self._next = 0
        self._asked: dict[int, tuple[float, int]] = {}

    def ask(self, now: float, size: int = 0) -> bytes:
        """The next heartbeat; with ``size`` padded, so that the tunnel's packet has so many bytes."""
        number = self._next
        self._next = (number + 1) & 0xFFFFFFFF
        length = max(_LAYOUT.size, size - _HEADERS)
        self._asked[number] = now, length
        while len(self._asked) > _ASKS_KEPT:
            del self._asked[next(iter(self._asked))]
        tenths = min(round(self.rtt_ms * 10) or int(self.up), 0xFFFF)
        return _LAYOUT.pack(_ASK, tenths, number, self.path.size).ljust(length, b"\0")

    def probes(self, now: float) -> list[bytes]:
        """The heartbeats that are due to find the size of the path."""
        if not self.up:
            return []
        return [self.ask(now, size) for size in self.path.due(now, self.rtt_ms / 1000)]

    def datagram(self, data: bytes, now: float) -> bool:
        """Take what the agent sent, and say whether ``up`` has changed.

        Only an echo of what was asked counts, and only once; and its goodbye.
        """
        before = self.up
        if len(data) == _GOODBYE.size and data[:2] == _BYE:
            _, self.moves_to = _GOODBYE.unpack(data)
            self.gone, self.up = True, False
            self._asked.clear()  # an echo that the goodbye has overtaken says nothing
        elif len(data) >= _LAYOUT.size and data[:2] == _ECHO:
            number = _LAYOUT.unpack_from(data)[2]
            asked, length = self._asked.get(number, (0.0, 0))
            if length == len(data):
                del self._asked[number]
                self.rtt_ms = (now - asked) * 1000
                self.seen = now
                if not self.up:
                    self.path.restart()
                self.path.echoed(length + _HEADERS if length > _LAYOUT.size else 0)
                self.up, self.gone = True, False
        return self.up != before

    def check(self, now: float) -> bool:
        """Whether the agent has gone down since the last check."""
        if self.up and now - self.seen >= DEAD_AFTER:
            self.up = False
            return True
        return False


class _Glue(asyncio.DatagramProtocol):
    """Datagrams to a method. Errors (an ICMP message, a vanished route) mean silence, noticed anyway."""

    def __init__(self, take: Callable[[bytes, Any], None]) -> None:
        self._take = take

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._take(data, addr)

    def error_received(self, exc: Exception) -> None:
        pass


def _send_whole(sock: socket.socket) -> None:
    """Have a UDP socket send probes as they are: a fragment that passes proves nothing of the whole."""
    sock.setblocking(False)
    sock.setsockopt(_IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IPV6_PMTUDISC_PROBE)


class HeartbeatReceiver:
    """The agent's half: echoes, and says ``on_change(address, up)`` in the event loop.

    ``on_path(address, size)`` is said when the size of a session's path is known, and whenever that changes;
    ``on_quiet(address)`` when its ``quiet`` has changed. ``sock`` is a UDP socket made in the tunnel's namespace and
    bound to (the agent's address, ``HEARTBEAT_PORT``). Down and quiet are told at most 0.1 s late.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_change: Callable[[IPv6Address, bool], None],
        on_path: Callable[[IPv6Address, int], None] = lambda _address, _size: None,
        on_quiet: Callable[[IPv6Address], None] = lambda _address: None,
    ) -> None:
        self._sock = sock
        self._on_change = on_change
        self._on_path = on_path
        self._on_quiet = on_quiet
        self._state = Liveness()
        self._heard: dict[IPv6Address, Any] = {}
        self._goodbye = b""
        self._transport: asyncio.DatagramTransport | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Begin to listen, in the running event loop. The socket is owned from now on."""
        _send_whole(self._sock)
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: _Glue(self._take), sock=self._sock)
        self._tick()

    def expect(self, address: IPv6Address) -> None:
        """Begin to watch a session's address."""
        self._state.expect(address)

    def forget(self, address: IPv6Address) -> None:
        """Stop watching it; ``on_change`` is not called."""
        self._state.forget(address)
        self._heard.pop(address, None)

    def presence(self, address: IPv6Address) -> Presence:
        """What is known of it now; ``seen`` compares with ``time.monotonic()``."""
        return self._state.get(address)

    def goodbye(self, moves_to: int = 0) -> None:
        """Tell every session that is heard that this agent ends, and echo no more: they look out for the next one.

        ``moves_to``: the UDP port that its end of the tunnel will have. Datagrams may be lost: it may be called again.
        """
        self._goodbye = _GOODBYE.pack(_BYE, moves_to)
        for addr in self._heard.values():
            if self._transport is not None:
                self._transport.sendto(self._goodbye, addr)

    def close(self) -> None:
        """Stop, and close the socket."""
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.close()
        else:
            self._sock.close()

    def _take(self, data: bytes, addr: tuple[Any, ...]) -> None:
        try:
            sender = IPv6Address(addr[0])
        except AddressValueError:
            return
        echo, came_up = self._state.datagram(data, sender, time.monotonic())
        if echo is not None:
            self._heard[sender] = addr
            if self._transport is not None:
                self._transport.sendto(self._goodbye or echo, addr)
        if came_up:
            self._on_change(sender, True)

    def _tick(self) -> None:
        now = time.monotonic()
        for address in self._state.check(now):
            self._on_change(address, False)
        for address in self._state.quiet(now):
            self._on_quiet(address)
        for address, size in self._state.paths(now):
            self._on_path(address, size)
        self._timer = asyncio.get_running_loop().call_later(_CHECK_EVERY, self._tick)


class HeartbeatSender:
    """The daemon's half: sends, and says ``on_change(up)`` in the event loop.

    ``on_path(size)`` is said whenever the size of the path is found to have changed, ``on_move(port)`` when an agent that
    ends says where it moves, and with 0 when it is heard from there. ``sock`` is a UDP socket made in the tunnel's
    namespace and *connected* to the agent's heartbeat port, so that the kernel drops what others send.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_change: Callable[[bool], None],
        on_path: Callable[[int], None] = lambda _size: None,
        on_move: Callable[[int], None] = lambda _port: None,
    ) -> None:
        self._sock = sock
        self._on_change = on_change
        self._on_path = on_path
        self._on_move = on_move
        self._pulse = Pulse()
        self._path = FULL
        self._moves_to = 0
        self._transport: asyncio.DatagramTransport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._started = time.monotonic()
        self._next = 0.0

    @property
    def up(self) -> bool:
        """Whether the agent has answered within the last two seconds."""
        return self._pulse.up

    @property
    def rtt_ms(self) -> float:
        """The last round trip in milliseconds, 0 while unknown."""
        return self._pulse.rtt_ms

    @property
    def path(self) -> int:
        """Bytes of the largest packet that is known to pass; 0 when only the smallest do."""
        return self._pulse.path.size

    @property
    def gone(self) -> bool:
        """Whether the agent has said goodbye, and has not been heard since."""
        return self._pulse.gone

    @property
    def silent_for(self) -> float:
        """Seconds since the last answer, or since ``start``."""
        return time.monotonic() - max(self._pulse.seen, self._started)

    async def start(self) -> None:
        """Begin to send, in the running event loop. The socket is owned from now on."""
        _send_whole(self._sock)
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: _Glue(self._take), sock=self._sock)
        self._tick()

    def send_now(self) -> None:
        """One heartbeat out of turn: the first packet to a new endpoint starts the handshake."""
        if self._transport is not None:
            self._transport.sendto(self._pulse.ask(time.monotonic()))

    def close(self) -> None:
        """Stop, and close the socket."""
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.close()
        else:
            self._sock.close()

    def _take(self, data: bytes, addr: tuple[Any, ...]) -> None:
        del addr
        changed = self._pulse.datagram(data, time.monotonic())
        if self._pulse.moves_to != self._moves_to:
            self._moves_to = self._pulse.moves_to
            self._on_move(self._moves_to)
        if changed:
            self._on_change(self._pulse.up)

    def _tick(self) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + INTERVAL
            self.send_now()
        for probe in self._pulse.probes(now):
            if self._transport is not None:
                self._transport.sendto(probe)
        if self._pulse.path.size != self._path:
            self._path = self._pulse.path.size
            self._on_path(self._path)
        if self._pulse.check(now):
            self._on_change(False)
        self._timer = asyncio.get_running_loop().call_later(_CHECK_EVERY, self._tick)
