"""TARGET on a cluster, and its ports: ``[svc/]NAME``, ``deploy/NAME``, ``sts/NAME``, ``ds/NAME``, ``pod/NAME``. Pure.

``client`` calls it. It must never guess between several ports.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tpnet.control.kubernetes.resources import DAEMON_SETS, DEPLOYMENTS, PODS, SERVICES, STATEFUL_SETS
from tpnet.model import InvalidInput, TargetKind, TargetRef

if TYPE_CHECKING:
    from collections.abc import Collection

    from tpnet.control.kubernetes.api import Object
    from tpnet.model import TargetInfo

PLURALS = {
    TargetKind.SERVICE: SERVICES,
    TargetKind.DEPLOYMENT: DEPLOYMENTS,
    TargetKind.STATEFUL_SET: STATEFUL_SETS,
    TargetKind.DAEMON_SET: DAEMON_SETS,
    TargetKind.POD: PODS,
}
_SHORT = {
    TargetKind.SERVICE: "svc",
    TargetKind.DEPLOYMENT: "deploy",
    TargetKind.STATEFUL_SET: "sts",
    TargetKind.DAEMON_SET: "ds",
    TargetKind.POD: "pod",
}
_KINDS = {
    word: kind
    for kind, short in _SHORT.items()
    for word in (short, PLURALS[kind].plural, PLURALS[kind].plural.removesuffix("s"))
} | {"po": TargetKind.POD}
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def parse_target(text: str) -> TargetRef:
    """What a TARGET names. Raises ``InvalidInput``."""
    kind, slash, name = text.rpartition("/")
    if slash and kind.lower() not in _KINDS:
        raise InvalidInput(
            f"{kind!r} is nothing that can be intercepted.",
            "Targets are NAME or svc/NAME, deploy/NAME, sts/NAME, ds/NAME and pod/NAME.",
        )
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} is no name of an object.", "Names have lower-case letters, digits, - and dots."
        )
    return TargetRef(_KINDS[kind.lower()] if slash else TargetKind.SERVICE, name)


def label_of(ref: TargetRef) -> str:
    """``svc/orders``: short, and what ``parse_target`` takes."""
    return f"{_SHORT[ref.kind]}/{ref.name}"


def split_name(name: str, namespace: str = "") -> tuple[str, str]:
    """Namespace and name of ``namespace/name``; ``namespace`` where none is said. Raises ``InvalidInput``."""
    where, slash, short = name.rpartition("/")
    if not (slash and where) and not namespace:
        raise InvalidInput(f"The intercept {name} has no namespace.")
    if not _NAME.fullmatch(short):
        raise InvalidInput(
            f"{short!r} is no name for an intercept in a cluster.",
            "Names have lower-case letters, digits, - and dots.",
        )
    return (where if slash else namespace), short


def ports_of(kind: TargetKind, obj: Object) -> list[tuple[str, int]]:
    """Names and numbers of the TCP ports: of a Service its own, of all else those its containers declare."""
    spec = obj.get("spec") or {}
    if kind is TargetKind.SERVICE:
        return [
            (port.get("name", ""), port["port"])
            for port in spec.get("ports") or ()
            if port.get("protocol", "TCP") == "TCP"
        ]
    pod = spec if kind is TargetKind.POD else spec["template"]["spec"]
    sidecars = [one for one in pod.get("initContainers") or () if one.get("restartPolicy") == "Always"]
    return [
        (port.get("name", ""), port["containerPort"])
        for container in [*(pod.get("containers") or ()), *sidecars]
        for port in container.get("ports") or ()
        if port.get("protocol", "TCP") == "TCP"
    ]


def interceptable(kind: TargetKind, obj: Object) -> bool:
    """Whether a message should propose it."""
    if kind is TargetKind.SERVICE and obj["spec"].get("type") == "ExternalName":
        return False
    return bool(ports_of(kind, obj))


def one_port(info: TargetInfo, port: int | str | None, intercepted: Collection[int] = ()) -> int:
    """The number of a port given by number, by name, or not at all. Raises ``InvalidInput``."""
    if isinstance(port, int):
        return port
    if isinstance(port, str):
        numbers = dict(zip(info.port_names, info.listening, strict=True))
        if port in numbers:
            return numbers[port]
        raise InvalidInput(
            f"{info.name} has no port named {port}.",
            f"It has: {', '.join(name for name in numbers if name)}.",
        )
    some = sorted(set(intercepted) or set(info.listening))
    if len(some) == 1:
        return some[0]
    if not some:
        raise InvalidInput(f"{info.name} declares no TCP port.", "Name the port with --port.")
    what = "intercepted" if intercepted else "there"
    raise InvalidInput(
        f"Which port of {info.name} is meant? These are {what}: {', '.join(map(str, some[:10]))}.",
        "Name it with --port.",
    )
