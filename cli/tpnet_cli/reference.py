"""``python -m tpnet_cli.reference FOLDER``: the pages of the reference that are made from the code, as Markdown.

``make docs`` writes them to docs/reference; a test compares the two. The commands' page is made here, that of a
cluster's objects and rights in ``tpnet_cli.reference_cluster``. It must depend on nothing but what it describes: no
terminal, no environment.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tpnet.http.h1.phases import diagram
from tpnet_cli.group import cli
from tpnet_cli.reference_cluster import objects_page, rights_page

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = """\
# Commands

This page is made from the commands themselves: `make docs`.
What each exit code means: [exit codes](exit-codes.md).

| environment | means | default |
|---|---|---|
| `KUBECONFIG` | the cluster, as for kubectl | `~/.kube/config` |
| `TPNET_RUN_DIR` | the agent's folder, with its socket; without a cluster, then | `/run/tpnet` |
| `TPNET_USER` | your name, without a cluster | who called sudo, or who logged in |
| `TPNET_CACHE_DIR` | where an agent keeps what it has compiled, for its next start | `/var/cache/tpnet` |
| `TPNET_STATE_DIR` | where the id of `--http-header auto` is kept | `~/.local/state/tpnet` |
| `TPNET_LAB_DIR` | the labs' files | `/run/tpnet-lab` |
| `NO_COLOR` | no colours | |
| `LC_ALL` | with `C`, or any character set without them, plain letters stand for signs such as ✓ | |
| `COLUMNS` | the width of tables | the terminal's |

What is not a terminal gets every column, no colours and no control codes.

## Where a command looks

The first of these that holds:

1. `--local`: the agent of this machine.
2. Any of kubectl's flags (`--context`, `--kubeconfig`, `-n`, `-A`, `-l`, `--as`): a cluster.
3. `TPNET_RUN_DIR` is set: the agent of this machine.
4. `KUBECONFIG` is set, or `~/.kube/config` is there: that cluster.
5. The agent of this machine, if its socket is there.

A session stays with the context it was begun in, whatever becomes the current one later.
In a cluster you are who its API server says, and names of intercepts are those of a namespace:
`orders-bob` in the one that is in effect, or `shop/orders-bob`.

`kubectl tpnet` is the same command; kubectl finds it as `kubectl-tpnet`.

## Completion

Services, ports, intercepts and namespaces are completed too.

```
bash   eval "$(_TPNET_COMPLETE=bash_source tpnet)"      in ~/.bashrc
zsh    eval "$(_TPNET_COMPLETE=zsh_source tpnet)"       in ~/.zshrc
fish   _TPNET_COMPLETE=fish_source tpnet | source       in ~/.config/fish/completions/tpnet.fish
```
"""

_PHASES = """\
# The phases of an HTTP/1 conversation

This page is made from the table in `tpnet/http/h1/phases.py`: `make docs`.

A phase says what the client's next bytes are. What the bytes themselves lead to is in [HTTP](http.md).
"""


def pages() -> dict[str, str]:
    """Every page by the name of its file."""
    return {
        "cli.md": commands_page(),
        "http-phases.md": phases_page(),
        "objects.md": objects_page(),
        "rbac.md": rights_page(),
    }


def commands_page() -> str:
    """docs/reference/cli.md."""
    context = _context(cli, "tpnet", None)
    parts = [_HEAD]
    parts += [f"## `{path}`\n\n```\n{text}\n```\n" for path, text in _commands(cli, context)]
    return "\n".join(parts)


def phases_page() -> str:
    """docs/reference/http-phases.md."""
    return f"{_PHASES}\n```mermaid\n{diagram()}```\n"


def _commands(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from _commands(child, _context(child, name, context))


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    return click.Context(
        command, parent, name, max_content_width=100, terminal_width=100, help_option_names=["-h", "--help"]
    )


if __name__ == "__main__":
    for name, text in pages().items():
        (Path(sys.argv[1]) / name).write_text(text, encoding="utf-8")
