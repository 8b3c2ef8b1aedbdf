"""``tpnet connect``: a session that stays, for Intercepts that are made with kubectl."""

from __future__ import annotations

import click

from tpnet.model import InvalidInput
from tpnet_cli.output import is_data, output_option, write_data
from tpnet_cli.where import Where, where_options


@click.command("connect")
@where_options()
@output_option()
def connect(where: Where, output: str | None) -> None:
    """Start your session and keep it: it serves the Intercepts that you make with kubectl.

    It takes those of yours in the namespace that name no session, now and
    later, until tpnet quit. tpnet intercept needs none of this: it starts a
    session by itself.
    """
    if not where.is_cluster:
        raise InvalidInput(
            "There is nothing to connect to without a cluster.", "tpnet intercept starts a session by itself."
        )
    from rich.text import Text

    from tpnet_cli.terminal import OK, Steps, make_console, mark, show

    console = make_console()
    with where.cluster() as control:
        me, namespace = control.user, control.namespace
    with Steps(console, quiet=is_data(output)).doing("starting your session"):
        client = where.ensure_session(me)
        client.follow(namespace)
        facts = client.info()
    if is_data(output):
        write_data({"user": me, "session": facts["session"], "namespace": namespace}, output)
        return
    show(
        Text.assemble(mark(OK), f" session {facts['session']} serves {me}'s Intercepts in {namespace}"),
        console,
    )
    program = click.get_current_context().find_root().info_name or "tpnet"
    show(Text(f"  apply  kubectl -n {namespace} apply -f intercept.yaml   stop  {program} quit"), console)
