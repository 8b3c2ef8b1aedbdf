"""``tpnet list``."""

from __future__ import annotations

import time

import click

from tpnet_cli.output import is_data, is_wide, output_option, write_data
from tpnet_cli.own import for_programs, renamed, revealed, session_facts, with_own
from tpnet_cli.where import Where, where_options


@click.command("list")
@click.option("--mine", is_flag=True, help="Only yours.")
@click.option("--user", help="Your name. Default: TPNET_USER, or the login name.")
@where_options(listing=True)
@output_option()
def list_(where: Where, mine: bool, user: str | None, output: str | None) -> None:
    """List the intercepts: whose they are, what they take, and whether they work."""
    from tpnet.model.codec import encode

    with where.control() as control:
        me = where.user(control, user)
        status = control.status()
        status = revealed(with_own(status, session_facts(where, me)), me)
        if not is_data(output):
            status = renamed(status, where, control)
        place = where.place(control)
    intercepts = (for_programs(status, me) if is_data(output) else status).intercepts
    if mine:
        intercepts = tuple(item for item in intercepts if item.intercept.user == me)
    if is_data(output):
        write_data([encode(item) for item in intercepts], output)
        return
    from tpnet_cli.terminal import UNLIMITED, make_console, show
    from tpnet_cli.views.listing import list_view

    console = make_console(width=UNLIMITED if is_wide(output) else None)
    show(list_view(intercepts, me, time.time(), console.width, wide=is_wide(output), place=place), console)
