"""``tpnet explain``: a dry run. Nothing is sent; the agent's own rules decide."""

from __future__ import annotations

from dataclasses import replace

import click

from tpnet.model import InvalidInput
from tpnet_cli import complete
from tpnet_cli.output import is_data, is_wide, output_option, write_data
from tpnet_cli.own import revealed, with_own_values
from tpnet_cli.where import Where, where_options

_HELP = """Show where a request would go, and why. Sends nothing.

\b
Example:
  tpnet explain orders -X POST /api/pay -H 'Coder: Bob'
"""


@click.command(help=_HELP)
@click.argument("target", shell_complete=complete.targets)
@click.argument("path", default="/")
@click.option(
    "-X", "--method", "--request", default="GET", show_default=True, metavar="METHOD", help="The method."
)
@click.option(
    "-H", "--header", "headers", multiple=True, metavar="'KEY: VALUE'", help="A header; as often as needed."
)
@click.option("--port", "-p", type=click.IntRange(1, 65535), help="The service's port, when it is not plain.")
@where_options()
@output_option()
def explain(
    where: Where,
    target: str,
    path: str,
    method: str,
    headers: tuple[str, ...],
    port: int | None,
    output: str | None,
) -> None:
    """Ask the agent, which decides by the rules that its worker has; in a cluster the same rules are tried here."""
    fields = [_field(text) for text in headers]
    from tpnet.model.codec import encode

    with where.control() as control:
        me = where.user(control, None)
        explanation = control.explain(target, port, method, path, fields)
        own = [item.intercept for item in revealed(control.status(), me).intercepts]
        whole = is_data(output) or is_wide(output)
        explanation = replace(explanation, steps=with_own_values(explanation.steps, own, me, whole=whole))
        if where.is_cluster and not is_data(output):
            steps = tuple(
                replace(step, intercept=where.short(control, step.intercept)) for step in explanation.steps
            )
            explanation = replace(explanation, steps=steps)
    if is_data(output):
        write_data(encode(explanation), output)
        return
    from tpnet_cli.terminal import UNLIMITED, make_console, show
    from tpnet_cli.views.explain import explain_view

    console = make_console(width=UNLIMITED if is_wide(output) else None)
    show(explain_view(explanation, console.width), console)


def _field(text: str) -> tuple[str, str]:
    """``KEY: VALUE`` as curl takes it; blanks around the value are no part of it (RFC 9112 section 5.1)."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise InvalidInput(f"-H {text!r} is no header.", "Write it as for curl: -H 'Coder: Bob'")
    return name, value.strip(" \t")
