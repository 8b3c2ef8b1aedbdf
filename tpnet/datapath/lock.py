"""The locks that keep a second agent away, told to people when one is taken.

``tpnet.datapath.redirect`` takes one in each target's namespace, ``tpnet.agent`` one in the node's. Must never
outlive their holder: ``tpnet.kernel.lock`` says how.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from tpnet.kernel.lock import holder, take_name
from tpnet.model import Conflict, TpnetError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable


def take_lock(name: str, make_socket: Callable[[], socket.socket], *, what: str, taken: str) -> socket.socket:
    """Hold the abstract name ``name`` for as long as the returned socket is open.

    ``make_socket`` makes a Unix stream socket in the namespace that is meant. ``what`` is the lock and ``taken``
    what it means that somebody has it, both for people. Raises ``Conflict`` with the other one's process id.
    """
    try:
        return take_name(name, make_socket)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise TpnetError(f"{what} could not be taken: {error.strerror}.") from error
        pid = holder(name, make_socket)
        who = "its process is unknown" if pid is None else f"process {pid}"
        raise Conflict(
            f"{taken} already ({who}).", "Only one agent may run on a node. Stop the other one first."
        ) from error
