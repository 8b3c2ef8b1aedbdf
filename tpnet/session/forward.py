"""One intercept's door in the tunnel, and the connections that go through it to the handler.

The session daemon calls this. A door lets only the agent in. It must never send a byte of a request before
the handler is connected, never keep more of a stream than one read, never turn a reset into a clean end, and
never drop a response that has arrived because the rest of its request cannot be sent.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from typing import TYPE_CHECKING

from tpnet.session.handlers import addresses_of
from tpnet.session.relay import RESET_ON_CLOSE, Relay

if TYPE_CHECKING:
    from collections.abc import Callable

    from tpnet.model import Handler

KERNEL_BYTES = {"tunnel": (64 * 1024, 64 * 1024), "handler": (32 * 1024, 16 * 1024)}
"""What SO_RCVBUF and SO_SNDBUF are asked for. The kernel doubles it, for what it adds to each packet (socket(7)): so a
stream whose receiver is slow takes 192 KiB upwards (128 + 32 of the read + 32), and 224 KiB downwards. The tunnel has the
larger part, since its round trip is the longer one: 64 KiB are 10 Mbit/s at 50 ms."""

PATIENCE = 0.7
"""Seconds for the handler to be connected where nothing is said."""
_BACKLOG = 512
_ACCEPTS_AT_ONCE = 32
_FULL_PAUSE = 0.1
_OUT_OF_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

log = logging.getLogger(__name__)


class Forward:
    """A listening socket in the tunnel's namespace, and its relays.

    ``patience`` says, for each dial, how many seconds the handler has to be connected: fewer than the worker waits for
    the status byte, which would be unsure what was delivered.
    ``open``, ``total`` and ``refused`` count connections. ``listener`` is bound to the session's tunnel
    address and is owned from now on. ``is_agent`` says of a tunnel address whether it may connect. ``on_refused`` is
    called whenever the handler could not be dialled. ``tunnel`` is whose namespace it is, and only ever compared.
    """

    def __init__(
        self,
        listener: socket.socket,
        is_agent: Callable[[str], bool],
        handler: Handler,
        on_refused: Callable[[], None],
        patience: Callable[[], float] = lambda: PATIENCE,
        tunnel: object = None,
    ) -> None:
        self.tunnel = tunnel
        self.handler = handler
        self._patience = patience
        self.port = int(listener.getsockname()[1])
        self.total = 0
        self.refused = 0
        self._is_agent = is_agent
        self._on_refused = on_refused
        self._loop = asyncio.get_running_loop()
        self._relays: set[Relay] = set()
        self._resume: asyncio.TimerHandle | None = None
        self._listener = listener
        listener.setblocking(False)
        _bound(listener, "tunnel")  # accepted sockets inherit it
        listener.listen(_BACKLOG)
        self._loop.add_reader(listener, self._accept)

    @property
    def open(self) -> int:
        """Connections at this moment."""
        return len(self._relays)

    def open_from(self, agent: str) -> bool:
        """Whether the agent at this tunnel address has a connection."""
        return any(relay.agent == agent for relay in self._relays)

    def shut(self) -> None:
        """Accept no more; what is open goes on. May be called twice."""
        if self._resume is not None:
            self._resume.cancel()
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()

    def close(self) -> None:
        """Accept no more, and reset what is open."""
        self.shut()
        self.reset()

    def reset(self) -> None:
        """Reset every open connection; new ones are taken."""
        for relay in list(self._relays):
            relay.reset()

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                tunnel, peer = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF_ROOM:
                    # The connection waits in the backlog; asking again at once would be a busy loop.
                    self._loop.remove_reader(self._listener)
                    self._resume = self._loop.call_later(_FULL_PAUSE, self._listen_again)
                    return
                continue  # that one connection ended before it was taken (accept(2))
            tunnel.setblocking(False)
            if not self._is_agent(peer[0]):
                tunnel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                tunnel.close()
                continue
            self.total += 1
            relay = Relay(self._loop, tunnel, peer[0], self._relays.discard)
            self._relays.add(relay)
            relay.task = self._loop.create_task(self._serve(relay))

    def _listen_again(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    async def _serve(self, relay: Relay) -> None:
        try:
            relay.start(await dial(self.handler, self._patience()))
        except OSError as error:
            log.info("handler %s cannot be reached: %s", self.handler, error.strerror or error)
            self.refused += 1
            relay.refuse()
            self._on_refused()


def _bound(sock: socket.socket, kind: str) -> None:
    """Have the kernel keep no more than this for a slow receiver; by itself it takes megabytes. Before it connects."""
    for option, size in zip((socket.SO_RCVBUF, socket.SO_SNDBUF), KERNEL_BYTES[kind], strict=True):
        sock.setsockopt(socket.SOL_SOCKET, option, size)


async def dial(handler: Handler, seconds: float = PATIENCE) -> socket.socket:
    """A connection to the handler, in this computer's own network, within so many seconds. Raises ``OSError``."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    failure = OSError(errno.EHOSTUNREACH, "no address")
    async with asyncio.timeout_at(until):  # its TimeoutError is an OSError
        addresses = await addresses_of(handler)
    for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            _bound(sock, "handler")
            # One that is silent leaves as much to each of those behind it.
            async with asyncio.timeout((until - loop.time()) / left):
                await loop.sock_connect(sock, (str(address), handler.port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except TimeoutError:
            sock.close()
            failure = OSError(errno.ETIMEDOUT, "no answer")
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure
