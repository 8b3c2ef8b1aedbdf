"""``tpnet install``, ``upgrade`` and ``uninstall``: tpnet's part of a cluster, put in and taken out."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from tpnet.model import InvalidInput
from tpnet_cli.output import is_data, is_wide, output_option, say, write_data
from tpnet_cli.uids import uid_range as read_range
from tpnet_cli.where import Where, where_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from tpnet.control.kubernetes.api import Object
    from tpnet.control.kubernetes.client import ClusterControl
    from tpnet.control.kubernetes.install import Rollout, Step

_FEW = 3
"""Fields of an object that are named where it is changed."""


@click.command()
@click.option("--image", default="", metavar="NAME", help="The agents' image. Default: that of this version.")
@click.option(
    "--dry-run", is_flag=True, help="Say what would change, as the API server sees it, and change nothing."
)
@click.option(
    "--bytes-untouched",
    is_flag=True,
    help="Agents that end tell no client to connect anew: not even its last response is marked.",
)
@click.option(
    "--uid-range",
    callback=read_range,
    metavar="FIRST-LAST",
    help="The users that the agents' workers, and wireguard-go, run as, which no pod should have. "
    "Default: 2000074700-2000074799.",
)
@click.option("--wait", is_flag=True, help="Wait until an agent is ready on every node.")
@click.option(
    "--timeout",
    type=click.FloatRange(1),
    default=120,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait at most.",
)
@where_options(cluster_only=True)
@output_option()
def install(
    where: Where,
    image: str,
    dry_run: bool,
    bytes_untouched: bool,
    uid_range: range | None,
    wait: bool,
    timeout: float,
    output: str | None,
) -> None:
    """Put tpnet into a cluster, or bring what is there to this version: the command is the same for both.

    It applies the objects that come with tpnet, and removes those of an earlier version that are not needed any more.
    Doing it again changes nothing. Needs the rights of an administrator of the cluster.
    """
    from tpnet.control.kubernetes import install as work
    from tpnet_cli.terminal import OK, Steps, make_console

    if dry_run and wait:
        raise InvalidInput(
            "--dry-run changes nothing, so there is nothing to --wait for.", "Drop one of them."
        )
    objects = work.manifests(image, bytes_untouched=bytes_untouched, worker_uids=uid_range)
    console = make_console()
    steps = Steps(console, quiet=is_data(output))
    rollout: Rollout | None = None
    with where.cluster() as control:
        doing = "asking what would change" if dry_run else "applying"
        with steps.doing(doing) as watch:
            if dry_run:
                done = control.call(lambda api: work.preview(api, objects))
            else:
                done = control.call(lambda api: work.apply(api, objects))
        if not is_data(output):
            _tell(done, console, wide=is_wide(output))
        if wait:
            with steps.doing("waiting for the agents") as watch:

                def told(now: Rollout) -> None:
                    if watch.say is not None:
                        watch.say(f"agents: {now.ready}/{now.nodes} ready. {now.problem}".rstrip(". "))

                rollout = control.call(lambda api: work.wait_ready(api, timeout, told))
            nodes = f"{rollout.ready}/{rollout.nodes} nodes"
            steps.done(OK, "agents", f"ready on {nodes}", watch.seconds)
    if is_data(output):
        steps_data = [asdict(step) for step in done]
        write_data({"steps": steps_data, "agents": asdict(rollout) if rollout else None}, output)
    else:
        _tell_end(done, dry_run=dry_run, waited=wait)


@click.command()
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@where_options(cluster_only=True)
@output_option()
def uninstall(where: Where, yes: bool, output: str | None) -> None:
    """Take tpnet out of a cluster. It says what is intercepted, and asks.

    Every intercept ends, every pod serves its own requests again, and then all of tpnet's objects go: nothing of it
    stays. Needs the rights of an administrator of the cluster.
    """
    from tpnet.control.kubernetes import install as work
    from tpnet_cli.terminal import OK, Steps, make_console

    console = make_console()
    steps = Steps(console, quiet=is_data(output))
    with where.cluster() as control:
        if not yes:
            _ask(control)
        with steps.doing("removing") as watch:

            def told(step: Step) -> None:
                if watch.say is not None:
                    watch.say(f"removing: {step.what} is gone")

            done = control.call(lambda api: work.uninstall(api, told))
    if is_data(output):
        write_data({"steps": [asdict(step) for step in done]}, output)
    elif not done:
        say(f"tpnet is not installed in {control.server}.")
    else:
        if is_wide(output):
            _tell(done, console, wide=True)
        steps.done(OK, "removed", f"tpnet is gone: {len(done)} objects", watch.seconds)


def _ask(control: ClusterControl) -> None:
    """Say what would end, and have it agreed to. Raises ``click.Abort`` when it is not."""
    from tpnet.control.kubernetes import install as work

    for line in _ending(control.call(work.intercepted)):
        say(line, err=True)
    if not sys.stdin.isatty():
        raise InvalidInput(
            "Nobody can be asked whether tpnet is to be removed.", "With --yes it is not asked."
        )
    version = control.call(work.installed_version)
    if not click.confirm(f"Remove tpnet {version} from {control.server}?".replace("  ", " "), err=True):
        say("Nothing was removed.", err=True)
        raise click.Abort


def _ending(intercepts: Sequence[Object]) -> list[str]:
    """What ends with tpnet, a line each."""
    if not intercepts:
        return ["Nothing is intercepted at this moment."]
    from tpnet_cli import texts

    lines = [f"{texts.counted(len(intercepts), 'intercept')} would end:"]
    for obj in intercepts:
        meta, spec = obj["metadata"], obj["spec"]
        target = f"{spec['target']['kind']} {spec['target']['name']}"
        lines.append(f"  {meta['namespace']}/{meta['name']}   {spec['user']}   {target}")
    return lines


def _tell(done: Sequence[Step], console: Console, *, wide: bool) -> None:
    """A line for each object that is or would be another than before; ``wide``: for each."""
    from rich.text import Text

    from tpnet_cli.terminal import show

    for step in done:
        if step.change == "unchanged" and not wide:
            continue
        fields = step.fields if wide else step.fields[:_FEW]
        more = f", and {len(step.fields) - len(fields)} more" if len(step.fields) > len(fields) else ""
        what = f"   {', '.join(fields)}{more}" if fields else ""
        show(Text.assemble(f"  {step.change:<10}", (step.what, "bold"), (what, "dim")), console)


def _tell_end(done: Sequence[Step], *, dry_run: bool, waited: bool) -> None:
    from tpnet import __version__

    counts = Counter(str(step.change) for step in done)
    words = ", ".join(f"{number} {change}" for change, number in counts.items())
    if dry_run:
        say(f"\nNothing was changed. Without --dry-run: {words}.")
        return
    follow = "" if waited else "\nwatch  kubectl -n tpnet rollout status daemonset tpnet-agent"
    say(
        f"\ntpnet {__version__} is installed: {words}.{follow}\n"
        "next   tpnet grant USER -n NAMESPACE        then, as that user   tpnet intercept SERVICE"
    )
