"""One end of a connection: what waits to be written, half-closes, events to watch, ``splice(2)``.

``tpnet.proxy.connection`` has one for its client and one for each upstream. It must never read ahead: bytes are read by
the connection, and only while everything read before has been handed to the kernel, so that a direction holds
at most one read.

A failed write is never reported by itself. The kernel tells the same through the reading side, after the
bytes that arrived before the failure (an answer sent before a reset, say), and that is where the connection
learns of it. Only how it ends must be remembered: the failed write takes the socket's error with it, and reading
then ends as it does at FIN. EPIPE is the error of a reset behind FIN, any other of one without (tcp_reset() in
net/ipv4/tcp_input.c).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from collections import deque
from errno import EPIPE
from typing import TYPE_CHECKING

from tpnet.proxy.loop import IN, OUT, PRI
from tpnet.proxy.transport import MORE, NOW

if TYPE_CHECKING:
    from tpnet.proxy.loop import Handler, Loop
    from tpnet.proxy.transport import Socket

READ = 64 * 1024
"""Bytes of one read."""
PIPE_SIZE = 1024 * 1024
"""Bytes of a pipe for ``splice(2)``; the kernel grants one user 64 such (fs.pipe-user-pages-soft)."""
PIPES = 32
"""Pipes kept open at most; directions beyond that are copied through user space."""
BULKY = 32 * 1024
"""A read of at least so many bytes makes the next one worth a splice."""

_ENDED_IDLE = 5
"""Seconds between two probes of a client that has sent FIN and waits for a response, or is gone: as long as its kernel
remembers the connection (60 s on Linux) one cannot be told from the other."""
LINGER_RESET = struct.pack("ii", 1, 0)
_LINGER_OFF = struct.pack("ii", 0, 0)

Pipe = tuple[int, int]


class Pipes:
    """Pipes that are empty and free. One is only taken while it holds bytes."""

    __slots__ = ("_free", "_made", "_most")

    def __init__(self, most: int = PIPES) -> None:
        self._free: list[Pipe] = []
        self._made = 0
        self._most = most

    def take(self) -> Pipe | None:
        """A free pipe, its reading end first, or ``None`` when all are in use."""
        if self._free:
            return self._free.pop()
        if self._made >= self._most:
            return None
        try:
            pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        except OSError:
            # The user's share of pipe pages is used up: this one is of no use, and the next would not be
            # either.
            os.close(pipe[0])
            os.close(pipe[1])
            self._most = self._made
            return None
        self._made += 1
        return pipe

    def give(self, pipe: Pipe) -> None:
        """Take an empty pipe back."""
        self._free.append(pipe)

    def close(self) -> None:
        """Close the free ones."""
        while self._free:
            self.destroy(self._free.pop())

    def destroy(self, pipe: Pipe) -> None:
        """Close a pipe, which may still hold bytes."""
        os.close(pipe[0])
        os.close(pipe[1])
        self._made -= 1


class Stream:
    """One end of a connection: a socket that is connected, that connects, or that is still to come.

    ``splices``: a splice may take as much from or for it as a pipe holds.

    ``backlog`` is what waits to be written, in bytes, in a pipe or in user space; the pipe's bytes go first.
    ``ended`` says that the other end's FIN has been read, ``shut`` that ours was sent, ``shutting`` that it is to
    follow the backlog. ``broken`` says that a write has failed, ``cut`` that it did so without a FIN of the other end:
    what reads as its end is none. ``bulky`` says that the last read was a large one.
    ``connecting`` says that it is not known to be established: nothing leaves before whoever learns of it clears
    the flag and calls ``flush``. So it is from the beginning: what is sent before ``attach`` waits as well.
    """

    __slots__ = (
        "_events", "_loop", "_pipe", "_piped", "_pipes", "_queue", "_reading", "_registered",
        "backlog", "broken", "bulky", "connecting", "cut", "ended", "fd", "shut", "shutting", "sock", "splices",
    )  # fmt: skip

    sock: Socket
    """Its transport; there is none before ``attach``."""

    def __init__(self, loop: Loop, pipes: Pipes) -> None:
        self.fd = -1
        self._loop = loop
        self._pipes = pipes
        self._events = 0
        self._reading = IN
        self._registered = False
        self._queue: deque[memoryview] | None = None
        self._pipe: Pipe | None = None
        self._piped = 0
        self.backlog = 0
        self.broken = False
        self.cut = False
        self.bulky = False
        self.connecting = True
        self.ended = False
        self.shut = False
        self.shutting = False
        self.splices = True

    def attach(self, sock: Socket, handler: Handler, *, connecting: bool = False) -> None:
        """Here is its socket, whose events ``handler`` takes. What was sent before leaves now if it is connected."""
        self.sock = sock
        self.fd = fd = sock.fileno()
        loop = self._loop
        loop.sockets += 1
        loop.handlers[fd] = handler
        self._registered = True
        if not connecting:
            self.connecting = False
            if self.backlog or self.shutting:
                self.flush()
        reading = self._reading
        self._events = events = reading | OUT if connecting or self.backlog else reading
        loop.epoll.register(fd, events)

    @property
    def attached(self) -> bool:
        """Whether it has a socket."""
        return self.fd >= 0

    def handle(self, handler: Handler) -> None:
        """Let another handler take the events from now on."""
        self._loop.handlers[self.fd] = handler

    def heed_marks(self) -> None:
        """Have ``PRI`` among the events when the other end says something beside its stream. Before ``attach``."""
        self._reading = IN | PRI

    def mark(self) -> bytes:
        """What the other end has said beside its stream (urgent data), if anything; reading past it forgets it."""
        try:
            return self.sock.recv(1, NOW | socket.MSG_OOB)
        except OSError:
            return b""

    def read(self, size: int = READ) -> bytes:
        """What has arrived, up to ``size`` bytes; none at its end.

        Raises ``BlockingIOError`` when nothing has, ``OSError`` when it is broken off.
        """
        data = self.sock.recv(size, NOW)
        self.bulky = len(data) >= BULKY
        return data

    def send(self, data: bytes | memoryview, *, more: bool = False) -> None:
        """Write ``data`` at once as far as the kernel takes it; keep the rest. Never raises ``OSError``.

        ``more``: the end follows at once, and may share a segment with it.
        """
        if not self.backlog and not self.connecting:
            try:
                sent = self.sock.send(data, MORE if more else NOW)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._broke(error)
                return
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
        if self.broken or not data:
            return
        if self._queue is None:
            self._queue = deque()
        self._queue.append(memoryview(data))
        self.backlog += len(data)

    def flush(self) -> None:
        """Write what waits, as far as the kernel takes it. Never raises ``OSError``."""
        try:
            if self._pipe is not None and not self._drain_pipe(self._pipe):
                return
            queue = self._queue
            while queue:
                data = queue.popleft()
                try:
                    sent = self.sock.send(data, NOW)
                except BlockingIOError:
                    sent = 0
                self.backlog -= sent
                if sent < len(data):
                    queue.appendleft(data[sent:])
                    return
        except BlockingIOError:
            return
        except OSError as error:
            self._broke(error)
            self._discard()
            return
        self._queue = None
        if self.shutting:
            self.shutdown()

    def splice_from(self, source: Stream, limit: int) -> int | None:
        """Move up to ``limit`` bytes from ``source`` here without seeing them; only without a backlog.

        Returns the bytes taken from ``source``, 0 at its end, ``None`` when it has none now, no pipe is free or one of
        the two is not for splices. Raises ``OSError`` when the source fails.
        """
        pipe = self._pipes.take() if self.splices and source.splices else None
        if pipe is None:
            return None
        try:
            taken = source.sock.fill(pipe[1], min(limit, PIPE_SIZE))
        except BlockingIOError:
            self._pipes.give(pipe)
            return None
        except OSError:
            self._pipes.give(pipe)
            raise
        if not taken:
            self._pipes.give(pipe)
            return 0
        self._pipe, self._piped = pipe, taken
        self.backlog = taken
        self.flush()
        return taken

    def _drain_pipe(self, pipe: Pipe) -> bool:
        while self._piped:
            sent = self.sock.drain(pipe[0], self._piped)
            self._piped -= sent
            self.backlog -= sent
        self._pipes.give(pipe)
        self._pipe = None
        return True

    def _broke(self, error: OSError) -> None:
        if not self.broken:
            self.broken = True
            self.cut = error.errno != EPIPE

    def _discard(self) -> None:
        self.backlog = 0
        self._queue = None
        if self._pipe is not None:
            self._pipes.destroy(self._pipe)
            self._pipe = None
            self._piped = 0

    def shutdown(self) -> None:
        """Send FIN once what waits is written."""
        if self.shut:
            return
        if self.backlog or self.connecting:
            self.shutting = True
            return
        self.shut = True
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.broken = True

    def watch(self, *, reading: bool) -> None:
        """Ask the kernel for exactly the events that matter now."""
        if self.fd < 0:
            return
        events = self._reading if reading and not self.ended else 0
        if self.connecting or self.backlog:
            events |= OUT
        if not self._registered:
            if events:
                self._registered = True
                self._events = events
                self._loop.epoll.register(self.fd, events)
        elif events != self._events:
            self._events = events
            self._loop.epoll.modify(self.fd, events)

    @property
    def wants_read(self) -> bool:
        """Whether readable events are asked for."""
        return self._registered and bool(self._events & IN)

    def ready(self, events: int, *, unread: bool = False) -> bool:
        """Deal with events that are not plain readability. ``True``: there is something to read as well.

        ``False``: watch it anew. ``unread``: what has arrived is to be read before a reset behind it counts. Raises
        ``OSError`` when it is broken off.
        """
        if events & OUT:
            self.flush()
        if self.wants_read:
            return bool(events & ~OUT)
        if events & ~(IN | OUT) and self.failure(unread=unread):
            raise ConnectionError
        return False

    def failure(self, *, unread: bool = False) -> bool:
        """An event came that nobody asked for: whether the connection is reset. ``unread`` as for ``ready``.

        Otherwise both directions are shut, or there is something to read first, and the kernel would say so for
        ever: the socket leaves the epoll set until there is something to do with it.
        """
        if not (unread and self._unread()) and (self.broken or self.error()):
            return True
        if self._registered:
            self._registered = False
            self._loop.epoll.unregister(self.fd)
        return False

    def _unread(self) -> bool:
        """Whether bytes have arrived that were not read. Raises ``OSError``, which the kernel forgets then."""
        try:
            return bool(self.sock.recv(1, NOW | socket.MSG_PEEK))
        except BlockingIOError:
            return False

    def error(self) -> int:
        """The errno that the kernel holds for it, 0 for none; it forgets it then."""
        return self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def probe_soon(self) -> None:
        """Its other end has ended, and may be gone altogether: have keepalive, if it is on, ask after it sooner."""
        with contextlib.suppress(OSError):  # it is gone already
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _ENDED_IDLE)

    def drained(self) -> bool:
        """Whether nothing has arrived that was not read; closing a socket that holds some would send RST."""
        try:
            self.sock.recv(1, NOW | socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def close(self, *, lingers: bool) -> None:
        """Close in an orderly way: what was written is still delivered. ``lingers``: SO_LINGER may be set."""
        if lingers:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
        self._discard()
        self._loop.close(self.sock)

    def reset(self) -> None:
        """Close with RST; without a socket, forget what waits."""
        self._discard()
        if self.fd < 0:
            return
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        finally:
            self._loop.close(self.sock)
