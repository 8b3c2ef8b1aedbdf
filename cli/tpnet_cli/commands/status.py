"""``tpnet status``."""

from __future__ import annotations

import time
from typing import Any

import click

from tpnet.model import NotThere
from tpnet_cli.output import is_data, is_wide, output_option, write_data
from tpnet_cli.where import Where, where_options


@click.command()
@where_options(listing=True)
@output_option()
def status(where: Where, output: str | None) -> None:
    """Show agent, sessions, targets and intercepts in one view."""
    from tpnet.model.codec import encode

    with where.control() as control:
        current = control.status()
        me = where.user(control, None)
        facts = _own_session(where, me) if where.is_cluster else None
    if is_data(output):
        write_data(encode(current), output)
        return
    from tpnet_cli.terminal import UNLIMITED, make_console, show

    console = make_console(width=UNLIMITED if is_wide(output) else None)
    if where.is_cluster:
        from tpnet_cli.views.cluster import cluster_view

        view = cluster_view(current, facts, me, time.time(), console.width, wide=is_wide(output))
    else:
        from tpnet_cli.views.status import status_view

        view = status_view(current, time.time(), console.width, wide=is_wide(output))
    show(view, console)


def _own_session(where: Where, me: str) -> dict[str, Any] | None:
    """What the session daemon on this computer says of itself; ``None``: there is none."""
    try:
        return where.session(me).info()
    except NotThere:
        return None
