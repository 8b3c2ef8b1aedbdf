"""Command groups that import a command only when it runs, so that ``tpnet --help`` costs no more than click.

``tpnet_cli.main`` and the groups of ``tpnet_cli.commands`` use it. It must never import a command to list it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class Lazy:
    """A command by where it is: ``attribute`` of ``module``; ``help`` is its line in the list of commands."""

    name: str
    module: str
    attribute: str
    help: str
    hidden: bool = False


class LazyGroup(click.Group):
    """A group whose commands are named beforehand and imported on use. Lists them in the order given."""

    def __init__(self, *args: Any, lazy: Iterable[Lazy] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = {entry.name: entry for entry in lazy}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order given."""
        return [*self.lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command itself: this imports its module."""
        entry = self.lazy.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        command = getattr(importlib.import_module(entry.module), entry.attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from the lines given."""
        del ctx
        rows = [(entry.name, entry.help) for entry in self.lazy.values() if not entry.hidden]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Completion of a command's name, again without an import; options as click completes them."""
        from click.shell_completion import CompletionItem

        found: list[Any] = [
            CompletionItem(entry.name, help=entry.help)
            for entry in self.lazy.values()
            if entry.name.startswith(incomplete) and not entry.hidden
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, but a name that is not there is answered with the nearest one."""
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in self.list_commands(ctx):
            import difflib

            near = difflib.get_close_matches(name, [*self.lazy], 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise click.UsageError(f"There is no command {name}.{hint}", ctx)
        return super().resolve_command(ctx, args)
