"""Whether anything was changed in a namespace that may concern its redirect, as the kernel tells whoever listens.

``tpnet.agent.namespace`` asks several times a second, and looks more closely when there was something. Must never cost
more than a system call while there is nothing.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING

from tpnet.model import TpnetError

if TYPE_CHECKING:
    from tpnet.datapath.netns import NetNs

# linux/rtnetlink.h: links; routes and rules of IPv4; routes and rules of IPv6
_GROUPS = (1, 7, 8, 11, 19)
_MOST = 256


class Changes:
    """Links, routes and rules of a namespace."""

    def __init__(self, netns: NetNs) -> None:
        """Raises ``TpnetError``."""
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
        try:
            self._sock = netns.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
            self._sock.bind((0, sum(1 << group - 1 for group in _GROUPS)))
        except OSError as error:
            raise TpnetError(
                f"What changes in {netns.label} cannot be listened to: {error.strerror}."
            ) from error

    def seen(self) -> bool:
        """Whether there were any since this was last asked; a microsecond when there were none."""
        seen = False
        with contextlib.suppress(BlockingIOError):
            for _ in range(_MOST):
                try:
                    self._sock.recv(1)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:  # so many that some were lost
                        raise
                seen = True
        return seen

    def close(self) -> None:
        """Listen no more."""
        self._sock.close()
