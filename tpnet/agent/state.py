"""What the agent has changed in which namespace, on disk: the next start undoes it after a ``kill -9``.

``tpnet.agent.targets`` writes a record before it changes anything and forgets it once it is undone; the
supervisor reads what an earlier one left. It must never keep the agent from starting: a file that cannot be
read counts as empty.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)
_VERSION = 1


class StateFile:
    """``state.json`` in the run directory: records of ``SourceAddress.to_json`` by namespace inode."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "state.json"
        self._records: dict[str, dict[str, Any]] = {}

    def load(self) -> dict[str, dict[str, Any]]:
        """What an earlier agent had written down and not undone, by ``str(netns.inode)``."""
        found: dict[str, dict[str, Any]] = {}
        try:
            data = json.loads(self._path.read_text(encoding="utf-8"))
            if data["version"] == _VERSION:
                found = {inode: dict(record["changes"]) for inode, record in data["namespaces"].items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warning("%s does not tell what an earlier agent left (%s)", self._path, type(error).__name__)
        return found

    def note(self, inode: int, label: str, changes: dict[str, Any]) -> None:
        """Write down what is about to be changed. Raises ``OSError`` when it cannot be kept."""
        self._records[str(inode)] = {"label": label, "changes": changes}
        self._write()

    def forget(self, inode: int) -> None:
        """It has been undone, or has gone with its namespace."""
        if self._records.pop(str(inode), None) is not None:
            with contextlib.suppress(OSError):  # an old record costs the next start a look, no more
                self._write()

    def clear(self) -> None:
        """Everything of an earlier agent has been swept; or of this one undone."""
        self._records.clear()
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _write(self) -> None:
        if not self._records:
            self._path.unlink(missing_ok=True)
            return
        fresh = self._path.with_suffix(".new")
        data = {"version": _VERSION, "namespaces": self._records}
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(data, file)
        fresh.replace(self._path)  # a reader sees the old or the new whole
