"""``tpnet status``."""

from __future__ import annotations

import time

import click

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
    if is_data(output):
        write_data(encode(current), output)
        return
    from tpnet_cli.terminal import UNLIMITED, make_console, show
    from tpnet_cli.views.status import status_view

    console = make_console(width=UNLIMITED if is_wide(output) else None)
    show(status_view(current, time.time(), console.width, wide=is_wide(output)), console)
