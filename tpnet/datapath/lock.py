"""The lock that keeps a second agent away from a node, told to people when it is taken.

``tpnet.agent`` takes it. In targets' namespaces ``tpnet.datapath.hold`` does the like, by what nobody there can take.
Must never outlive its holder: ``tpnet.kernel.lock`` says how.
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

    ``make_socket`` makes a Unix stream socket in the calling thread's namespace. ``what`` is the lock and ``taken``
    what it means that somebody has it, both for people. Raises ``Conflict`` with the other one's process id.
    """
    try:
        return take_name(name, make_socket)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise TpnetError(f"{what} could not be taken: {error.strerror}.") from error
        other = holder(name)
        if other is not None and other.uid != 0:  # anybody may take a name; an agent is root
            raise Conflict(
                f"{what} is held by process {other.pid} of user {other.uid}, which is no agent.",
                f"End that process: it has taken the abstract name {name} of Unix sockets.",
            ) from error
        who = "its process is unknown" if other is None else f"process {other.pid}"
        raise Conflict(
            f"{taken} already ({who}).", "Only one agent may run on a node. Stop the other one first."
        ) from error
