"""``tpnet version``."""

from __future__ import annotations

import click

from tpnet_cli.output import is_data, output_option, write_data


@click.command()
@click.option("--client", is_flag=True, help="Only this command's; the agent is not asked.")
@output_option("json", "yaml")
def version(client: bool, output: str | None) -> None:
    """Show the version of this command and, when one answers, of the agent."""
    from tpnet import __version__

    versions = {"tpnet": __version__}
    if not client:
        agent = _agent_version()
        if agent:
            versions["agent"] = agent
    if is_data(output):
        write_data(versions, output)
        return
    for name, number in versions.items():
        click.echo(f"{name:<6} {number}")


def _agent_version() -> str:
    from tpnet.control.local import LocalControl
    from tpnet.model import TpnetError

    try:
        with LocalControl() as control:
            return control.info().version
    except TpnetError:
        return ""
