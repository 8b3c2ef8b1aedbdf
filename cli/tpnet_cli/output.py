"""``-o json|yaml|wide``: the option, and how data is written for programs.

Commands that show something use it. What is written here is the whole of the objects of ``tpnet.model``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")


def output_option(*kinds: str) -> Callable[[F], F]:
    """The option ``-o``, of these kinds."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(kinds),
        default=None,
        help="For programs (json, yaml)" + (", or with every column (wide)." if "wide" in kinds else "."),
    )


def is_data(output: str | None) -> bool:
    """Whether a program reads this output, so that nothing else may stand on stdout."""
    return output in {"json", "yaml"}


def write_data(data: Any, output: str | None, *, lines: bool = False) -> None:
    """Write plain data as JSON or YAML. ``lines``: one JSON object per line, for streams."""
    if output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), nl=False)
        if lines:
            click.echo("---")
        return
    import json

    click.echo(json.dumps(data, ensure_ascii=False, indent=None if lines else 2))
