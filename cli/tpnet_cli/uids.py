"""A range of users as an option's value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click import Context, Parameter


def uid_range(ctx: Context, param: Parameter, text: str | None) -> range | None:
    """A callback for click: ``FIRST-LAST`` as ``tpnet.kernel.uids.parse_range`` reads it."""
    if text is None:
        return None
    from tpnet.kernel.uids import parse_range

    try:
        return parse_range(text)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None
