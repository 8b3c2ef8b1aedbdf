"""``tpnet version``."""

from __future__ import annotations

import platform
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from tpnet_cli.output import is_data, is_wide, output_option, say, write_data
from tpnet_cli.where import Where, where_options

if TYPE_CHECKING:
    from tpnet.model import AgentStatus

_PATIENCE = 5.0
"""Seconds that a cluster has to answer, unless told otherwise."""


@click.command()
@click.option("--client", is_flag=True, help="Only this command's; the agent is not asked.")
@where_options()
@output_option()
def version(where: Where, client: bool, output: str | None) -> None:
    """Show the version of this command and, when one answers, of the agent; and whether the two go together."""
    from tpnet import __version__

    versions = {"tpnet": __version__}
    agent = None if client else _agent(where)
    if agent is not None:
        versions["agent"] = agent.version
    if is_data(output) or is_wide(output):
        versions["python"] = platform.python_version()
        versions["kernel"] = platform.release()
        if agent is not None:
            said = {"agent kernel": agent.kernel, "redirect": agent.redirect, "wireguard": agent.wireguard}
            versions |= {name: text for name, text in said.items() if text}
    if is_data(output):
        write_data({name.replace(" ", "_"): text for name, text in versions.items()}, output)
    else:
        width = max(6, *map(len, versions))
        for name, text in versions.items():
            say(f"{name:<{width}} {text}")
    if agent is not None and where.is_cluster:
        from tpnet_cli.own import skew

        if sentence := skew(agent.version):
            say(f"! {sentence}", err=True)


def _agent(where: Where) -> AgentStatus | None:
    from tpnet.model import TpnetError

    if where.options is not None and not where.options.request_timeout:
        where = replace(where, options=replace(where.options, request_timeout=_PATIENCE))
    try:
        with where.control() as control:
            return control.info()
    except TpnetError:
        return None
