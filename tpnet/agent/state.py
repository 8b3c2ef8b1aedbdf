"""What the agent has changed in which namespace, on disk: the next start undoes it after a ``kill -9``.

``tpnet.agent.targets`` writes a record before it changes anything and forgets it once it is undone; the
supervisor reads what an earlier one left. It must never keep the agent from starting: a file that cannot be
read counts as empty.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from typing import TYPE_CHECKING, Any

from tpnet.kernel import files

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

_log = logging.getLogger(__name__)
_VERSION = 1
_MOST_BYTES = 16 << 20


class StateFile:
    """``state.json`` in the run directory: records of ``SourceAddress.to_json`` by namespace inode.

    Two agents may have it at once, one that ends and its successor: each change is of one record, in one step. What
    hangs together with a record is done while it is ``held``.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._path = run_dir / "state.json"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """No other agent with this run directory holds it while the block runs. Blocks. Raises ``OSError``."""
        fd = os.open(self._run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def load(self) -> dict[str, dict[str, Any]]:
        """What an agent had written down and not undone, by ``str(netns.inode)``."""
        return {inode: record["changes"] for inode, record in self._read().items()}

    def note(self, inode: int, label: str, changes: dict[str, Any]) -> None:
        """Write down what is about to be changed. While it is held. Raises ``OSError`` when it cannot be kept."""
        self._write(self._read() | {str(inode): {"label": label, "changes": changes}})

    def forget(self, inode: int) -> None:
        """It has been undone, or has gone with its namespace. While it is held."""
        records = self._read()
        if records.pop(str(inode), None) is not None:
            with contextlib.suppress(OSError):  # an old record costs the next start a look, no more
                self._write(records)

    def keep_only(self, inodes: Collection[int]) -> None:
        """Everything else has been swept. While it is held."""
        kept = {str(inode) for inode in inodes}
        with contextlib.suppress(OSError):
            self._write({inode: record for inode, record in self._read().items() if inode in kept})

    def _read(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        try:
            data = json.loads(files.read(self._path, _MOST_BYTES))
            if data["version"] == _VERSION:
                for inode, record in data["namespaces"].items():
                    found[inode] = {"label": str(record["label"]), "changes": dict(record["changes"])}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            _log.warning("%s does not tell what an earlier agent left (%s)", self._path, type(error).__name__)
            found = {}
        return found

    def _write(self, records: dict[str, dict[str, Any]]) -> None:
        if not records:
            files.remove(self._path)
            return
        data = {"version": _VERSION, "namespaces": records}
        files.write(self._path, json.dumps(data).encode())
