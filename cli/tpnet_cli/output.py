"""Plain lines, and ``-o json|yaml|wide``: the option, and how data is written for programs.

Every command that has a result uses it, and takes all three. What is written here is the whole of it, for objects of
``tpnet.model`` all of their fields. It must never write what a terminal would obey: a lint rule keeps others from
``click.echo``.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tpnet.text import clean
from tpnet_cli.streams import is_plain

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print lines on stdout or stderr. Whatever names and messages hold is shown, and none of it obeyed."""
    click.echo(clean(text, lines=True), err=err, nl=nl)  # noqa: TID251 - the one place


def output_option() -> Callable[[F], F]:
    """The option ``-o``."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(("json", "yaml", "wide")),
        default=None,
        help="For programs (json, yaml), or with all there is to say (wide).",
    )


def is_data(output: str | None) -> bool:
    """Whether a program reads this output, so that nothing else may stand on stdout."""
    return output in {"json", "yaml"}


def is_wide(output: str | None) -> bool:
    """Whether everything is to be shown, however wide it gets."""
    return output == "wide"


def write_data(data: Any, output: str | None, *, lines: bool = False) -> None:
    """Write plain data as JSON or YAML. ``lines``: one JSON object per line, for streams."""
    plain = is_plain(sys.stdout)
    if output == "yaml":
        import yaml

        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=not plain)
        if clean(text, lines=True) != text:
            text = yaml.safe_dump(data, sort_keys=False)
        say(text, nl=False)
        if lines:
            say("---")
        return
    import json

    # What is escaped in cleaning is escaped as JSON would do it.
    say(json.dumps(data, ensure_ascii=plain, indent=None if lines else 2))
