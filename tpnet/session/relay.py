"""A connection of the agent's and the handler's, joined: what a door of ``tpnet.session.forward`` makes of each it takes.

It must never keep more of a stream than one read, never turn a reset into a clean end, and never drop a response that
has arrived because the rest of its request cannot be sent.

What goes over the agent's connection: from the daemon first one status byte, ``CONNECTED`` (the handler is
connected, its stream follows) or ``REFUSED`` (it is not, and nothing was delivered to it; the end follows);
then both streams as they are. A FIN of the handler goes on with ``UNSEEN`` in front, as urgent data and so beside the
stream, if this is certain: since the last byte of the handler that was passed on, nothing was written to it, and no
process will ever read what might be. So a request that was sent after that byte may be sent anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import socket
import struct
import sys
import termios
from typing import TYPE_CHECKING

from tpnet.kernel.other_end import is_closed_for_good

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECTED, REFUSED = b"\x00", b"\x01"
UNSEEN = b"\x02"
READ_SIZE = 32 * 1024
"""Bytes of one read; also the most that is kept of a direction whose receiver is slow."""

_LAST_READS = 16
_DELIVERY_LOOK, _DELIVERY_LOOK_MOST = 0.002, 0.1  # seconds
_CLOSING_LOOKS = (0.001, 0.004)
"""Seconds between looks at who has sent FIN. close(2) sends it a moment before it lets go (tcp_close() in
net/ipv4/tcp.c); who only half-closes has its FIN passed on so much later."""
_TCP_CLOSE = 7  # include/net/tcp_states.h
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # linger on, for no time: close(2) sends RST (socket(7))
_TUNNEL_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    # An agent that vanished says nothing. Half a minute is more than a laptop needs to change its network.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    # No TCP_USER_TIMEOUT: it would also end a stream whose reader pauses (tcp_probe_timer() in net/ipv4/tcp_timer.c).
    # Bytes that are not acknowledged end it after the tries that the tunnel's namespace says.
)


_buffer = bytearray(READ_SIZE)
_view = memoryview(_buffer)
"""Every read goes here and is sent on before the next: the event loop has one thread."""


class Relay:
    """A tunnel connection of ``agent`` and the handler's, joined: half-closes, resets and back-pressure go through.

    ``last`` is the flow that has sent last.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tunnel: socket.socket,
        agent: str,
        on_done: Callable[[Relay], None],
    ) -> None:
        self.agent = agent
        self._loop = loop
        self._tunnel = tunnel
        self._handler: socket.socket | None = None
        self._on_done = on_done
        self._flows: tuple[_Flow, ...] = ()
        self._looking: asyncio.TimerHandle | None = None
        self._delivering: asyncio.TimerHandle | None = None
        self._closed = False  # the handler's end, for good
        self.last: _Flow | None = None
        self.task: asyncio.Task[None] | None = None

    def start(self, handler: socket.socket) -> None:
        """Say so, and begin to relay. A tunnel connection that was reset meanwhile resets the handler's."""
        self._handler = handler
        self._flows = _Flow(self, self._tunnel, handler), _Flow(self, handler, self._tunnel)
        try:
            for level, option, value in _TUNNEL_OPTIONS:
                self._tunnel.setsockopt(level, option, value)
            self._tunnel.send(CONNECTED)
        except OSError:
            self.reset()
            return
        for flow in self._flows:
            flow.start()

    def refuse(self) -> None:
        """Say that the handler is not there, and end."""
        with contextlib.suppress(OSError):
            self._tunnel.send(REFUSED)
            self._tunnel.shutdown(socket.SHUT_WR)
            # What the agent has sent already must be taken: close(2) with unread bytes would be a reset,
            # which could overtake the status byte.
            for _ in range(_LAST_READS):
                if not self._tunnel.recv_into(_buffer):
                    break
        self._finish()

    def reset(self) -> None:
        """End both sides with RST."""
        for sock in (self._tunnel, self._handler):
            if sock is not None and sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._finish()

    def flow_ended(self, flow: _Flow) -> None:
        """Its source has ended. That is passed on; after the second, both sockets are closed."""
        up, down = self._flows
        if flow is down and up.failure not in {0, errno.EPIPE}:
            # A failed send takes the socket's error with it, and reading then ends as it does at FIN. EPIPE is the
            # error of a reset behind FIN, any other of one without (tcp_reset() in net/ipv4/tcp_input.c).
            self._handler_gone()
        elif flow is down and self.last is not up and not up.ended:
            up.stop()
            self._look_at_handler(_CLOSING_LOOKS)
        else:
            self._pass_end_on(flow)

    def _pass_end_on(self, flow: _Flow) -> None:
        up, down = self._flows
        flow.pass_end_on()
        if down.ended and up.failure:
            self._handler_gone()
        elif up.ended and down.ended and self._delivering is None:
            self._finish()

    def crosses_end(self, flow: _Flow) -> bool:
        """Whether what was read, the first since the handler spoke, meets its end: asked before it is sent."""
        up, down = self._flows
        if flow is not up or down.holds or (down.ended and not self._closed):
            return False
        if not self._closed:
            assert self._handler is not None
            try:
                return not self._handler.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return False
            except OSError:
                self._closed = True  # reset, which the kernel tells once
        return True

    def meet_end(self) -> None:
        """What ``crosses_end`` was said of is held back: deal with the end first."""
        if self._closed:
            self._handler_gone()
        else:
            self._flows[1].read()

    def _look_at_handler(self, waits: tuple[float, ...]) -> None:
        """It has sent FIN, and nothing was said to it since it spoke: find out whether it has closed, or may read on."""
        assert self._handler is not None
        up, down = self._flows
        self._looking = None
        self._closed = is_closed_for_good(self._handler)
        if self._closed:
            if self.last is not up:
                with contextlib.suppress(OSError):  # no room: it is not said
                    self._tunnel.send(UNSEEN, socket.MSG_OOB)
        elif waits:
            self._looking = self._loop.call_later(waits[0], self._look_at_handler, waits[1:])
            return
        self._pass_end_on(down)
        if self._closed and up.holds:
            self._handler_gone()
        else:
            up.go_on()

    def source_failed(self, flow: _Flow) -> None:
        """Its source was reset, and all that came before is passed on."""
        if flow is self._flows[1]:
            self._handler_gone()
        else:
            self.reset()  # who asked has gone: no response is wanted any more

    def sink_failed(self, flow: _Flow) -> None:
        """What was read cannot be sent."""
        down = self._flows[1]
        if flow is down:
            self.reset()
        elif down.ended:
            self._handler_gone()
        # Else there may be a response in the handler's socket: a server that refuses an upload answers and closes
        # with bytes unread, upon which its kernel resets. Reading tells when all has been taken.

    def _handler_gone(self) -> None:
        """It neither says nor takes anything more: RST to the agent, once that has all that was said."""
        if self._delivering is None:
            up, down = self._flows
            down.stop()
            up.drop()
            self._deliver(_DELIVERY_LOOK)

    def _deliver(self, wait: float) -> None:
        # RST destroys what is not acknowledged yet, and TCP has no event for its being so.
        state = self._tunnel.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        if state != _TCP_CLOSE and _unacknowledged(self._tunnel):
            self._delivering = self._loop.call_later(wait, self._deliver, min(2 * wait, _DELIVERY_LOOK_MOST))
        else:
            self.reset()

    def _finish(self) -> None:
        if self.task is not None and not self.task.done() and self.task is not asyncio.current_task():
            self.task.cancel()
        for timer in (self._looking, self._delivering):
            if timer is not None:
                timer.cancel()
        for sock in (self._tunnel, self._handler):
            if sock is not None and sock.fileno() >= 0:
                self._loop.remove_reader(sock)
                self._loop.remove_writer(sock)
                sock.close()
        self._on_done(self)


class _Flow:
    """One direction. It either waits to read or, with bytes left over, to write; never both.

    ``failure`` is the errno of the send that failed, 0 for none. From then on what is read is dropped: whoever
    sends it is not to be stopped before it has read what the other direction brings.
    """

    __slots__ = ("_dropping", "_dst", "_left", "_loop", "_relay", "_src", "ended", "failure")

    def __init__(self, relay: Relay, src: socket.socket, dst: socket.socket) -> None:
        self._relay = relay
        self._loop = asyncio.get_running_loop()
        self._src = src
        self._dst = dst
        self._left: memoryview | None = None
        self._dropping = False
        self.ended = False
        self.failure = 0

    def start(self) -> None:
        self._loop.add_reader(self._src, self.read)

    def stop(self) -> None:
        """Read no more."""
        self._loop.remove_reader(self._src)

    @property
    def holds(self) -> bool:
        """Whether something waits to be sent."""
        return self._left is not None

    def go_on(self) -> None:
        """Take up what was held back, or read."""
        if self._left is not None:
            self._loop.add_writer(self._dst, self._writable)
        else:
            self.start()

    def drop(self) -> None:
        """Send no more, and read on until the source's end."""
        self._dropping = True
        if self._left is not None:
            self._left = None
            self._loop.remove_writer(self._dst)
            self.start()

    def read(self) -> None:
        """Something may have arrived: send it on."""
        try:
            size = self._src.recv_into(_buffer)
        except BlockingIOError:
            return
        except OSError:
            self.stop()
            self._relay.source_failed(self)
            return
        if not size:
            self.stop()
            self._relay.flow_ended(self)
            return
        relay = self._relay
        if relay.last is not self and not self._dropping and relay.crosses_end(self):
            self._left = memoryview(bytes(_view[:size]))
            self.stop()
            relay.meet_end()
            return
        sent = self._send(_view[:size])
        if sent < size and not self._dropping:
            self._left = memoryview(bytes(_view[sent:size]))
            self.stop()
            self._loop.add_writer(self._dst, self._writable)

    def _writable(self) -> None:
        left = self._left
        if left is None:
            return
        sent = self._send(left)
        if self._dropping:
            return
        if sent < len(left):
            self._left = left[sent:]
            return
        self._left = None
        self._loop.remove_writer(self._dst)
        self.start()

    def _send(self, data: memoryview) -> int:
        """How many bytes the kernel took."""
        if self._dropping:
            return 0
        self._relay.last = self
        try:
            return self._dst.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self.failure = error.errno or errno.EIO
            self.drop()
            self._relay.sink_failed(self)
            return 0

    def pass_end_on(self) -> None:
        """Half-close the sink. One that is gone needs it not: reading from it tells how it went."""
        self.ended = True
        with contextlib.suppress(OSError):
            self._dst.shutdown(socket.SHUT_WR)


def _unacknowledged(sock: socket.socket) -> int:
    """Bytes, and a FIN, that the other end's kernel has not acknowledged (tcp(7), SIOCOUTQ)."""
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
