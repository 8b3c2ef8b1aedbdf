"""``tpnet leave``: end intercepts. What they took goes to the app again, from the next request on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tpnet.model import NotThere, TpnetError
from tpnet_cli import identity

if TYPE_CHECKING:
    from tpnet.control.local import LocalControl
    from tpnet.model import Intercept


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of yours.")
@click.option("--force", is_flag=True, help="Also somebody else's.")
@click.option("--user", help="Your name. Default: TPNET_USER, or the login name.")
def leave(names: tuple[str, ...], everything: bool, force: bool, user: str | None) -> None:
    """End intercepts; their requests go to the app again.

    Nobody's connection breaks: requests under way may finish. With the last one your session ends too.
    """
    if bool(names) == everything:
        raise click.UsageError("Name the intercepts to leave, or use --all; see them with tpnet list.")

    from rich.text import Text

    from tpnet.control.local import LocalControl
    from tpnet_cli.terminal import OK, make_console, mark, show

    me = identity.user_name(user)
    console = make_console()
    with LocalControl() as control:
        there = {item.intercept.name: item.intercept for item in control.status().intercepts}
        if everything:
            names = tuple(name for name, intercept in there.items() if intercept.user == me)
            if not names:
                click.echo(f"{me} has no intercepts.")
        failures: list[TpnetError] = []
        for name in dict.fromkeys(names):
            try:
                intercept = there.get(name)
                if intercept is None:
                    raise _unknown(name, list(there))
                draining = _end(control, intercept, me, force)
            except TpnetError as error:
                failures.append(error)
                continue
            rest = f"; {_connections(draining)} may finish" if draining else ""
            show(
                Text.assemble(
                    mark(OK), " left ", (name, "bold"), f": its requests go to the app again{rest}"
                ),
                console,
            )
    for failure in failures[:-1]:
        click.echo(f"✗ {failure.message}", err=True)
    if failures:
        raise failures[-1]


def _end(control: LocalControl, intercept: Intercept, me: str, force: bool) -> int:
    """Through the session that holds it, which ends with its last; through the agent when there is none."""
    from tpnet.control.local import default_run_dir
    from tpnet.session import SessionClient

    if intercept.user == me:
        try:
            return int(SessionClient(default_run_dir(), me).remove(intercept.name)["draining"])
        except NotThere:
            pass  # its session is on another computer, or dead
    return control.delete_intercept(intercept.name, me, force).get("draining", 0)


def _unknown(name: str, there: list[str]) -> NotThere:
    hint = f"There are: {', '.join(sorted(there))}." if there else "There are none."
    return NotThere(f"There is no intercept {name}.", hint)


def _connections(number: int) -> str:
    from tpnet_cli.texts import counted

    return counted(number, "open connection")
