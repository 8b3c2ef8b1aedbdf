"""Who the developer is: their name, their auto id, and the session that is theirs.

Commands use it. It must never show the auto id of somebody else, nor leave it readable for others.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tpnet.model import InvalidInput, TpnetError

if TYPE_CHECKING:
    from collections.abc import Collection

_NAME = re.compile(r"[^a-z0-9]+")
_ID_FILE = "intercept-id"


def user_name(given: str | None = None) -> str:
    """The developer's name: ``--user``, ``TPNET_USER``, who called sudo, or who logged in; in that order.

    The machine's name of somebody is made to fit; a name that was said is taken as it is, or refused: another
    than was meant would be somebody else's. Raises ``InvalidInput``.
    """
    import getpass

    if given is not None:
        return _said_name(f"--user={given}", given)
    if said := os.environ.get("TPNET_USER"):
        return _said_name(f"TPNET_USER={said}", said)
    if caller := slug(os.environ.get("SUDO_USER", "")):
        return caller
    try:
        return slug(getpass.getuser()) or "someone"
    except (KeyError, OSError):  # a uid without a name
        return f"uid-{os.getuid()}"


def _said_name(where: str, name: str) -> str:
    fitting = slug(name)
    if not name or name != fitting:
        raise InvalidInput(
            f"{where}: a user's name is lower-case letters and digits, with single hyphens between, 40 at most.",
            f"Such as {fitting or 'bob'}.",
        )
    return name


def slug(text: str) -> str:
    """``text`` as a name: lower-case letters, digits and single hyphens, 40 of them at most."""
    return _NAME.sub("-", text.lower()).strip("-")[:40].strip("-")


def default_name(target: str, user: str) -> str:
    """The name of an intercept that was given none: ``shop-bob`` for ``netns/shop-*`` of bob's."""
    first = target.partition(",")[0]
    kind, slash, rest = first.partition("/")
    if slash and kind == "pid":
        base = f"pid-{rest}"
    elif slash and kind == "container":
        base = rest[:12]
    else:
        base = first.rpartition("/")[2]
    return f"{slug(base) or 'all'}-{user}"


def free_name(wanted: str, taken: Collection[str]) -> str:
    """``wanted``, or ``wanted-2`` and so on when it is taken."""
    candidates = itertools.chain([wanted], (f"{wanted}-{number}" for number in itertools.count(2)))
    return next(name for name in candidates if name not in taken)


def state_dir() -> Path:
    """Where the developer's own things are kept: ``TPNET_STATE_DIR``, else XDG's state folder for tpnet."""
    own = os.environ.get("TPNET_STATE_DIR")
    if own:
        return Path(own)
    base = os.environ.get("XDG_STATE_HOME", "")
    # The XDG base directory specification: a path that is not absolute is to be ignored.
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".local" / "state") / "tpnet"


def auto_id() -> str:
    """The id of ``--http-header=auto``: made once, kept in ``state_dir()``, readable for its owner alone.

    Raises ``TpnetError`` when it cannot be kept.
    """
    path = state_dir() / _ID_FILE
    try:
        return _kept_id(path)
    except OSError as error:
        raise TpnetError(
            f"The id for --http-header=auto cannot be kept in {path}: {error.strerror}.",
            "Set TPNET_STATE_DIR to a folder that you can write, or choose a header of your own.",
        ) from error


def known_id() -> str:
    """The same id if this computer has one; empty if not, or if it cannot be read. Makes none."""
    try:
        return (state_dir() / _ID_FILE).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def _kept_id(path: Path) -> str:
    import tempfile

    from tpnet.rules import new_auto_id

    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        fd, fresh = tempfile.mkstemp(prefix=f".{_ID_FILE}.", dir=path.parent)  # mode 0600
        try:
            with os.fdopen(fd, "w") as file:
                file.write(f"{new_auto_id()}\n")
            with contextlib.suppress(FileExistsError):  # another command was quicker: its id is the one
                os.link(fresh, path)
        finally:
            Path(fresh).unlink()
    return path.read_text().strip()
