"""Where handlers are on this computer and its network, and whether they listen.

The session daemon calls this. It must never send a byte to a handler, nor connect to one on this computer
just to look: a developer's server would log it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from tpnet.datapath.listening import ListenTable
from tpnet.datapath.netns import NetNs
from tpnet.model import LOCALHOST, TpnetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tpnet.model import Handler

Address = IPv4Address | IPv6Address
POLL = 0.5
"""Seconds between two looks."""
_PROBE_SECONDS = 1.0
_ANY = {4: "0.0.0.0", 6: "::"}  # noqa: S104 - what handlers bind, not we
_HERE: tuple[Address, ...] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))

log = logging.getLogger(__name__)


class UnknownHost(OSError):
    """A handler's host name stands for no address; its text says so."""


async def addresses_of(handler: Handler) -> list[Address]:
    """What its host stands for now, in the order to try. Raises ``UnknownHost``."""
    host = handler.host.lower().removesuffix(".")
    if host == LOCALHOST or host.endswith(f".{LOCALHOST}"):  # RFC 6761 6.3, whatever /etc/hosts says
        return list(_HERE)
    with contextlib.suppress(ValueError):
        address = ip_address(host)
        # What a server says that listens on every address: it is reached at this computer's own.
        return list(_HERE) if address.is_unspecified else [address]
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(handler.host, handler.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
            raise UnknownHost(f"the host {handler.host} is unknown, names cannot be looked up now") from error
        raise UnknownHost(f"the host {handler.host} is unknown") from error
    return list(dict.fromkeys(ip_address(item[4][0]) for item in found))


def is_served(addresses: Iterable[Address], port: int, table: Mapping[int, frozenset[str]]) -> bool:
    """Whether one of these addresses of this computer has a listener, by what ``ListenTable.read`` gives."""
    found = table.get(port, frozenset())
    return any(str(address) in found or _ANY[address.version] in found for address in addresses)


class HandlerWatch:
    """Which handlers listen, looked at twice a second. ``on_change()`` runs in the event loop when that changes.

    Those at loopback addresses are found in the kernel's table; others by a connection that is closed at
    once.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._handlers: dict[str, Handler] = {}
        self._problems: dict[str, str] = {}
        self._wake = asyncio.Event()
        with NetNs.own() as here:
            self._table = ListenTable(here)

    def close(self) -> None:
        """Give the kernel's table back."""
        self._table.close()

    async def add(self, key: str, handler: Handler) -> str:
        """Begin to watch, after a first look: the problem that it found, as ``problem``, which is told to nobody."""
        self._handlers[key] = handler
        self._problems[key] = await self._look(handler, self._table.read())
        return self._problems[key]

    def remove(self, key: str) -> None:
        """Stop watching."""
        self._handlers.pop(key, None)
        self._problems.pop(key, None)

    def problem(self, key: str) -> str:
        """Why requests cannot go to the handler, by the last look: empty when it listens."""
        return self._problems.get(key, "it is not looked for")

    def look_now(self) -> None:
        """Look out of turn: a dial has failed."""
        self._wake.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        looks: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL):
                        await self._wake.wait()
                self._wake.clear()
                if not self._handlers:
                    continue
                try:
                    table = self._table.read()
                except TpnetError as error:
                    log.warning("%s", error)
                    continue
                # Each by itself: a name that takes long to look up keeps no other handler waiting.
                looks = {key: look for key, look in looks.items() if not look.done()}
                for key, handler in self._handlers.items():
                    if key not in looks:
                        looks[key] = asyncio.create_task(self._see(key, handler, table))
        finally:
            for look in looks.values():
                look.cancel()

    async def _see(self, key: str, handler: Handler, table: Mapping[int, frozenset[str]]) -> None:
        problem = await self._look(handler, table)
        if self._handlers.get(key) is handler and self._problems[key] != problem:
            self._problems[key] = problem
            log.info("handler %s of %s: %s", handler, key, problem or "listens")
            self._on_change()

    @staticmethod
    async def _look(handler: Handler, table: Mapping[int, frozenset[str]]) -> str:
        try:
            addresses = await addresses_of(handler)
        except UnknownHost as error:
            return str(error)
        if all(address.is_loopback for address in addresses):
            served = is_served(addresses, handler.port, table)
            return "" if served else f"nothing listens on {handler}"
        for address in addresses:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_PROBE_SECONDS):
                    _, writer = await asyncio.open_connection(str(address), handler.port)
                writer.transport.abort()
                return ""
        return f"nothing listens on {handler}"
