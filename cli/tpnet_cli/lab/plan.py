"""What the lab consists of: its places, their addresses, and what runs where. Plain data.

```
client-1  client-2  bob  alice          10.77.0.0/24     fd77:77::/64
    └────────┴───┬───┴─────┘
              fabric (a bridge)
                 │
               node (routes; the agent runs here)
              ┌──┴───┐
           shop-1  shop-2               10.77.1.0/24     fd77:77:0:1::/64
```
Every network namespace is named ``<lab>-<place>``. Several labs live beside each other: nothing of one is
reachable from another, nor from the machine.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tpnet.model import InvalidInput

SHOP_PORT = 80
HANDLER_PORT = 8080


@dataclass(frozen=True, slots=True)
class Place:
    """A network namespace of the lab. ``role``: fabric, node, client, shop or laptop."""

    name: str
    role: str
    ipv4: str = ""
    ipv6: str = ""


NODE = Place("node", "node", "10.77.0.1", "fd77:77::1")
CLIENTS = (
    Place("client-1", "client", "10.77.0.11", "fd77:77::11"),
    Place("client-2", "client", "10.77.0.12", "fd77:77::12"),
)
LAPTOPS = (
    Place("bob", "laptop", "10.77.0.21", "fd77:77::21"),
    Place("alice", "laptop", "10.77.0.22", "fd77:77::22"),
)
SHOPS = (
    Place("shop-1", "shop", "10.77.1.11", "fd77:77:0:1::11"),
    Place("shop-2", "shop", "10.77.1.12", "fd77:77:0:1::12"),
)
FABRIC = Place("fabric", "fabric")
PLACES = {place.name: place for place in (FABRIC, NODE, *CLIENTS, *LAPTOPS, *SHOPS)}

PODS_GATEWAY = ("10.77.1.1", "fd77:77:0:1::1")
PODS_NETWORK = ("10.77.1.0/24", "fd77:77:0:1::/64")
MASKS = (24, 64)

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,22}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class LabPaths:
    """A lab's name and its files. ``root`` holds all of them, and is removed with it."""

    name: str

    @property
    def root(self) -> Path:
        """The lab's folder."""
        return labs_dir() / self.name

    @property
    def record(self) -> Path:
        """``lab.json``: what was made, so that exactly that is removed."""
        return self.root / "lab.json"

    @property
    def run_dir(self) -> Path:
        """The agent's run directory."""
        return self.root / "run"

    @property
    def hosts(self) -> Path:
        """The lab's own /etc/hosts, which ``tpnet lab exec`` puts in place for its command."""
        return self.root / "hosts"

    def log(self, what: str) -> Path:
        """The output of a process of the lab."""
        return self.root / f"{what}.log"

    def access_log(self, shop: str) -> Path:
        """Nginx's access log: the client's address, the request, the answer's status."""
        return self.root / shop / "access.log"

    def netns(self, place: str) -> str:
        """The name, for ``ip netns``, of a place's namespace."""
        return f"{self.name}-{place}"


def labs_dir() -> Path:
    """The folder of all labs: ``TPNET_LAB_DIR``, or one that a restart empties as it does the namespaces."""
    return Path(os.environ.get("TPNET_LAB_DIR") or "/run/tpnet-lab")


def lab_paths(name: str) -> LabPaths:
    """The lab of that name.

    Raises ``InvalidInput`` for a name that no namespace could have.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} is no name for a lab.",
            "Lower-case letters, digits and, between them, hyphens; 24 at most.",
        )
    return LabPaths(name)


def place_named(name: str) -> Place:
    """A place by its name. Raises ``InvalidInput`` that lists them."""
    place = PLACES.get(name)
    if place is None:
        raise InvalidInput(f"The lab has no place {name!r}.", f"There are: {', '.join(PLACES)}.")
    return place


def hosts_text() -> str:
    """The lab's /etc/hosts; ``shop`` stands for both replicas, ``NAME-v6`` for a place's IPv6 address.

    A name of its own for each family: which of two a client prefers differs from machine to machine.
    """
    lines = ["127.0.0.1 localhost", "::1 localhost"]
    for place in PLACES.values():
        names = f"{place.name} shop" if place.role == "shop" else place.name
        if place.ipv4:
            lines.append(f"{place.ipv4} {names}")
        if place.ipv6:
            lines.append(f"{place.ipv6} {place.name}-v6")
    return "\n".join(lines) + "\n"
