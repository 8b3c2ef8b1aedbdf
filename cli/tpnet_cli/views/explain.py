"""The view of ``tpnet explain``: intercepts by precedence, which rules hold, where the request goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from tpnet_cli.tables import ALWAYS, Column, make_table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tpnet.model import ExplainStep, Explanation

_COLUMNS = (
    Column("", ALWAYS),
    Column("", ALWAYS, "right"),
    Column("INTERCEPT", ALWAYS, least=12),
    Column("USER", 40, least=8),
    Column("RULES", ALWAYS, least=50),
    Column("NOTE", 60, least=12),
)


def explain_view(explanation: Explanation, width: int) -> RenderableType:
    """The steps, the app as the last of them, and a sentence that says where it goes."""
    here = Text("▶", style="green")
    rows: list[list[str | Text]] = [
        [
            here if step.chosen else "",
            str(number),
            Text(step.intercept, style="bold" if step.chosen else ""),
            step.user,
            _checks(step),
            "" if step.chosen else Text(step.note, style="dim"),
        ]
        for number, step in enumerate(explanation.steps, start=1)
    ]
    rows.append(["" if explanation.to else here, str(len(rows) + 1), "the app", "", "", ""])
    return Group(make_table(_COLUMNS, rows, width, header=False), where_line(explanation))


def where_line(explanation: Explanation) -> Text:
    """``goes to bob 127.0.0.1:8080``, or to the app, with the reason when there is one."""
    reason = f" · {explanation.reason}" if explanation.reason else ""
    if not explanation.to:
        return Text.assemble("goes to ", ("the app", "bold"), reason)
    handler = f" {explanation.handler}" if explanation.handler else ""
    return Text.assemble("goes to ", (explanation.to, "bold"), handler, reason)


def _checks(step: ExplainStep) -> Text:
    line = Text()
    for index, (what, holds) in enumerate(step.checks):
        line.append("   " if index else "").append(f"{what} ").append(*_sign(holds))
    return line


def _sign(holds: bool) -> tuple[str, str]:
    return ("✓", "green") if holds else ("✗", "dim")
