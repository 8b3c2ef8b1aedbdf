"""``tpnet leave``: end intercepts. What they took goes to the app again, from the next request on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from tpnet.model import NotThere, TpnetError
from tpnet_cli.output import is_data, is_wide, output_option, write_data
from tpnet_cli.where import Where, where_options

if TYPE_CHECKING:
    from rich.text import Text

    from tpnet.control.base import Control
    from tpnet.model import InterceptStatus
    from tpnet.session import SessionClient


@dataclass(frozen=True, slots=True)
class Left:
    """An intercept that was ended; ``agent_told`` is false where no agent answered."""

    name: str
    draining: int
    agent_told: bool


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of yours.")
@click.option("--force", is_flag=True, help="Also somebody else's.")
@click.option("--user", help="Your name. Default: TPNET_USER, or the login name.")
@where_options()
@output_option()
def leave(
    where: Where, names: tuple[str, ...], everything: bool, force: bool, user: str | None, output: str | None
) -> None:
    """End intercepts; their requests go to the app again.

    Nobody's connection breaks: requests under way may finish. With the last one your session ends too.
    """
    if bool(names) == everything:
        raise click.UsageError("Name the intercepts to leave, or use --all; see them with tpnet list.")

    from tpnet_cli.terminal import UNLIMITED, make_console, show

    console = make_console(width=UNLIMITED if is_wide(output) else None)
    with where.control() as control:
        me = where.user(control, user)
        names = tuple(where.name(control, name) for name in names)
        leaving = _Leaving(control, where.session(me), me, force=force)
        if everything:
            names = leaving.all_mine()
            if not names and not is_data(output):
                click.echo(f"{me} has no intercepts.")
        done: list[Left] = []
        failures: list[TpnetError] = []
        for name in dict.fromkeys(names):
            try:
                left = leaving.leave(name)
            except TpnetError as error:
                failures.append(error)
                continue
            done.append(left)
            if not is_data(output):
                for line in _lines(left, leaving.there.get(name), wide=is_wide(output)):
                    show(line, console)
    if is_data(output):
        write_data([asdict(left) for left in done], output)
    for failure in failures[:-1]:
        click.echo(f"✗ {failure.message}", err=True)
    if failures:
        raise failures[-1]


class _Leaving:
    """Through the session that holds an intercept, which ends with its last; else through the agent.

    ``there``: what the agent has. Without an agent the session still lets go of what it would bring back.
    """

    def __init__(self, control: Control, session: SessionClient, me: str, *, force: bool) -> None:
        self._control = control
        self._session = session
        self._me = me
        self._force = force
        self._away: NotThere | None = None
        self.there: dict[str, InterceptStatus] = {}
        try:
            self.there = {item.intercept.name: item for item in control.status().intercepts}
        except NotThere as error:
            self._away = error

    def all_mine(self) -> tuple[str, ...]:
        """The names of one's own, at the agent and in the session. Raises ``NotThere`` when neither answers."""
        names = [name for name, item in self.there.items() if item.intercept.user == self._me]
        try:
            names += [str(entry["name"]) for entry in self._session.info()["intercepts"]]
        except NotThere:
            if self._away is not None:
                raise self._away from None
        return tuple(dict.fromkeys(names))

    def leave(self, name: str) -> Left:
        """End one. Raises ``TpnetError``."""
        item = self.there.get(name)
        if item is None or item.intercept.user == self._me:
            try:
                answer = self._session.remove(name)
                return Left(name, int(answer["draining"]), bool(answer["told"]))
            except NotThere:
                pass  # its session is on another computer, or dead
        if self._away is not None:
            raise NotThere(
                f"{self._me} has no intercept {name} on this computer. {self._away.message}", self._away.hint
            )
        if item is None:
            names = ", ".join(sorted(self.there))
            raise NotThere(
                f"There is no intercept {name}.", f"There are: {names}." if names else "There are none."
            )
        return Left(
            name, self._control.delete_intercept(name, self._me, self._force).get("draining", 0), True
        )


def _lines(left: Left, was: InterceptStatus | None, *, wide: bool) -> list[Text]:
    """What is true now. ``wide``: also what the intercept was."""
    from rich.text import Text

    from tpnet_cli import texts
    from tpnet_cli.terminal import OK, mark
    from tpnet_cli.views.listing import target_text

    if left.agent_told:
        rest = ": its requests go to the app again"
        if left.draining:
            rest += f"; {texts.counted(left.draining, 'open connection')} may finish"
    else:
        rest = "; no agent answers: what it may have of it goes with its lease, within 30 s"
    lines = [Text.assemble(mark(OK), " left ", (left.name, "bold"), rest)]
    if wide and was is not None:
        parts = [
            target_text(was),
            *texts.takes_parts(was.intercept),
            f"to {was.intercept.handler}",
            texts.counted(was.hits, "request"),
        ]
        lines.append(Text(f"  {'   '.join(parts)}"))
    return lines
