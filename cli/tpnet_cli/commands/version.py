"""``tpnet version``."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import click

from tpnet_cli.output import is_data, is_wide, output_option, write_data
from tpnet_cli.where import Where, where_options

if TYPE_CHECKING:
    from tpnet.model import AgentStatus


@click.command()
@click.option("--client", is_flag=True, help="Only this command's; the agent is not asked.")
@where_options()
@output_option()
def version(where: Where, client: bool, output: str | None) -> None:
    """Show the version of this command and, when one answers, of the agent."""
    from tpnet import __version__

    versions = {"tpnet": __version__}
    agent = None if client else _agent(where)
    if agent is not None:
        versions["agent"] = agent.version
    if is_data(output) or is_wide(output):
        versions["python"] = platform.python_version()
        versions["kernel"] = platform.release()
        if agent is not None:
            versions["agent kernel"] = agent.kernel
            versions["redirect"] = agent.redirect
            versions["wireguard"] = agent.wireguard
    if is_data(output):
        write_data({name.replace(" ", "_"): text for name, text in versions.items()}, output)
        return
    width = max(6, *map(len, versions))
    for name, text in versions.items():
        click.echo(f"{name:<{width}} {text}")


def _agent(where: Where) -> AgentStatus | None:
    from tpnet.model import TpnetError

    try:
        with where.control() as control:
            return control.info()
    except TpnetError:
        return None
