"""``tpnet agent``: the part that runs on the node, as root."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tpnet_cli.lazy import Lazy, LazyGroup
from tpnet_cli.output import say
from tpnet_cli.uids import uid_range as read_range

if TYPE_CHECKING:
    from tpnet.agent.cluster.controller import ClusterOrders
    from tpnet.model import AgentStatus

_CLUSTER_END_SECONDS = 55.0  # less than the DaemonSet's terminationGracePeriodSeconds
_COMMANDS = (
    Lazy("run", "tpnet_cli.commands.agent", "run", "Run it here, in the foreground."),
    Lazy(
        "probe", "tpnet_cli.commands.agent", "probe", "Whether the agent of this node works, as an exit code."
    ),
)
_PROBE_SECONDS = 3.0


@click.group(cls=LazyGroup, lazy=_COMMANDS)
def agent() -> None:
    """Run the part of tpnet that redirects and decides, on the node whose services are to be intercepted."""


@click.command()
@click.option("--local", is_flag=True, help="Without a cluster: intercepts come over a root-only socket.")
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, dir_okay=False),
    help="For an agent outside of a pod: how to reach the cluster. In a pod the service account says it.",
)
@click.option(
    "--node",
    envvar="NODE_NAME",
    show_envvar=True,
    help="The name of this node in the cluster.",
)
@click.option(
    "--node-address",
    "addresses",
    envvar="HOST_IPS",
    show_envvar=True,
    help="The addresses, separated by commas, by which developers' computers reach this node.",
)
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where its socket and its state are. Default: TPNET_RUN_DIR, or /run/tpnet.",
)
@click.option(
    "--udp-port", type=click.IntRange(1, 65535), help="WireGuard's port on this node. Default: 21820."
)
@click.option(
    "--end-seconds",
    type=click.FloatRange(0, 3600),
    envvar="TPNET_END_SECONDS",
    show_envvar=True,
    help="What open connections have to finish when the agent is told to end. Default: 55, with --local 30.",
)
@click.option(
    "--bytes-untouched",
    is_flag=True,
    envvar="TPNET_BYTES_UNTOUCHED",
    show_envvar=True,
    help="When the agent ends, do not tell clients to connect anew: their last response is not marked.",
)
@click.option(
    "--worker-uids",
    envvar="TPNET_WORKER_UIDS",
    show_envvar=True,
    callback=read_range,
    metavar="FIRST-LAST",
    help="The users of which each worker, and wireguard-go, becomes one that no process of the node has. "
    "Default: 2000074700-2000074799.",
)
def run(
    local: bool,
    kubeconfig: Path | None,
    node: str | None,
    addresses: str | None,
    run_dir: Path | None,
    udp_port: int | None,
    end_seconds: float | None,
    bytes_untouched: bool,
    worker_uids: range | None,
) -> None:
    """Run the agent in the foreground until SIGTERM or Ctrl-C. Needs root.

    In a pod of its DaemonSet it takes its orders from the cluster, with --local from people on this machine.
    Whatever ends it, services go on: new connections reach them directly again.
    """
    from tpnet import log
    from tpnet.agent.supervisor import END_SECONDS, run_agent
    from tpnet.kernel.uids import WORKER_UIDS
    from tpnet.tunnel import AGENT_UDP_PORT

    orders = None if local else _cluster_orders(kubeconfig, node, addresses)
    if end_seconds is None:
        end_seconds = END_SECONDS if local else _CLUSTER_END_SECONDS
    uids = WORKER_UIDS if worker_uids is None else worker_uids
    out = log.Outlet(1)
    with log.to_stderr():
        run_agent(
            run_dir,
            orders=orders,
            udp_port=AGENT_UDP_PORT if udp_port is None else udp_port,
            end_seconds=end_seconds,
            bytes_untouched=bytes_untouched,
            worker_uids=uids,
            on_ready=lambda info: out.write(_ready(info)),
        )


def _cluster_orders(kubeconfig: Path | None, node: str | None, addresses: str | None) -> ClusterOrders:
    """Orders from the cluster. Raises ``InvalidInput`` when it is not said which node this is."""
    from tpnet.agent.cluster.controller import ClusterOrders
    from tpnet.control.kubernetes.api import Api
    from tpnet.model import InvalidInput

    hosts = [host.strip() for host in (addresses or "").split(",") if host.strip()]
    if not node or not hosts:
        raise InvalidInput(
            f"It is not said {'which node this is' if not node else 'by which addresses this node is reached'}.",
            "The DaemonSet of tpnet install says it. Without a cluster: tpnet agent run --local",
        )

    async def connect() -> Api:
        return await (Api.in_cluster() if kubeconfig is None else Api.from_kubeconfig(str(kubeconfig)))

    return ClusterOrders(connect, node, hosts, overlaps=kubeconfig is not None)


@click.command()
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where its socket is. Default: TPNET_RUN_DIR, or /run/tpnet.",
)
def probe(run_dir: Path | None) -> None:
    """Ask the agent of this node whether it redirects and decides. Exit code 0: it does. For a pod's probes."""
    import json
    import os
    import socket

    # By hand, without anything of tpnet's: it runs every few seconds on every node.
    folder = run_dir or Path(os.environ.get("TPNET_RUN_DIR") or "/run/tpnet")
    why = ""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(_PROBE_SECONDS)
            sock.connect(str(folder / "agent.sock"))
            sock.sendall(b'{"call": "info", "args": {}}\n')
            with sock.makefile("rb") as answers:
                answer = json.loads(answers.readline())
        if "ok" not in answer:
            why = str(answer.get("error", {}).get("message", "It does not say."))
        elif not answer["ok"].get("worker_pids"):
            why = "There is no worker at this moment; all traffic goes to the apps."
        elif silent := answer["ok"].get("worker_silent"):
            why = f"The worker has not responded for {silent:g} s; new connections go to the apps."
    except (OSError, ValueError) as error:
        why = f"It does not answer at {folder}/agent.sock: {error}."
    if why:
        say(why, err=True)
        raise SystemExit(1)


def _ready(info: AgentStatus) -> str:
    return (
        f"The agent is ready: redirect {info.redirect}, WireGuard {info.wireguard}, kernel {info.kernel}.\n"
        "try    tpnet intercept TARGET        stop  Ctrl-C"
    )
