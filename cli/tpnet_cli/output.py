"""``-o json|yaml|wide``: the option, and how data is written for programs.

Every command that has a result uses it, and takes all three. What is written here is the whole of it, for
objects of ``tpnet.model`` all of their fields.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tpnet_cli.streams import is_plain

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")


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

        click.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=not plain), nl=False)
        if lines:
            click.echo("---")
        return
    import json

    click.echo(json.dumps(data, ensure_ascii=plain, indent=None if lines else 2))
