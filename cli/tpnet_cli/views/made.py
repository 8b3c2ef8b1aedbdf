"""The last words of ``tpnet intercept`` and ``tpnet leave``: what is true now, and what to type next."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from tpnet.model import OnFailure
from tpnet_cli import texts
from tpnet_cli.views.listing import target_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from tpnet.model import InterceptStatus, TargetInfo
    from tpnet.rules import Rules


_SIDE_BY_SIDE = 80 - len("watch          stop  ")
"""Columns that two commands may take together in one line."""


@dataclass(frozen=True, slots=True)
class Place:
    """How the intercept is spoken of where it is.

    ``name`` as it is to be shown; ``others``: who serves what it does not take; ``command`` and ``flags``: what a
    further command begins and ends with.
    """

    name: str
    others: str = "the app"
    command: str = "tpnet"
    flags: str = ""

    def line(self, verb: str) -> str:
        """A command that does something with the intercept."""
        return " ".join(part for part in (self.command, verb, self.name, self.flags) if part)


def made_view(
    made: InterceptStatus,
    rules: Rules,
    targets: Sequence[TargetInfo],
    *,
    place: Place | None = None,
    wide: bool = False,
) -> RenderableType:
    """What the new intercept takes, where it sends it, what happens to the others; a request to try.

    ``wide``: also by which session, and which targets with which addresses.
    """
    intercept = made.intercept
    place = place or Place(intercept.name)
    others = f"to {place.others}, as before"
    if not rules.headers and rules.path is None:
        others = "only those that a personal intercept takes are not sent here"
    if intercept.on_failure is OnFailure.ERROR:
        others += "; yours are answered with 502 while your handler is not there"
    taken = texts.takes_parts(rules, full=not rules.auto)
    lines = [
        Text(),
        Text.assemble((place.name, "bold"), " is on."),
        _said("takes", "   ".join([target_text(made), *taken])),
        _said("sends", f"to {intercept.handler}"),
        _said("others", others),
    ]
    # What tables cut is whole here: it is to be sent.
    whole = [f"{rule.name}: {rule.value}" for rule in rules.headers if not rule.regex]
    lines += [_said("header", text) for text in whole if rules.auto or text not in taken]
    if wide:
        lines.append(_said("session", f"{intercept.session}   tunnel port {intercept.tunnel_port}"))
        lines += [
            _said("" if number else "targets", "   ".join([info.name, *info.addresses]))
            for number, info in enumerate(targets)
        ]
    lines += [Text(), *_try_lines(made, rules, targets), *_next_lines(place)]
    return Group(*lines)


def curl_line(made: InterceptStatus, rules: Rules, targets: Sequence[TargetInfo]) -> str:
    """A command that sends a request which the intercept takes; empty where none can be made up (regexes).

    ``rules``: as its owner gave them, for the intercept itself need not say their values.
    """
    intercept = made.intercept
    if any(rule.regex for rule in rules.headers):
        return ""
    path = "/" if intercept.path is None else intercept.path.value
    if intercept.path is not None and not path.startswith("/"):
        return ""
    if intercept.path is not None and intercept.path.kind == "regex":
        return ""
    addresses = [address for target in targets for address in target.addresses]
    address = next((a for a in addresses if ":" not in a), addresses[0] if addresses else "")
    if not address:
        return ""
    host = f"[{address}]" if ":" in address else address
    port = "" if intercept.port == 80 else f":{intercept.port}"
    words = ["curl"]
    for rule in rules.headers:
        words += ["-H", f"{rule.name}: {rule.value}"]
    return shlex.join([*words, f"http://{host}{port}{path}"])


def _next_lines(place: Place) -> list[Text]:
    """What to type next: side by side where that fits any terminal, and never wrapped."""
    watch, leave = place.line("watch"), place.line("leave")
    if len(watch) + len(leave) < _SIDE_BY_SIDE:
        return [Text.assemble(("watch  ", "dim"), watch, ("        stop  ", "dim"), leave)]
    return [
        Text.assemble((f"{label}  ", "dim"), line, no_wrap=True, overflow="ignore")
        for label, line in (("watch", watch), ("stop ", leave))
    ]


def _said(label: str, text: str) -> Text:
    return Text.assemble(f"  {label:<8}", text)


def _try_lines(made: InterceptStatus, rules: Rules, targets: Sequence[TargetInfo]) -> list[Text]:
    line = curl_line(made, rules, targets)
    # Not wrapped, so that it can be copied in one piece.
    return [Text.assemble(("try    ", "dim"), line, no_wrap=True, overflow="ignore")] if line else []
