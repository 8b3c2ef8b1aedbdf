"""``tpnet quit``: end the session daemon of this computer, and with it every intercept of its developer."""

from __future__ import annotations

import click

from tpnet.model import NotThere
from tpnet_cli import identity


@click.command("quit")
@click.option("--user", help="Your name. Default: TPNET_USER, or the login name.")
def quit_(user: str | None) -> None:
    """End your session and all of its intercepts. Their requests go to the app again."""
    from rich.text import Text

    from tpnet.control.local import default_run_dir
    from tpnet.session import SessionClient
    from tpnet_cli.terminal import OK, Steps, make_console, mark, show

    me = identity.user_name(user)
    console = make_console()
    client = SessionClient(default_run_dir(), me)
    try:
        names = [str(entry["name"]) for entry in client.info()["intercepts"]]
    except NotThere:
        click.echo(f"{me} has no session on this computer.")
        return
    with Steps(console).doing("ending your session"):
        client.quit()
    left = f"; left {', '.join(names)}" if names else ""
    show(Text.assemble(mark(OK), f" {me}'s session is over{left}"), console)
