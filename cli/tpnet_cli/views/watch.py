"""The view of ``tpnet watch``: what each intercept takes at this moment, and what became of the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from tpnet_cli import texts
from tpnet_cli.tables import ALWAYS, Column, make_table
from tpnet_cli.views.listing import problem_line, problems_of, ready_cell, target_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

    from tpnet.model import InterceptStatus, Status, TargetStatus

_COLUMNS = (
    Column("NAME", ALWAYS, least=12),
    Column("REQUESTS", 60, least=24),
    Column("TO", 50, least=10),
    Column("READY", 40),
    Column("RATE", ALWAYS, "right"),
    Column("HITS", 90, "right"),
    Column("LAST", 70),
    Column("MISSED", 80, least=12),
    Column("TARGET", 0, least=14),
    Column("SESSION", 0),
    Column("SINCE", 0),
    Column("ON FAILURE", 0),
    Column("OPEN HERE", 85),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """A status and when it was taken, in Unix seconds.

    ``open``: of intercepts of this computer, by name, how many connections are open here, and were in all. ``user``: who
    asks.
    """

    status: Status
    at: float
    open: Mapping[str, str] = field(default_factory=dict)
    user: str = ""


def watch_view(
    sample: Sample, before: Sample | None, name: str, width: int, *, wide: bool = False
) -> RenderableType:
    """The intercepts (or the one called ``name``) and the app, with rates since the sample ``before``.

    ``MISSED`` counts matched requests that did not reach their session, by reason. ``wide``: every column,
    and a line for each target.
    """
    chosen = select(sample.status, name)
    if not chosen:
        return Text("No intercepts: every request goes to the app.")
    rows = [
        [*_row(item, sample, before, wide=wide), sample.open.get(item.intercept.name, "")] for item in chosen
    ]
    if _targets(chosen, sample.status):  # a cluster's agents do not count what the app serves
        rows.append(_app_row(chosen, sample, before))
    lines = [problem_line(item.intercept.name, text) for item in chosen for text in problems_of(item)]
    words = texts.verdict_words(_verdicts(_targets(chosen, sample.status)))
    if words:
        lines.append(Text(f"  {' · '.join(words)}", style="dim"))
    if wide:
        lines += [_target_line(target) for target in _targets(chosen, sample.status)]
    return Group(make_table(_COLUMNS, rows, width, wide=wide), *lines)


def select(status: Status, name: str) -> list[InterceptStatus]:
    """The intercept called ``name``, or all of them when it is empty, by target and age."""
    found = [item for item in status.intercepts if name in {"", item.intercept.name}]
    return sorted(found, key=lambda item: (item.intercept.target, item.intercept.serial))


def _row(item: InterceptStatus, sample: Sample, before: Sample | None, *, wide: bool) -> list[str | Text]:
    intercept = item.intercept
    former = (
        next((old for old in before.status.intercepts if old.intercept.name == intercept.name), None)
        if before
        else None
    )
    return [
        intercept.name,
        texts.takes(intercept, sample.user, wide=wide),
        f"{intercept.user} {texts.handler_text(intercept.handler)}",
        ready_cell(item),
        _rate(item.hits, former.hits if former else None, sample, before),
        texts.count(item.hits),
        Text(texts.ago(item.last_hit, sample.at), style="" if item.last_hit else "dim"),
        Text(texts.reasons_text(item.reasons), style="yellow"),
        target_text(item),
        intercept.session,
        texts.clock(intercept.created, sample.at),
        str(intercept.on_failure),
    ]


def _target_line(target: TargetStatus) -> Text:
    held = texts.counted(target.open, "open connection")
    served = texts.counted(target.requests, "request")
    return Text(
        f"  {target.name}:{target.port}   {held}   {served}, {texts.count(target.app_requests)} the app's"
    )


def _app_row(chosen: list[InterceptStatus], sample: Sample, before: Sample | None) -> list[str | Text]:
    served = sum(target.app_requests for target in _targets(chosen, sample.status))
    former = sum(target.app_requests for target in _targets(chosen, before.status)) if before else None
    rate = _rate(served, former, sample, before)
    return [Text("the app", style="dim"), "", "", "", rate, texts.count(served), *[""] * 7]


def _targets(chosen: list[InterceptStatus], status: Status) -> list[TargetStatus]:
    wanted = {(name, item.intercept.port) for item in chosen for name in item.intercept.targets}
    return [target for target in status.targets if (target.name, target.port) in wanted]


def _verdicts(targets: list[TargetStatus]) -> dict[str, int]:
    total: dict[str, int] = {}
    for target in targets:
        for letter, number in target.verdicts.items():
            total[letter] = total.get(letter, 0) + number
    return total


def _rate(number: int, former: int | None, sample: Sample, before: Sample | None) -> str:
    """Requests per second since ``before``.

    A total that shrank began anew with a new worker: then it is all new.
    """
    if before is None or former is None or sample.at <= before.at:
        return ""
    fresh = number - former if number >= former else number
    per_second = fresh / (sample.at - before.at)
    return f"{per_second:,.0f}/s" if per_second >= 10 or not fresh else f"{per_second:.1f}/s"
