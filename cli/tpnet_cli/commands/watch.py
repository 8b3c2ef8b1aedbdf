"""``tpnet watch``: the intercepts' requests as they come, asked of the agent once a second."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

import click

from tpnet.model import NotThere
from tpnet_cli import complete
from tpnet_cli.output import is_data, is_wide, output_option, say, write_data
from tpnet_cli.where import Where, where_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from tpnet.control.kubernetes.client import ClusterControl
    from tpnet.control.local import LocalControl
    from tpnet_cli.views.watch import Sample

    AnyControl = ClusterControl | LocalControl
    Sampler = Callable[[], Sample]

_PERIOD = 1.0


@click.command()
@click.argument("name", default="", shell_complete=complete.names)
@click.option("--once", is_flag=True, help="Show it once, and end.")
@where_options(listing=True)
@output_option()
def watch(where: Where, name: str, once: bool, output: str | None) -> None:
    """Follow the requests of the intercepts, or of the one called NAME, until Ctrl-C.

    On a terminal the table stays in place. Elsewhere it is written again whenever something has changed; -o
    json writes an object a line. A cluster's agents report their counts every half a minute; the connections of
    your own intercepts that are open at this computer are shown at once.
    """
    with where.control() as control:
        name = where.name(control, name) if name else ""
        sampler = functools.partial(_sample, where, control, short=not is_data(output))
        if not is_data(output) and name:
            name = where.short(control, name)
        first = sampler()
        if name and name not in {item.intercept.name for item in first.status.intercepts}:
            raise NotThere(f"There is no intercept {name}.", "See which there are: tpnet list")
        if is_data(output):
            _stream(sampler, first, name, once, output)
        else:
            _show(sampler, first, name, once, wide=is_wide(output))


def _sample(where: Where, control: AnyControl, *, short: bool) -> Sample:
    from tpnet_cli.own import for_programs, open_here, renamed, revealed, session_facts, with_own
    from tpnet_cli.views.watch import Sample

    me = where.user(control, None)
    own = session_facts(where, me)
    status = revealed(with_own(control.status(), own), me)
    if not short:
        status = for_programs(status, me)
    if not where.is_cluster:
        return Sample(status, time.time(), user=me)
    here = open_here(own)
    if short:
        status = renamed(status, where, control)
        here = {where.short(control, name): text for name, text in here.items()}
    return Sample(status, time.time(), here, me)


def _stream(sampler: Sampler, sample: Sample, name: str, once: bool, output: str | None) -> None:
    from tpnet.model.codec import encode
    from tpnet_cli.views.watch import select

    while True:
        intercepts = [encode(item) for item in select(sample.status, name)]
        targets = [encode(target) for target in sample.status.targets]
        write_data({"time": sample.at, "intercepts": intercepts, "targets": targets}, output, lines=not once)
        if once:
            return
        time.sleep(_PERIOD)
        sample = sampler()


def _show(sampler: Sampler, sample: Sample, name: str, once: bool, *, wide: bool) -> None:
    from tpnet_cli.terminal import UNLIMITED, make_console, rendered, show
    from tpnet_cli.views.watch import watch_view

    console = make_console()
    live = console.is_terminal and not once
    if wide and not live:
        console = make_console(width=UNLIMITED)
    if once:
        show(watch_view(sample, None, name, console.width, wide=wide), console)
    elif live:
        _show_live(sampler, sample, name, console, wide=wide)
    else:
        before, last = None, ""
        while True:
            view = rendered(watch_view(sample, before, name, console.width, wide=wide), console)
            if view != last:
                say(f"{time.strftime('%H:%M:%S', time.localtime(sample.at))}\n{view}")
            time.sleep(_PERIOD)
            before, last, sample = sample, view, sampler()


def _show_live(sampler: Sampler, sample: Sample, name: str, console: Console, *, wide: bool) -> None:
    from rich.live import Live

    from tpnet_cli.views.watch import watch_view

    # In place there are only the terminal's columns: of all that wide shows, what fits.
    first = watch_view(sample, None, name, console.width, wide=wide)
    with Live(first, console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            time.sleep(_PERIOD)
            before, sample = sample, sampler()
            live.update(watch_view(sample, before, name, console.width, wide=wide), refresh=True)
