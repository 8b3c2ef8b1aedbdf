"""``tpnet status``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from tpnet_cli.output import is_data, is_wide, output_option, write_data
from tpnet_cli.where import Where, where_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType


@click.command()
@where_options(listing=True)
@output_option()
def status(where: Where, output: str | None) -> None:
    """Show agent, sessions, targets and intercepts in one view.

    In a cluster: the agents, the session and the tunnels of this computer, and the intercepts of the namespace.
    """
    if where.is_cluster:
        _cluster_status(where, output)
        return
    from tpnet.model.codec import encode
    from tpnet_cli.own import for_programs, revealed, session_facts, with_own

    with where.control() as control:
        me = where.user(control, None)
        current = revealed(with_own(control.status(), session_facts(where, me)), me)
    if is_data(output):
        write_data(encode(for_programs(current, me)), output)
        return
    from tpnet_cli.views.status import status_view

    _show(lambda width: status_view(current, time.time(), width, user=me, wide=is_wide(output)), output)


def _cluster_status(where: Where, output: str | None) -> None:
    """The same of a cluster, with what the session of this computer knows."""
    from tpnet.model.codec import encode
    from tpnet_cli.own import for_programs, renamed, revealed, session_facts, skew, with_own

    with where.control() as control:
        me = where.user(control, None)
        own = session_facts(where, me)
        current = revealed(with_own(control.status(), own), me)
        if is_data(output):
            write_data({**encode(for_programs(current, me)), "session": own}, output)
            return
        current = renamed(current, where, control)
        place = where.place(control)
    from tpnet_cli.views.cluster import cluster_view

    sentence = skew(current.agent.version)
    _show(
        lambda width: cluster_view(
            current, own, time.time(), width, user=me, place=place, skew=sentence, wide=is_wide(output)
        ),
        output,
    )


def _show(view: Callable[[int], RenderableType], output: str | None) -> None:
    from tpnet_cli.terminal import UNLIMITED, make_console, show

    console = make_console(width=UNLIMITED if is_wide(output) else None)
    show(view(console.width), console)
