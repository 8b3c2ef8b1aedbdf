"""``--port LOCAL[:REMOTE]``, and which port of a target is meant when it is left out.

``tpnet intercept`` uses it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tpnet.model import InvalidInput, NotThere

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tpnet.model import TargetInfo

_PORTS = re.compile(r"([0-9]{1,9})(?::([a-z0-9-]{1,63}))?")

_PORT_HINT = "LOCAL:REMOTE is the port here and the port of the service: --port 8080:80. LOCAL alone is both."


def parse_port(text: str) -> tuple[int, int | str | None]:
    """The local port and, when it was given, the remote one: its number, or in a cluster its name.

    Raises ``InvalidInput``.
    """
    found = _PORTS.fullmatch(text)
    if found is None:
        raise InvalidInput(
            f"--port={text}: a port number is wanted, or two with a colon between.", _PORT_HINT
        )
    ports = [int(part) if part.isdigit() else part for part in found.groups() if part]
    for port in ports:
        if isinstance(port, int) and not 0 < port < 65536:
            raise InvalidInput(
                f"--port={text}: there is no port {port}; they go from 1 to 65535.", _PORT_HINT
            )
    return int(ports[0]), ports[1] if len(ports) == 2 else None


def named_port(name: str, targets: Sequence[TargetInfo]) -> int:
    """The number of a port of that name. Raises ``NotThere``."""
    for info in targets:
        for known, number in zip(info.port_names, info.listening, strict=False):
            if known == name:
                return number
    known_names = ", ".join(known for info in targets for known in info.port_names if known)
    raise NotThere(
        f"There is no port named {name}.",
        f"There are: {known_names}." if known_names else "Its ports have no names; give the number.",
    )


def check_declared(port: int, info: TargetInfo) -> None:
    """Raise ``NotThere`` when a Service has no such port. Of all else, containers need not declare theirs."""
    if "/svc/" in info.name and port not in info.listening:
        ports = ", ".join(map(str, info.listening[:10]))
        raise NotThere(
            f"The Service {info.name.replace('/svc/', '/')} has no TCP port {port}.",
            f"It has: {ports}." if ports else "It has none at all.",
        )


def check_listening(port: int, targets: Sequence[TargetInfo]) -> None:
    """Raise ``NotThere`` when nothing listens on the port in one of the targets."""
    for info in targets:
        there = sorted({*info.listening, *info.loopback})
        if port not in there:
            ports = ", ".join(map(str, there[:10]))
            raise NotThere(
                f"Nothing listens on port {port} of {info.name}.",
                f"Listening there: {ports}."
                if there
                else "Nothing listens there at all; start the app first.",
            )


def common_ports(targets: Sequence[TargetInfo]) -> list[int]:
    """The ports on which every one of the targets listens, ascending."""
    sets = [set(info.listening) for info in targets]
    return sorted(set.intersection(*sets)) if sets else []


def choose_port(
    target: str, targets: Sequence[TargetInfo], local: int | None, ask: Callable[[Sequence[int]], int] | None
) -> int:
    """The service's port when only the local one, or none, was given.

    The local one's number if the service listens there, else the only port there is, else what ``ask`` (on a
    terminal) answers. Raises ``NotThere`` when there is none, ``InvalidInput`` when it is not plain and
    nobody can be asked.
    """
    ports = common_ports(targets)
    if local in ports:
        return local
    if len(ports) == 1:
        return ports[0]
    if ports and ask is not None:
        return ask(ports)
    raise several_ports(target, ports) if ports else nothing_listens(target, targets)


def nothing_listens(target: str, targets: Sequence[TargetInfo]) -> NotThere:
    """What to say when no port listens in all of the targets."""
    found = "; ".join(
        f"{info.name} on {', '.join(str(port) for port in sorted(info.listening)) or 'nothing'}"
        for info in targets
    )
    if len(targets) > 1:
        return NotThere(
            f"The targets of {target} have no listening port in common: {found}.", "Name one of them."
        )
    if local := targets[0].loopback if targets else ():
        return NotThere(
            f"Nothing that others can reach listens in {target}.",
            f"It listens for itself on {', '.join(map(str, local))}; say if you mean that: --port 8080:{local[0]}",
        )
    return NotThere(
        f"Nothing listens in {target}.", "Start the service first, or look whether it is the right target."
    )


def several_ports(target: str, ports: Sequence[int]) -> InvalidInput:
    """What to say when the port is not plain and nobody can be asked."""
    names = ", ".join(str(port) for port in ports[:-1])
    return InvalidInput(
        f"{target} listens on {names} and {ports[-1]}; one of them must be chosen.",
        f"Say which with --port, LOCAL:REMOTE: --port 8080:{ports[0]}",
    )
