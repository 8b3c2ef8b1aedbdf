"""``tpnet quit``: end the session daemon of this computer, and with it every intercept of its developer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from tpnet.model import NotThere
from tpnet_cli.output import is_data, is_wide, output_option, say, write_data
from tpnet_cli.where import Where, where_options

if TYPE_CHECKING:
    from rich.text import Text


@click.command("quit")
@click.option("--user", help="Your name. Default: TPNET_USER, or the login name.")
@where_options()
@output_option()
def quit_(where: Where, user: str | None, output: str | None) -> None:
    """End your session and all of its intercepts. Their requests go to the app again.

    What is under way has five seconds to finish, and is cut off then. To let it finish however long it takes: tpnet
    leave --all.
    """
    from tpnet_cli.terminal import UNLIMITED, Steps, make_console, show

    console = make_console(width=UNLIMITED if is_wide(output) else None)
    me, client = where.own_session(user)
    facts: dict[str, Any] | None = None
    ended: dict[str, Any] = {"behind": {}, "cut": 0}
    try:
        facts = client.info()
    except NotThere:
        pass
    else:
        if not is_data(output):
            for line in _under_way(facts):
                show(line, console)
        with Steps(console, quiet=is_data(output)).doing("ending your session"):
            ended = client.quit()
    behind, cut = ended["behind"], ended["cut"]
    if is_data(output):
        names = [entry["name"] for entry in facts["intercepts"]] if facts else []
        left = [name for name in names if name not in behind]
        session = facts["session"] if facts else None
        write_data({"user": me, "session": session, "left": left, "behind": behind, "cut": cut}, output)
    elif facts is None:
        say(f"{me} has no session on this computer.")
    else:
        for line in _lines(me, facts, behind, cut, wide=is_wide(output)):
            show(line, console)


def _under_way(facts: dict[str, Any]) -> list[Text]:
    """What is waited for, and for how long at most."""
    from rich.text import Text

    from tpnet.session.client import END_SECONDS
    from tpnet_cli import texts
    from tpnet_cli.terminal import WAITING, mark

    number = sum(int(entry["open"]) for entry in facts["intercepts"]) + int(facts["draining"])
    if not number:
        return []
    some = texts.counted(number, "connection")
    return [
        Text.assemble(mark(WAITING), f" {some} to your process may finish, for {END_SECONDS:.0f} s at most")
    ]


def _lines(me: str, facts: dict[str, Any], behind: dict[str, str], cut: int, *, wide: bool) -> list[Text]:
    """What is true now. ``wide``: also what the session was, and what its intercepts had."""
    from rich.text import Text

    from tpnet_cli import texts
    from tpnet_cli.terminal import OK, WAITING, mark

    entries: list[dict[str, Any]] = facts["intercepts"]
    names = [entry["name"] for entry in entries if entry["name"] not in behind]
    left = f"; left {', '.join(names)}" if names else ""
    lines = [Text.assemble(mark(OK), f" {me}'s session is over{left}")]
    if cut:
        some, were = texts.counted(cut, "connection"), "was" if cut == 1 else "were"
        lines.append(
            Text.assemble(mark(WAITING), f" {some} to your process did not finish in time and {were} cut off")
        )
    for name, why in behind.items():
        lines.append(Text.assemble(mark(WAITING), f" {name} goes by itself within a minute: {why}"))
    if wide:
        now = time.time()
        lasted = texts.duration(now - float(facts["started"]))
        lines.append(Text(f"  session  {facts['session']}   was on for {lasted}   to {facts['endpoint']}"))
        lines += [
            Text(
                f"  left     {entry['name']}   to {entry['handler']}   "
                f"{texts.counted(int(entry['total']), 'connection')}, {texts.count(int(entry['open']))} open"
            )
            for entry in entries
        ]
    return lines
