"""What the shell offers for an argument: targets, ports, intercepts, namespaces.

click calls these functions with what has been typed so far. They must never say anything but words, nor take longer
than one waits for a Tab: whatever fails, or is late, offers nothing.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import click

PATIENCE = 0.9
"""Seconds that an answer may take."""
_FLAGS = ("local", "kubeconfig", "context", "namespace", "as_user", "as_groups")


def targets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Services of the namespace; without a cluster, network namespaces."""
    del param
    prefix = "svc/" if incomplete.startswith("svc/") else ""
    return _beginning(incomplete, [prefix + name for name in _ask(ctx, "services")])


def ports(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Ports of the target that stands in the line, after ``LOCAL:`` if that has been typed."""
    del param
    target = ctx.params.get("target")
    local, colon, _ = incomplete.partition(":")
    found = _ask(ctx, "ports", target) if target else []
    return _beginning(incomplete, [f"{local}:{port}" if colon else port for port in found])


def names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Intercepts."""
    del param
    there = ctx.params.get("names") or ()
    return _beginning(incomplete, [name for name in _ask(ctx, "intercepts") if name not in there])


def namespaces(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Namespaces of the cluster."""
    del param
    return _beginning(incomplete, _ask(ctx, "namespaces"))


def _beginning(incomplete: str, words: list[str]) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]


def _ask(ctx: click.Context, kind: str, target: str = "") -> list[str]:
    flags = {name: ctx.params[name] for name in _FLAGS if ctx.params.get(name)}
    if kind == "namespaces":
        flags.pop("namespace", None)
    return _in_time(lambda: _words(flags, kind, target))


def _in_time(ask: Callable[[], list[str]]) -> list[str]:
    answer: list[str] = []

    def run() -> None:
        with contextlib.suppress(Exception):  # there is nobody to tell
            answer.extend(ask())

    # Not waited for: it ends with the process.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return list(answer)


def _words(flags: dict[str, object], kind: str, target: str) -> list[str]:
    from tpnet_cli.where import choose

    where = choose(**flags)  # type: ignore[arg-type]
    if where.options is not None:
        from tpnet.control.kubernetes.client import connect

        with connect(replace(where.options, request_timeout=PATIENCE)) as control:
            return control.complete(kind, target)
    from tpnet.control.local import LocalControl

    with LocalControl() as control:
        if kind == "intercepts":
            return sorted(item.intercept.name for item in control.status().intercepts)
        if kind == "ports":
            return sorted({str(port) for info in control.resolve(target) for port in info.listening})
    if kind == "services":
        from tpnet.datapath.netns import NAMED

        return sorted(path.name for path in NAMED.iterdir())
    return []
