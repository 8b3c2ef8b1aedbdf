"""Where a command looks: at a cluster, with kubectl's flags, or at the agent of this very machine.

Every command that asks for intercepts uses ``where_options`` and gets a ``Where``. Must never import what only one of
the two needs before it is clear which it is.
"""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tpnet.control.kubernetes.options import ClusterOptions
from tpnet.model import InvalidInput, NotThere
from tpnet_cli import identity

if TYPE_CHECKING:
    from collections.abc import Callable

    from tpnet.control.kubernetes.client import ClusterControl
    from tpnet.control.local import LocalControl
    from tpnet.session import SessionClient

F = TypeVar("F", bound="Callable[..., Any]")

_NAMES = ("local", "kubeconfig", "context", "namespace", "as_user", "as_groups", "request_timeout")
_LISTING = ("all_namespaces", "labels")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|)")
_UNITS = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0}


@dataclass(frozen=True, slots=True)
class Where:
    """A cluster (``options``), or this machine's agent (``None``)."""

    options: ClusterOptions | None

    @property
    def is_cluster(self) -> bool:
        """Whether it is a cluster."""
        return self.options is not None

    def control(self) -> ClusterControl | LocalControl:
        """A context manager that speaks to it. Raises ``TpnetError``."""
        if self.options is None:
            from tpnet.control.local import LocalControl

            return LocalControl()
        from tpnet.control.kubernetes.client import connect

        return connect(self.options)

    def user(self, control: ClusterControl | LocalControl, given: str | None) -> str:
        """Who the developer is: in a cluster, whoever its API server says."""
        if self.options is None:
            return identity.user_name(given)
        if given is not None:
            raise InvalidInput(
                "--user is for an agent without a cluster.",
                "In a cluster you are who your kubeconfig says; --as is another.",
            )
        return str(getattr(control, "user", ""))

    def own_name(self, given: str | None) -> str:
        """``user``, asked of the API server only if that is what it takes."""
        if self.options is None:
            return identity.user_name(given)
        with self.control() as control:
            return self.user(control, given)

    def name(self, control: ClusterControl | LocalControl, text: str) -> str:
        """An intercept's full name: in a cluster ``namespace/name``."""
        return text if self.options is None or "/" in text else f"{getattr(control, 'namespace', '')}/{text}"

    def session(self, user: str) -> SessionClient:
        """The user's session daemon on this computer, which may not be there."""
        from tpnet.session import SessionClient

        if self.options is None:
            return SessionClient(run_dir(cluster=False), user)
        return SessionClient(run_dir(cluster=True), user, self._of_session)

    def ensure_session(self, user: str) -> SessionClient:
        """The same, started if need be. Raises ``TpnetError``."""
        from tpnet.session import ensure_session

        if self.options is None:
            return ensure_session(run_dir(cluster=False), user)
        return ensure_session(run_dir(cluster=True), user, cluster=self._of_session)

    @property
    def _of_session(self) -> ClusterOptions | None:
        """One daemon serves all namespaces of a context."""
        if self.options is None:
            return None
        return replace(self.options, namespace=None, all_namespaces=False, labels="", request_timeout=0.0)


def run_dir(*, cluster: bool) -> Path:
    """Where session daemons keep their sockets."""
    from tpnet.control.local.protocol import default_run_dir

    if cluster and os.geteuid() != 0 and not os.environ.get("TPNET_RUN_DIR"):
        return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/tpnet-{os.getuid()}") / "tpnet"  # noqa: S108
    return default_run_dir()


def where_options(*, listing: bool = False) -> Callable[[F], F]:
    """Kubectl's flags, and ``--local``; the command gets ``where``. ``listing``: ``-A`` and ``-l`` as well."""
    options = [
        click.option("--local", is_flag=True, help="The agent of this machine, not a cluster."),
        click.option("--kubeconfig", metavar="FILE", help="As for kubectl."),
        click.option("--context", metavar="NAME", help="As for kubectl."),
        click.option("-n", "--namespace", metavar="NAME", help="As for kubectl."),
        click.option("--as", "as_user", metavar="USER", default="", help="As for kubectl."),
        click.option("--as-group", "as_groups", metavar="GROUP", multiple=True, help="As for kubectl."),
        click.option("--request-timeout", metavar="SECONDS", default="0", help="As for kubectl."),
    ]
    if listing:
        options += [
            click.option("-A", "--all-namespaces", is_flag=True, help="As for kubectl."),
            click.option(
                "-l", "--selector", "labels", metavar="SELECTOR", default="", help="As for kubectl."
            ),
        ]

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def inner(**given: Any) -> Any:
            flags = {name: given.pop(name) for name in (*_NAMES, *(_LISTING if listing else ()))}
            return function(where=choose(**flags), **given)

        for option in reversed(options):
            inner = option(inner)
        return inner  # type: ignore[return-value]

    return decorate


def choose(*, local: bool, request_timeout: str = "0", **flags: Any) -> Where:
    """A cluster or this machine.

    ``--local`` and ``TPNET_RUN_DIR`` mean this machine. Any of kubectl's flags, ``KUBECONFIG`` or ``~/.kube/config``
    mean a cluster. Without all of these it is this machine if an agent's socket is there. Raises ``NotThere``,
    ``InvalidInput``.
    """
    asked = any(flags.values())
    if local:
        if asked:
            raise InvalidInput("--local goes with none of kubectl's flags.", "Say one or the other.")
        return Where(None)
    if asked or (not os.environ.get("TPNET_RUN_DIR") and _has_kubeconfig()):
        seconds = _seconds(request_timeout)
        return Where(ClusterOptions(request_timeout=seconds, **flags))
    return Where(None)


def _has_kubeconfig() -> bool:
    return bool(os.environ.get("KUBECONFIG")) or (Path.home() / ".kube/config").is_file()


def _seconds(text: str) -> float:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise InvalidInput(f"--request-timeout={text} is no time.", "Such as 10s, 2m or 500ms.")
    return float(found[1]) * _UNITS[found[2]]


def nowhere(error: NotThere) -> NotThere:
    """What to say when this machine has no agent: there are two ways to have one."""
    return NotThere(
        error.message,
        "For a cluster, give a kubeconfig (--kubeconfig, KUBECONFIG); without one, run an agent here: "
        "tpnet agent run --local",
    )
