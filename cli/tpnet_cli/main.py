"""The entry point of ``tpnet`` (and of ``kubectl tpnet``): the list of commands, and how every failure looks.

The console scripts call ``main``. It must never show a traceback for something a user can act on, and never
import anything heavy: commands do that themselves.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from tpnet_cli.lazy import Lazy, LazyGroup

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

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
    Lazy("quit", "tpnet_cli.commands.quit", "quit_", "End your session and all of its intercepts."),
    Lazy("agent", "tpnet_cli.commands.agent", "agent", "The part that runs on the node."),
    Lazy("lab", "tpnet_cli.commands.lab", "lab", "A small network on this machine to try it in."),
    Lazy("version", "tpnet_cli.commands.version", "version", "The versions of the command and of the agent."),
)

_GROUP_HELP = """Requests of a running service that carry your header arrive at your own computer.

Everybody else's are served as before; nothing is restarted for it. Start with: tpnet intercept TARGET
"""


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    help=_GROUP_HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
def cli() -> None:
    """Hold the commands together; ``_GROUP_HELP`` is what users see."""


def main(args: list[str] | None = None) -> None:
    """Run ``tpnet`` with ``args`` (default: the process's own) and exit; docs/reference/exit-codes.md."""
    sys.exit(run(args))


def run(args: list[str] | None = None) -> int:
    """Run ``tpnet`` and give the exit code. Failures have been written to stderr."""
    from tpnet.model.errors import TpnetError

    stdout = sys.stdout
    try:
        code = cli.main(args=args, prog_name=_program_name(), standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.UsageError as error:
        _complain(_sentence(error.format_message()), _usage_hint(error))
        return EXIT_USAGE
    except click.ClickException as error:
        _complain(_sentence(error.format_message()), "")
        return error.exit_code
    except TpnetError as error:
        _complain(error.message, error.hint)
        return error.exit_code
    except click.Abort:  # click has closed the line that ends with ^C
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        click.echo("", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return _nobody_reads()
    except SystemExit:
        # So click ends when nobody reads, having put something that complains less in the place of stdout; and
        # so a completion ends.
        if sys.stdout is stdout:
            raise
        return _nobody_reads()
    return code if isinstance(code, int) else 0


def _nobody_reads() -> int:
    """The reader of our output has gone (``| head``): it had enough, which is no failure."""
    # What is still buffered has nowhere to go, and Python would complain of that at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _program_name() -> str:
    return "kubectl tpnet" if Path(sys.argv[0]).name == "kubectl-tpnet" else "tpnet"


def _complain(message: str, hint: str) -> None:
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    mark = click.style("✗", fg="red", bold=True) if colour else "✗"
    click.echo(f"{mark} {message}", err=True)
    for line in hint.splitlines():
        click.echo(f"  {line}", err=True)


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _usage_hint(error: click.UsageError) -> str:
    return f"Try: {error.ctx.command_path} --help" if error.ctx is not None else ""
