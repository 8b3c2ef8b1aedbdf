"""What the compiler made of the redirect's program, kept on the node for the next start of an agent.

``tpnet.datapath.program`` asks. A folder that another user could write to is not used, and an entry that is not exactly
what was put there counts as none: what is kept may save half a second, and must never be needed or trusted for more.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpnet.kernel import files

if TYPE_CHECKING:
    from collections.abc import Iterable

_log = logging.getLogger(__name__)

_DEFAULT = Path("/var/cache/tpnet")
_FORMAT = b"tpnet 1"
_MOST_BYTES = 1 << 20
_KEPT = 8  # entries: each source, kernel and compiler has one


def cache_folder() -> Path:
    """A folder of our own in ``TPNET_CACHE_DIR``, or in ``/var/cache/tpnet``."""
    return Path(os.environ.get("TPNET_CACHE_DIR") or _DEFAULT) / "programs"


def key_of(sources: Iterable[Path]) -> str:
    """The name of the entry for these files, this kernel, this machine and this compiler."""
    system = os.uname()
    parts = [_FORMAT, system.release.encode(), system.machine.encode(), _compiler()]
    for path in sources:
        parts += [path.name.encode(), path.read_bytes()]
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "big") + part)
    return whole.hexdigest()


def look_up(folder: Path, key: str) -> dict[str, Any] | None:
    """What was kept under this key; ``None`` when there is nothing, or something odd."""
    try:
        files.check_folder(folder)
        told, _, content = files.read(folder / key, _MOST_BYTES).partition(b"\n")
        if told.decode() != _checksum(key, content):
            raise ValueError("its checksum does not hold")
        kept: dict[str, Any] = json.loads(content)
        if not isinstance(kept, dict):
            raise ValueError("it is something else")  # noqa: TRY004
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        _log.warning("what was compiled earlier is not used (%s): %s", folder / key, error)
        return None
    return kept


def keep(folder: Path, key: str, result: dict[str, Any]) -> None:
    """Keep it under this key, in place of what is there. Not to be able to is only slower."""
    content = json.dumps(result).encode()
    try:
        files.own_folder(folder)
        files.write(folder / key, _checksum(key, content).encode() + b"\n" + content)
        _thin_out(folder)
    except (OSError, ValueError) as error:
        _log.info("what was compiled cannot be kept for the next start (%s): %s", folder, error)


def _thin_out(folder: Path) -> None:
    """Remove all but the newest entries."""
    ages = sorted((path.lstat().st_mtime_ns, path) for path in folder.iterdir())
    for _, path in ages[:-_KEPT]:
        with contextlib.suppress(OSError):
            path.unlink()


def _checksum(key: str, content: bytes) -> str:
    return hashlib.sha256(key.encode() + b"\n" + content).hexdigest()


def _compiler() -> bytes:
    """BCC's version, without importing it; empty when it is not there."""
    spec = importlib.util.find_spec("bcc")
    if spec is None or spec.origin is None:
        return b""
    with contextlib.suppress(OSError):
        return Path(spec.origin).with_name("version.py").read_bytes()
    return b""
