"""``tpnet leave``: end intercepts. What they took goes to the app again, from the next request on."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from tpnet.model import NotThere, Refused, TpnetError
from tpnet_cli import complete
from tpnet_cli.output import is_data, is_wide, output_option, say, write_data
from tpnet_cli.where import Where, where_options

if TYPE_CHECKING:
    from rich.text import Text

    from tpnet.control.kubernetes.client import ClusterControl
    from tpnet.control.local import LocalControl
    from tpnet.model import InterceptStatus
    from tpnet.session import SessionClient

    AnyControl = ClusterControl | LocalControl


@dataclass(frozen=True, slots=True)
class Left:
    """An intercept that was ended. ``draining``: open connections, which live on.

    ``agent_told`` is false where no agent answered. ``last``: the session ends with those connections.
    """

    name: str
    draining: int
    agent_told: bool
    last: bool = False


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1, shell_complete=complete.names)
@click.option("--all", "everything", is_flag=True, help="All of yours.")
@click.option("--force", is_flag=True, help="Also somebody else's.")
@click.option("--user", help="Your name. Default: TPNET_USER, or the login name.")
@where_options()
@output_option()
def leave(
    where: Where, names: tuple[str, ...], everything: bool, force: bool, user: str | None, output: str | None
) -> None:
    """End intercepts; their requests go to the app again.

    Nobody's connection breaks: requests under way may finish, however long they take. With the last intercept, and what
    is under way of it, your session ends too. In a cluster --all means every namespace, or the one that -n names.
    """
    if bool(names) == everything:
        raise click.UsageError("Name the intercepts to leave, or use --all; see them with tpnet list.")

    from tpnet_cli.terminal import UNLIMITED, make_console, show

    console = make_console(width=UNLIMITED if is_wide(output) else None)
    with contextlib.ExitStack() as stack:
        control, away = _control(where, stack)
        if control is not None:
            me = where.user(control, user)
            session = where.session(me)
        else:
            me, session = where.own_session(user)
        leaving = _Leaving(where, control, session, me, force=force, away=away)
        names = tuple(leaving.full_name(name) for name in names)
        if everything:
            names = leaving.all_mine()
            if not names and not is_data(output):
                say(f"{me} has no intercepts.")
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
                for line in _lines(left, leaving.there.get(name), where, control, wide=is_wide(output)):
                    show(line, console)
    if is_data(output):
        write_data([asdict(left) for left in done], output)
    for failure in failures[:-1]:
        say(f"✗ {failure.message}", err=True)
    if failures:
        raise failures[-1]


def _control(where: Where, stack: contextlib.ExitStack) -> tuple[AnyControl | None, TpnetError | None]:
    """Who can be asked, or why nobody."""
    try:
        control = where.control()
    except (NotThere, Refused) as error:
        return None, error
    stack.callback(control.close)
    return control, None


class _Leaving:
    """Through the session that holds an intercept, which ends with its last; else through the agent.

    ``there``: what the agent, or the cluster, has. Without it the session still lets go of what it would bring back.
    """

    def __init__(
        self,
        where: Where,
        control: AnyControl | None,
        session: SessionClient,
        me: str,
        *,
        force: bool,
        away: TpnetError | None,
    ) -> None:
        self._where = where
        self._control = control
        self._session = session
        self._me = me
        self._force = force
        self._away = away
        self.there: dict[str, InterceptStatus] = {}
        try:
            if control is not None:
                self.there = {item.intercept.name: item for item in control.status().intercepts}
        except (NotThere, Refused) as error:  # one may be allowed to delete and not to list, or elsewhere
            self._away = error

    def full_name(self, name: str) -> str:
        """The name in full: where the cluster does not answer, as the session knows it."""
        if self._control is not None:
            return self._where.name(self._control, name)
        known = self._of_session()
        return next((one for one in known if one == name or one.endswith(f"/{name}")), name)

    def _of_session(self) -> list[str]:
        try:
            return [str(entry["name"]) for entry in self._session.info()["intercepts"]]
        except NotThere:
            if self._away is not None:
                raise self._away from None
            return []

    def all_mine(self) -> tuple[str, ...]:
        """The names of one's own, at the agent and in the session. Raises ``NotThere`` when neither answers."""
        names = [name for name, item in self.there.items() if item.intercept.user == self._me]
        names += self._of_session()
        options = self._where.options
        within = f"{options.namespace}/" if options is not None and options.namespace else ""
        return tuple(name for name in dict.fromkeys(names) if name.startswith(within))

    def leave(self, name: str) -> Left:
        """End one. Raises ``TpnetError``."""
        item = self.there.get(name)
        if item is None or item.intercept.user == self._me:
            try:
                answer = self._session.remove(name)
                return Left(name, int(answer["draining"]), bool(answer["told"]), bool(answer["last"]))
            except NotThere:
                pass  # its session is on another computer, or dead
        control = self._control
        if self._away is not None or control is None:
            assert self._away is not None, "without a control there is a reason"
            raise NotThere(
                f"{self._me} has no intercept {name} on this computer. {self._away.message}", self._away.hint
            )
        if item is None:
            names = ", ".join(sorted(self._where.short(control, one) for one in self.there))
            raise NotThere(
                f"There is no intercept {name}.", f"There are: {names}." if names else "There are none."
            )
        if self._where.is_cluster and item.intercept.user != self._me and not self._force:
            raise Refused(
                f"The intercept {name} is {item.intercept.user}'s.",
                "With --force it is removed all the same, if you have the right: delete-any on intercepts.tpnet.dev.",
            )
        return Left(name, control.delete_intercept(name, self._me, self._force).get("draining", 0), True)


def _lines(
    left: Left, was: InterceptStatus | None, where: Where, control: AnyControl | None, *, wide: bool
) -> list[Text]:
    """What is true now. ``wide``: also what the intercept was."""
    from rich.text import Text

    from tpnet_cli import texts
    from tpnet_cli.terminal import OK, mark
    from tpnet_cli.views.listing import target_text

    if left.agent_told:
        rest = f": its requests go to {'the pods' if where.is_cluster else 'the app'} again"
        if left.draining:
            rest += f"; {texts.counted(left.draining, 'open connection')} may finish"
            rest += ", and then your session ends" if left.last else ""
    else:
        who = "the API server does not answer" if where.is_cluster else "no agent answers"
        rest = f"; {who}: what it may have of it goes with its lease, within 30 s"
    name = left.name if control is None else where.short(control, left.name)
    lines = [Text.assemble(mark(OK), " left ", (name, "bold"), rest)]
    if wide and was is not None:
        parts = [
            target_text(was),
            *texts.takes_parts(was.intercept),
            f"to {was.intercept.handler}",
            texts.counted(was.hits, "request"),
        ]
        lines.append(Text(f"  {'   '.join(parts)}"))
    return lines
