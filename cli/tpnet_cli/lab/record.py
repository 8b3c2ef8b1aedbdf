"""``lab.json``: what a lab has made, written before it is made, so that exactly that can be removed.

``tpnet_cli.lab.build`` uses it. It must stay readable after a ``kill -9`` at any moment: a file is replaced,
never written over.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from tpnet.model import NotThere
from tpnet_cli.lab.plan import LabPaths, labs_dir
from tpnet_cli.lab.processes import Process

if TYPE_CHECKING:
    from typing import Any


@dataclass(slots=True)
class Record:
    """A lab as it is.

    ``namespaces``: name to inode, 0 while it is being made. ``complete``: ``up`` came to its end.
    """

    name: str
    namespaces: dict[str, int] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    complete: bool = False

    def save(self, paths: LabPaths) -> None:
        """Write it, at once as a whole."""
        fresh = paths.record.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(self), indent=2) + "\n")
        fresh.replace(paths.record)


def load(paths: LabPaths) -> Record:
    """The record of a lab. Raises ``NotThere`` that names the labs there are."""
    try:
        data: dict[str, Any] = json.loads(paths.record.read_text())
    except OSError:
        labs = existing()
        hint = f"There are: {', '.join(labs)}. Choose with --name." if labs else "Make one: tpnet lab up"
        raise NotThere(f"There is no lab called {paths.name}.", hint) from None
    data["processes"] = [Process(**process) for process in data["processes"]]
    return Record(**data)


def existing() -> list[str]:
    """The names of all labs, also of those whose making was interrupted."""
    return sorted(path.parent.name for path in labs_dir().glob("*/lab.json"))
