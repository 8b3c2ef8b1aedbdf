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

_PORTS = re.compile(r"([0-9]{1,6})(?::([0-9]{1,6}))?")


def parse_port(text: str) -> tuple[int, int | None]:
    """The local port and, when it was given, the remote one.

    Raises ``InvalidInput``.
    """
    found = _PORTS.fullmatch(text)
    ports = [int(part) for part in found.groups() if part] if found else []
    if not ports or not all(0 < port < 65536 for port in ports):
        raise InvalidInput(
            f"--port={text}: two port numbers are wanted, from 1 to 65535.",
            "LOCAL:REMOTE is the port here and the port of the service: --port 8080:80. LOCAL alone is both.",
        )
    return ports[0], ports[1] if len(ports) == 2 else None


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
