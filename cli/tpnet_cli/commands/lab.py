"""``tpnet lab``: a small network on this machine, and the demonstration that plays in one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from tpnet_cli.lazy import Lazy, LazyGroup
from tpnet_cli.output import say

if TYPE_CHECKING:
    from tpnet_cli.lab.plan import LabPaths

_COMMANDS = (
    Lazy("up", "tpnet_cli.commands.lab", "up", "Build it and start its agent."),
    Lazy("down", "tpnet_cli.commands.lab", "down", "Remove it: its processes, namespaces and files."),
    Lazy("exec", "tpnet_cli.commands.lab", "exec_", "Run a command in one of its places."),
    Lazy("demo", "tpnet_cli.commands.lab", "demo", "Play the story in a lab of its own, checking each step."),
)


@click.group(cls=LazyGroup, lazy=_COMMANDS)
def lab() -> None:
    """Try tpnet in a small network of namespaces on this machine. Needs root and nginx.

    Two clients, a node with two replicas of a shop (nginx) and an agent, and the laptops of bob and alice,
    each with a handler on 127.0.0.1:8080. The machine's own network is not touched.
    """


_name_option = click.option("--name", default="lab", show_default=True, help="The lab's name.")


@click.command()
@_name_option
def up(name: str) -> None:
    """Build the lab and start its agent."""
    from tpnet_cli.lab import build
    from tpnet_cli.lab.plan import CLIENTS, LAPTOPS, SHOPS
    from tpnet_cli.terminal import OK, Steps, make_console

    paths = _paths(name)
    steps = Steps(make_console())
    with steps.doing("building the lab"):
        build.up(paths, lambda part, text: steps.done(OK, part, text))
    rest = "" if name == "lab" else f" --name {name}"
    client, laptop = (f"tpnet lab exec{rest} {place.name} --" for place in (CLIENTS[0], LAPTOPS[0]))
    shop = f"http://{SHOPS[0].name}/"
    say(
        f"\n{name} is up.\n"
        f"try    {client} curl -s {shop}\n"
        f"       {laptop} tpnet intercept '{name}-shop-*' --port 8080:80 --http-header Coder=Bob\n"
        f"       {client} curl -s -H 'Coder: Bob' {shop}\n"
        f"stop   tpnet lab down{rest}"
    )


@click.command()
@_name_option
def down(name: str) -> None:
    """Remove the lab: its processes, its namespaces, its files."""
    from tpnet_cli.lab import build
    from tpnet_cli.terminal import Steps, make_console

    paths = _paths(name)
    with Steps(make_console()).doing("removing the lab"):
        build.down(paths)
    say(f"{name} is gone.")


_EXEC_HELP = """Run a command in one of the places: client-1, client-2, node, shop-1, shop-2, bob, alice.

The places know each other by these names, and tpnet finds the lab's agent.

\b
Example:
  tpnet lab exec client-1 -- curl -s http://shop-1/
"""


@click.command(
    "exec",
    help=_EXEC_HELP,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@_name_option
@click.argument("where")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(name: str, where: str, command: tuple[str, ...]) -> None:
    """Become the command; nothing comes back."""
    argv = list(command[1:] if command[0] == "--" else command)
    if not argv:
        raise click.UsageError("Say which command to run.")
    from tpnet_cli.lab import build, enter
    from tpnet_cli.lab.plan import place_named

    paths = _paths(name)
    place = place_named(where)
    netns = build.open_place(paths, place.name)
    os.environ.update(build.environment(paths, place.name))
    enter.run(netns, paths.hosts, argv)


@click.command()
@click.option("--keep", is_flag=True, help="Leave the lab as it is at the end, to look around.")
def demo(keep: bool) -> None:
    """Play the story in a lab of its own: who gets which request, and what the shop sees."""
    from tpnet_cli.lab.demo import play

    click.get_current_context().exit(play(keep=keep))


def _paths(name: str) -> LabPaths:
    from tpnet_cli.lab.plan import lab_paths

    return lab_paths(name)
