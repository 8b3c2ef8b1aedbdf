"""The entry point of ``tpnet`` (and of ``kubectl tpnet``), and how every failure looks.

The console scripts call ``main``. It must never show a traceback for something a user can act on, be it a
Ctrl-C before anything is there: so it imports nothing by itself, and all the rest while it watches.
"""

from __future__ import annotations

import os
import sys

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main(args: list[str] | None = None) -> None:
    """Run ``tpnet`` with ``args`` (default: the process's own) and exit; docs/reference/exit-codes.md."""
    code = run(args)
    if args is None:
        import signal

        # All is done and said: a Ctrl-C while Python takes itself apart would only make it complain.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


def run(args: list[str] | None = None) -> int:
    """Run ``tpnet`` and give the exit code. Failures have been written to stderr."""
    try:
        return _run(args)
    except KeyboardInterrupt:
        return _interrupted()
    except RuntimeError as error:
        # An import that is interrupted while Python makes a class: PEP 487 has the interrupt wrapped.
        if isinstance(error.__cause__, KeyboardInterrupt):
            return _interrupted()
        raise


def _run(args: list[str] | None) -> int:
    from tpnet_cli import streams

    streams.prepare()
    import click

    from tpnet.model.errors import TpnetError
    from tpnet_cli.group import cli

    stdout = sys.stdout
    try:
        code = cli.main(args=args, prog_name=_program_name(), standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        from tpnet_cli.output import say

        say(error.format_message())
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
    except BrokenPipeError:
        return _nobody_reads()
    except OSError as error:
        return _system_refused(error)
    except SystemExit:
        # So click ends when nobody reads, having put something that complains less in the place of stdout; and
        # so a completion ends.
        if sys.stdout is stdout:
            raise
        return _nobody_reads()
    return code if isinstance(code, int) else 0


def _interrupted() -> int:
    import contextlib

    with contextlib.suppress(OSError, AttributeError):  # nobody may be there to read it
        sys.stderr.write("\n")  # closes the line that ends with ^C
    return EXIT_INTERRUPTED


def _nobody_reads() -> int:
    """The reader of our output has gone (``| head``): it had enough, which is no failure."""
    _discard_output()
    return 0


def _system_refused(error: OSError) -> int:
    """What to say of an error that no layer has made a sentence of. Raises it when it is none of the user's."""
    import errno

    why = error.strerror or str(error)
    if error.filename is not None:
        _complain(f"{error.filename}: {why}.", "")
    elif error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}:
        _discard_output()
        _complain(f"The output could not be written: {why}.", "See with tpnet list what has been done.")
    else:
        raise error
    return EXIT_FAILED


def _discard_output() -> None:
    """What is still buffered has nowhere to go, and Python would complain of that at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _program_name() -> str:
    return "kubectl tpnet" if os.path.basename(sys.argv[0]) == "kubectl-tpnet" else "tpnet"  # noqa: PTH119


def _complain(message: str, hint: str) -> None:
    import click

    from tpnet.text import clean
    from tpnet_cli.output import say

    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    mark = click.style("✗", fg="red", bold=True) if colour else "✗"
    try:
        first, *rest = _lines(clean(message))
        click.echo("\n  ".join([f"{mark} {first}", *rest]), err=True)  # noqa: TID251 - cleaned, and then styled
        for line in (part for text in hint.splitlines() for part in _lines(text)):
            say(f"  {line}", err=True)
    except OSError:
        pass  # the exit code still says it


def _lines(text: str) -> list[str]:
    """The text as it is; on a terminal in lines of whole words, as wide as it is less our indentation."""
    if not sys.stderr.isatty():
        return [text]
    import shutil
    import textwrap

    columns = shutil.get_terminal_size().columns - 2
    return textwrap.wrap(text, max(columns, 20), break_long_words=False, break_on_hyphens=False) or [""]


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _usage_hint(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f"Try: {context.command_path} --help" if context is not None else ""
