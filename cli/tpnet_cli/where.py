"""Where a command looks: at a cluster, with kubectl's flags, or at the agent of this very machine.

Every command that asks for intercepts uses ``where_options`` and gets a ``Where``. Must never import what only one of
the two needs before it is clear which it is.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tpnet.control.kubernetes.options import ClusterOptions
from tpnet.model import InvalidInput, NotThere, TpnetError
from tpnet_cli import complete, identity

if TYPE_CHECKING:
    from collections.abc import Callable

    from tpnet.control.kubernetes.client import ClusterControl
    from tpnet.control.local import LocalControl
    from tpnet.session import SessionClient

F = TypeVar("F", bound="Callable[..., Any]")

_SAID = {
    "local": "--local",
    "kubeconfig": "--kubeconfig",
    "context": "--context",
    "namespace": "-n",
    "as_user": "--as",
}
"""The flags that another command needs again to look at the same place."""
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|)")
_UNITS = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0}


@dataclass(frozen=True, slots=True)
class Where:
    """A cluster (``options``), or this machine's agent (``None``).

    ``said``: the flags that said so, for another command's line. ``chosen``: whether anything did.
    """

    options: ClusterOptions | None
    said: str = ""
    chosen: bool = True

    @property
    def is_cluster(self) -> bool:
        """Whether it is a cluster."""
        return self.options is not None

    def control(self) -> ClusterControl | LocalControl:
        """A context manager that speaks to it. Raises ``TpnetError``."""
        if self.options is None:
            from tpnet.control.local import LocalControl

            if not self.chosen and not _has_agent():
                raise NotThere(
                    "No agent answers on this computer, and there is no kubeconfig.",
                    "For a cluster: give its kubeconfig, with --kubeconfig, KUBECONFIG or as ~/.kube/config.\n"
                    "Without one: run an agent here, tpnet agent run --local",
                )
            return LocalControl()
        from tpnet.control.kubernetes.client import connect

        return connect(self.options)

    def cluster(self) -> ClusterControl:
        """The same where it can only be a cluster. Raises ``TpnetError``."""
        from tpnet.control.kubernetes.client import connect

        assert self.options is not None, "chosen with cluster_only"
        return connect(self.options)

    def user(self, control: ClusterControl | LocalControl, given: str | None) -> str:
        """Who the developer is: in a cluster, whoever its API server says."""
        if self.options is None:
            return identity.user_name(given)
        self._check_user(given)
        return str(getattr(control, "user", ""))

    def name(self, control: ClusterControl | LocalControl, text: str) -> str:
        """An intercept's full name: in a cluster ``namespace/name``."""
        return text if self.options is None or "/" in text else f"{getattr(control, 'namespace', '')}/{text}"

    def short(self, control: ClusterControl | LocalControl, name: str) -> str:
        """How to show a full name: without the namespace that everything of this command is in."""
        if self.options is None or self.options.all_namespaces:
            return name
        return name.removeprefix(f"{getattr(control, 'namespace', '')}/")

    def place(self, control: ClusterControl | LocalControl) -> str:
        """What a list is of, in words: a namespace, or the whole cluster; empty for this machine."""
        if self.options is None:
            return ""
        return "the whole cluster" if self.options.all_namespaces else str(getattr(control, "namespace", ""))

    def session(self, user: str) -> SessionClient:
        """The user's session daemon on this computer, which may not be there."""
        from tpnet.session import SessionClient

        if self.options is None:
            return SessionClient(run_dir(cluster=False), user)
        return SessionClient(run_dir(cluster=True), user, self._of_session)

    def own_session(self, given: str | None) -> tuple[str, SessionClient]:
        """Who the developer is, and the session daemon, which may not be there.

        In a cluster the one of this context, if it is the only one, says who that is: so it can be told to end
        whatever the API server does. Else that is asked, and what it raises is raised.
        """
        if self.options is None:
            name = identity.user_name(given)
            return name, self.session(name)
        self._check_user(given)
        sockets = [*(run_dir(cluster=True) / "sessions").glob(f"*.{self._of_session.key}.sock")]  # type: ignore[union-attr]
        if len(sockets) == 1:
            client = self.session(sockets[0].name.rsplit(".", 2)[0])
            try:
                return str(client.info()["user"]), client
            except TpnetError:
                pass  # its socket is all that is left of it
        with self.control() as control:
            name = self.user(control, given)
        return name, self.session(name)

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

    @staticmethod
    def _check_user(given: str | None) -> None:
        if given is not None:
            raise InvalidInput(
                "--user is for an agent without a cluster.",
                "In a cluster you are who your kubeconfig says; --as is another.",
            )


def run_dir(*, cluster: bool) -> Path:
    """Where session daemons keep their sockets."""
    from tpnet.control.local.protocol import default_run_dir

    if cluster and os.geteuid() != 0 and not os.environ.get("TPNET_RUN_DIR"):
        return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/tpnet-{os.getuid()}") / "tpnet"  # noqa: S108
    return default_run_dir()


def where_options(*, listing: bool = False, cluster_only: bool = False) -> Callable[[F], F]:
    """Kubectl's flags, and ``--local``; the command gets ``where``.

    ``listing``: ``-A`` and ``-l`` as well. ``cluster_only``: for what concerns a whole cluster; no namespace, no
    ``--local``.
    """
    options = [
        click.option("--kubeconfig", metavar="FILE", help="As for kubectl."),
        click.option("--context", metavar="NAME", help="As for kubectl."),
        click.option("--as", "as_user", metavar="USER", default="", help="As for kubectl."),
        click.option("--as-group", "as_groups", metavar="GROUP", multiple=True, help="As for kubectl."),
        click.option("--request-timeout", metavar="SECONDS", default="0", help="As for kubectl."),
    ]
    names = ["kubeconfig", "context", "as_user", "as_groups", "request_timeout"]
    if not cluster_only:
        options[:0] = [
            click.option("--local", is_flag=True, help="The agent of this machine, not a cluster.")
        ]
        options.insert(
            3,
            click.option(
                "-n",
                "--namespace",
                metavar="NAME",
                help="As for kubectl.",
                shell_complete=complete.namespaces,
            ),
        )
        names += ["local", "namespace"]
    if listing:
        options += [
            click.option("-A", "--all-namespaces", is_flag=True, help="As for kubectl."),
            click.option(
                "-l", "--selector", "labels", metavar="SELECTOR", default="", help="As for kubectl."
            ),
        ]
        names += ["all_namespaces", "labels"]

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def inner(**given: Any) -> Any:
            flags = {name: given.pop(name) for name in names}
            return function(where=choose(cluster_only=cluster_only, **flags), **given)

        for option in reversed(options):
            inner = option(inner)
        return inner  # type: ignore[return-value]

    return decorate


def choose(
    *, local: bool = False, request_timeout: str = "0", cluster_only: bool = False, **flags: Any
) -> Where:
    """A cluster or this machine.

    ``--local`` means this machine, any of kubectl's flags a cluster. Without them it is this machine with
    ``TPNET_RUN_DIR``, a cluster with ``KUBECONFIG`` or ``~/.kube/config``, else this machine. The context of the moment
    is written down in the options: a session stays with its cluster, whatever becomes the current one later. Raises
    ``InvalidInput``.
    """
    asked = any(flags.values())
    words = [
        (option, value)
        for name, option in _SAID.items()
        if (value := local if name == "local" else flags.get(name))
    ]
    said = shlex.join(
        word for option, value in words for word in ([option] if value is True else [option, str(value)])
    )
    if local:
        if asked:
            raise InvalidInput("--local goes with none of kubectl's flags.", "Say one or the other.")
        return Where(None, said)
    if flags.get("as_groups") and not flags.get("as_user"):
        raise InvalidInput(
            "--as-group goes with --as: a user is to be impersonated first.", "As for kubectl."
        )
    here = bool(os.environ.get("TPNET_RUN_DIR"))
    if not (cluster_only or asked or (not here and _has_kubeconfig())):
        return Where(None, said, chosen=here)
    files = _kubeconfig(flags.pop("kubeconfig", None))
    return Where(
        ClusterOptions(
            request_timeout=_seconds(request_timeout),
            kubeconfig=files,
            context=flags.pop("context", None) or _current_context(files),
            **flags,
        ),
        said,
    )


def _has_kubeconfig() -> bool:
    return bool(os.environ.get("KUBECONFIG")) or (Path.home() / ".kube/config").is_file()


def _has_agent() -> bool:
    from tpnet.control.local.protocol import SOCKET_NAME, default_run_dir

    return os.path.exists(default_run_dir() / SOCKET_NAME)  # noqa: PTH110  # which takes a locked folder for a no


def _kubeconfig(given: str | None) -> str:
    """The file, or the files as KUBECONFIG names them, wherever they are read from."""
    named = given or os.environ.get("KUBECONFIG") or str(Path.home() / ".kube/config")
    return os.pathsep.join(str(Path(one).expanduser().absolute()) for one in named.split(os.pathsep) if one)


def _current_context(files: str) -> str | None:
    """The current context: that of the first file that has one, as for kubectl. What cannot be read is told later."""
    import yaml

    for one in files.split(os.pathsep):
        try:
            content = yaml.safe_load(Path(one).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError):
            continue
        if isinstance(content, dict) and content.get("current-context"):
            return str(content["current-context"])
    return None


def _seconds(text: str) -> float:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise InvalidInput(f"--request-timeout={text} is no time.", "Such as 10s, 2m or 500ms.")
    return float(found[1]) * _UNITS[found[2]]
