"""Handlers: the text that names one, and whether it listens.

The session daemon calls this. It must never send a byte to a handler, nor connect to one on this computer
just to look: a developer's server would log it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from tpnet.datapath.listening import ListenTable
from tpnet.datapath.netns import NetNs
from tpnet.model import InvalidInput, TpnetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Address = IPv4Address | IPv6Address
POLL = 0.5
"""Seconds between two looks."""
_PROBE_SECONDS = 1.0
_HANDLER = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<host>[^\[\]:\s/]*)):(?P<port>[0-9]{1,5})")
_ANY = {4: "0.0.0.0", 6: "::"}  # noqa: S104 - what handlers bind, not we

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Handler:
    """Where intercepted requests go on the developer's side: a host name or address, and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    async def addresses(self) -> list[Address]:
        """What the host stands for now, in the order to try. Empty when the name is unknown."""
        with contextlib.suppress(ValueError):
            return [ip_address(self.host)]
        if self.host == "localhost":  # what servers that say so mean, whatever /etc/hosts says
            return [IPv4Address("127.0.0.1"), IPv6Address("::1")]
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except OSError:
            return []
        return list(dict.fromkeys(ip_address(item[4][0]) for item in found))


def parse_handler(text: str) -> Handler:
    """What ``HOST:PORT``, ``[IPV6]:PORT`` or ``:PORT`` (this computer) names. Raises ``InvalidInput``."""
    match = _HANDLER.fullmatch(text)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise InvalidInput(f"The handler {text!r} is not HOST:PORT.", "For example 127.0.0.1:8080.")
    return Handler(match["six"] or match["host"] or "127.0.0.1", int(match["port"]))


def is_served(addresses: Iterable[Address], port: int, table: Mapping[int, frozenset[str]]) -> bool:
    """Whether one of these addresses of this computer has a listener, by what ``ListenTable.read`` gives."""
    found = table.get(port, frozenset())
    return any(str(address) in found or _ANY[address.version] in found for address in addresses)


class HandlerWatch:
    """Which handlers listen, looked at twice a second. ``on_change(key, up)`` runs in the event loop.

    Those at loopback addresses are found in the kernel's table; others by a connection that is closed at
    once.
    """

    def __init__(self, on_change: Callable[[str, bool], None]) -> None:
        self._on_change = on_change
        self._handlers: dict[str, Handler] = {}
        self._up: dict[str, bool] = {}
        self._wake = asyncio.Event()
        with NetNs.own() as here:
            self._table = ListenTable(here)

    def close(self) -> None:
        """Give the kernel's table back."""
        self._table.close()

    async def add(self, key: str, handler: Handler) -> bool:
        """Begin to watch, after a first look, whose result is returned and not told to ``on_change``."""
        self._handlers[key] = handler
        self._up[key] = await self._look(handler, self._table.read())
        return self._up[key]

    def remove(self, key: str) -> None:
        """Stop watching."""
        self._handlers.pop(key, None)
        self._up.pop(key, None)

    def up(self, key: str) -> bool:
        """What the last look found."""
        return self._up.get(key, False)

    def look_now(self) -> None:
        """Look out of turn: a dial has failed."""
        self._wake.set()

    async def run(self) -> None:
        """Watch until cancelled."""
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
            watched = dict(self._handlers)
            results = await asyncio.gather(*(self._look(handler, table) for handler in watched.values()))
            for (key, handler), up in zip(watched.items(), results, strict=True):
                if self._handlers.get(key) is handler and self._up[key] != up:
                    self._up[key] = up
                    log.info("handler %s of %s %s", handler, key, "listens" if up else "does not listen")
                    self._on_change(key, up)

    @staticmethod
    async def _look(handler: Handler, table: Mapping[int, frozenset[str]]) -> bool:
        addresses = await handler.addresses()
        if addresses and all(address.is_loopback for address in addresses):
            return is_served(addresses, handler.port, table)
        for address in addresses:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_PROBE_SECONDS):
                    _, writer = await asyncio.open_connection(str(address), handler.port)
                writer.transport.abort()
                return True
        return False
