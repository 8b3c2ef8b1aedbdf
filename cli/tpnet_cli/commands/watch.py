"""``tpnet watch``: the intercepts' requests as they come, asked of the agent once a second."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from tpnet.model import NotThere
from tpnet_cli.output import is_data, is_wide, output_option, write_data
from tpnet_cli.where import Where, where_options

if TYPE_CHECKING:
    from rich.console import Console

    from tpnet.control.base import Control
    from tpnet_cli.views.watch import Sample

_PERIOD = 1.0


@click.command()
@click.argument("name", default="")
@click.option("--once", is_flag=True, help="Show it once, and end.")
@where_options(listing=True)
@output_option()
def watch(where: Where, name: str, once: bool, output: str | None) -> None:
    """Follow the requests of the intercepts, or of the one called NAME, until Ctrl-C.

    On a terminal the table stays in place. Elsewhere it is written again whenever something has changed; -o
    json writes an object a line.
    """
    with where.control() as control:
        name = where.name(control, name) if name else ""
        first = _sample(control)
        if name and name not in {item.intercept.name for item in first.status.intercepts}:
            raise NotThere(f"There is no intercept {name}.", "See which there are: tpnet list")
        if is_data(output):
            _stream(control, first, name, once, output)
        else:
            _show(control, first, name, once, wide=is_wide(output))


def _sample(control: Control) -> Sample:
    from tpnet_cli.views.watch import Sample

    return Sample(control.status(), time.time())


def _stream(control: Control, sample: Sample, name: str, once: bool, output: str | None) -> None:
    from tpnet.model.codec import encode
    from tpnet_cli.views.watch import select

    while True:
        intercepts = [encode(item) for item in select(sample.status, name)]
        targets = [encode(target) for target in sample.status.targets]
        write_data({"time": sample.at, "intercepts": intercepts, "targets": targets}, output, lines=not once)
        if once:
            return
        time.sleep(_PERIOD)
        sample = _sample(control)


def _show(control: Control, sample: Sample, name: str, once: bool, *, wide: bool) -> None:
    from tpnet_cli.terminal import UNLIMITED, make_console, rendered, show
    from tpnet_cli.views.watch import watch_view

    console = make_console()
    live = console.is_terminal and not once
    if wide and not live:
        console = make_console(width=UNLIMITED)
    if once:
        show(watch_view(sample, None, name, console.width, wide=wide), console)
    elif live:
        _show_live(control, sample, name, console, wide=wide)
    else:
        before, last = None, ""
        while True:
            view = rendered(watch_view(sample, before, name, console.width, wide=wide), console)
            if view != last:
                click.echo(f"{time.strftime('%H:%M:%S', time.localtime(sample.at))}\n{view}")
            time.sleep(_PERIOD)
            before, last, sample = sample, view, _sample(control)


def _show_live(control: Control, sample: Sample, name: str, console: Console, *, wide: bool) -> None:
    from rich.live import Live

    from tpnet_cli.views.watch import watch_view

    # In place there are only the terminal's columns: of all that wide shows, what fits.
    first = watch_view(sample, None, name, console.width, wide=wide)
    with Live(first, console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            time.sleep(_PERIOD)
            before, sample = sample, _sample(control)
            live.update(watch_view(sample, before, name, console.width, wide=wide), refresh=True)
