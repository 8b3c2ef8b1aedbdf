"""``tpnet agent``: the part that runs on the node, as root."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tpnet_cli.lazy import Lazy, LazyGroup

if TYPE_CHECKING:
    from tpnet.model import AgentStatus

_COMMANDS = (Lazy("run", "tpnet_cli.commands.agent", "run", "Run it here, in the foreground."),)


@click.group(cls=LazyGroup, lazy=_COMMANDS)
def agent() -> None:
    """Run the part of tpnet that redirects and decides, on the node whose services are to be intercepted."""


@click.command()
@click.option(
    "--local", is_flag=True, required=True, help="Without a cluster: intercepts come over a root-only socket."
)
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where its socket and its state are. Default: TPNET_RUN_DIR, or /run/tpnet.",
)
@click.option(
    "--udp-port", type=click.IntRange(1, 65535), help="WireGuard's port on this node. Default: 21820."
)
def run(local: bool, run_dir: Path | None, udp_port: int | None) -> None:
    """Run the agent in the foreground until SIGTERM or Ctrl-C. Needs root.

    Whatever ends it, services go on: new connections reach them directly again.
    """
    del local  # it must be given: there is no other way yet, and the word says which way this is
    import logging
    import sys

    from tpnet.agent.supervisor import run_agent
    from tpnet.tunnel import AGENT_UDP_PORT

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s", stream=sys.stderr
    )
    run_agent(run_dir, udp_port=AGENT_UDP_PORT if udp_port is None else udp_port, on_ready=_say_ready)


def _say_ready(info: AgentStatus) -> None:
    click.echo(
        f"The agent is ready: redirect {info.redirect}, WireGuard {info.wireguard}, kernel {info.kernel}.\n"
        "try    tpnet intercept TARGET        stop  Ctrl-C"
    )
