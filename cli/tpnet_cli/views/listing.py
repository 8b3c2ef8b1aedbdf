"""The view of ``tpnet list``: a line for each intercept, and a sentence for each thing that is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from tpnet.rules.describe import AUTO_HEADER, AUTO_ID
from tpnet_cli import texts
from tpnet_cli.tables import ALWAYS, Column, make_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from tpnet.model import InterceptStatus

_COLUMNS = (
    Column("NAME", ALWAYS, least=14),
    Column("USER", 0),
    Column("TARGET", 80, least=14),
    Column("REQUESTS", ALWAYS, least=28),
    Column("TO", 70, least=8),
    Column("READY", 90),
    Column("HITS", 85, "right"),
    Column("LAST", 60),
    Column("SINCE", 0),
    Column("SESSION", 0),
    Column("ON FAILURE", 0),
)


def list_view(
    intercepts: Sequence[InterceptStatus],
    user: str,
    now: float,
    width: int,
    *,
    wide: bool = False,
    place: str = "",
) -> RenderableType:
    """The table and, under it, the problems.

    ``user`` is who asks: of others' intercepts ``TO`` shows their name. ``place``: what the list is of, such as a
    namespace.
    """
    if not intercepts:
        return Group(
            Text(f"No intercepts{f' in {place}' if place else ''}: every request goes to the app."),
            Text.assemble(("try  ", "dim"), "tpnet intercept TARGET --http-header=auto"),
        )
    ordered = sorted(intercepts, key=lambda item: (item.intercept.target, item.intercept.serial))
    table = make_table(_COLUMNS, [_row(item, user, now, wide=wide) for item in ordered], width, wide=wide)
    lines = [
        line
        for item in ordered
        for line in (
            *(problem_line(item.intercept.name, problem) for problem in problems_of(item)),
            *missed_lines(item),
            *(_id_lines(item, wide=wide) if item.intercept.user == user else ()),
        )
    ]
    return Group(table, *lines)


def problems_of(item: InterceptStatus) -> list[str]:
    """What is wrong with an intercept, a sentence each, the agent's own words first."""
    return [*item.problems, *ends_problems(item)]


def ends_problems(item: InterceptStatus) -> list[str]:
    """What is wrong at the developer's end, apart from the targets."""
    if not item.session_up and not item.ready and item.problems:
        return []  # nothing would go there, and why has been said
    if not item.session_up:
        return [f"{item.intercept.user}'s session does not answer; {_meanwhile(item)}"]
    if not item.handler_up:
        # Why, only the computer knows that it is to be on.
        problem = item.handler_problem or f"no handler answers at {item.intercept.handler}"
        return [f"{problem}; {_meanwhile(item)}"]
    return []


def missed_lines(item: InterceptStatus) -> list[Text]:
    """How many of its requests did not reach the developer's process, and why; nothing when all did."""
    from tpnet.model import OnFailure

    number = sum(item.reasons.values())
    if not number:
        return []
    became = (
        "got a 502" if item.intercept.on_failure is OnFailure.ERROR else "went to the app (502 where unsafe)"
    )
    some = texts.counted(number, "request")
    return [Text(f"  {item.intercept.name}: {some} {became}: {texts.reasons_text(item.reasons)}")]


def _id_lines(item: InterceptStatus, *, wide: bool) -> list[Text]:
    """What there is to say of one's own value that is not where it is to be: in the object, or not on this computer."""
    name, lines = item.intercept.name, []
    for rule in item.intercept.headers:
        if wide and rule.digest and not rule.value:
            said = f"what {rule.name} has to be is kept on the computer on which the intercept was made"
            lines.append(Text(f"  {name}: {said}"))
        elif rule.name.lower() == AUTO_HEADER and not rule.digest and AUTO_ID.fullmatch(rule.value):
            said = "its id can be read by others. Leave it and make it anew: then only its digest can"
            lines.append(problem_line(name, said))
    return lines


def problem_line(name: str, problem: str) -> Text:
    """A problem under a table, indented."""
    return Text.assemble(f"  {name}: ", (problem, "yellow"))


def ready_cell(item: InterceptStatus) -> Text:
    """``2/2``, with a sign when something is not as it should be."""
    good = item.ready == item.total and item.total > 0 and not problems_of(item)
    text = f"{item.ready}/{item.total}"
    return Text(text, style="green") if good else Text(f"{text} !", style="yellow" if item.ready else "red")


def to_cell(item: InterceptStatus, user: str) -> str:
    """One's own handler, or the other developer's name."""
    return texts.handler_text(item.intercept.handler) if item.intercept.user == user else item.intercept.user


def target_text(item: InterceptStatus) -> str:
    """The target as its user named it, and the port if one was: ``shop-*:80``."""
    port = f":{item.intercept.port}" if item.intercept.port else ""
    return f"{item.intercept.target.removeprefix('svc/')}{port}"


def _meanwhile(item: InterceptStatus) -> str:
    from tpnet.model import OnFailure

    if item.intercept.on_failure is OnFailure.ERROR:
        return "its requests are answered with 502"
    return "its requests go to the app"


def _row(item: InterceptStatus, user: str, now: float, *, wide: bool) -> list[str | Text]:
    intercept = item.intercept
    return [
        intercept.name,
        intercept.user,
        target_text(item),
        texts.takes(intercept, user, wide=wide),
        to_cell(item, user),
        ready_cell(item),
        texts.count(item.hits),
        Text(texts.ago(item.last_hit, now), style="" if item.last_hit else "dim"),
        texts.clock(intercept.created, now),
        intercept.session,
        str(intercept.on_failure),
    ]
