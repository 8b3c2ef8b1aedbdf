"""The list of commands: ``tpnet`` itself, as click sees it.

``tpnet_cli.main`` runs it, ``tpnet_cli.reference`` reads it. It must never import a command, nor anything but
click.
"""

from __future__ import annotations

import click

from tpnet_cli.lazy import Lazy, LazyGroup

COMMANDS = (
    Lazy(
        "intercept",
        "tpnet_cli.commands.intercept",
        "intercept",
        "Make these requests of a service arrive here.",
    ),
    Lazy("leave", "tpnet_cli.commands.leave", "leave", "End intercepts; their requests go to the app again."),
    Lazy(
        "list",
        "tpnet_cli.commands.listing",
        "list_",
        "The intercepts, whose they are, and whether they work.",
    ),
    Lazy(
        "status",
        "tpnet_cli.commands.status",
        "status",
        "Agent, sessions, targets and intercepts in one view.",
    ),
    Lazy(
        "explain",
        "tpnet_cli.commands.explain",
        "explain",
        "Where a request would go, and why. Sends nothing.",
    ),
    Lazy("watch", "tpnet_cli.commands.watch", "watch", "Follow the requests of the intercepts as they come."),
    Lazy(
        "connect",
        "tpnet_cli.commands.connect",
        "connect",
        "Keep your session for intercepts that are made with kubectl.",
    ),
    Lazy("quit", "tpnet_cli.commands.quit", "quit_", "End your session and all of its intercepts."),
    Lazy("install", "tpnet_cli.commands.install", "install", "Put tpnet into a cluster."),
    Lazy("upgrade", "tpnet_cli.commands.install", "install", "The same as install."),
    Lazy("uninstall", "tpnet_cli.commands.install", "uninstall", "Take tpnet out of a cluster."),
    Lazy("grant", "tpnet_cli.commands.grant", "grant", "Let somebody intercept in a namespace."),
    Lazy("revoke", "tpnet_cli.commands.grant", "revoke", "Take that back."),
    Lazy("agent", "tpnet_cli.commands.agent", "agent", "The part that runs on the node."),
    Lazy("lab", "tpnet_cli.commands.lab", "lab", "A small network on this machine to try it in."),
    Lazy("version", "tpnet_cli.commands.version", "version", "The versions of the command and of the agent."),
)

_GROUP_HELP = """Requests of a running service that carry your header arrive at your own computer.

Everybody else's are served as before; nothing is restarted for it. Start with: tpnet intercept TARGET

It works in the cluster that kubectl would use: that of --context and --kubeconfig, of KUBECONFIG or of ~/.kube/config.
With --local, with TPNET_RUN_DIR, or where there is no kubeconfig, it works with an agent on this machine.
"""


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    help=_GROUP_HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
def cli() -> None:
    """Hold the commands together; ``_GROUP_HELP`` is what users see."""
