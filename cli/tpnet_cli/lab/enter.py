"""``tpnet lab exec``: this process becomes a command inside a place. Nothing comes back from here."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

from tpnet.model import NotThere, Refused, TpnetError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import NoReturn

    from tpnet.datapath.netns import NetNs

_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_SLAVE = 0x1000, 0x4000, 0x80000


def run(netns: NetNs, hosts: Path, command: list[str]) -> NoReturn:
    """Become ``command``, in the namespace and with ``hosts`` in the place of /etc/hosts.

    Raises ``NotThere`` when there is no such program, ``Refused`` without root.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    # A mount namespace of its own, so that only this command sees the file. Slave: what is mounted and
    # unmounted outside later, as names of network namespaces are, is seen here too and never kept alive.
    if (
        libc.unshare(_CLONE_NEWNS) < 0
        or libc.mount(None, b"/", None, _MS_REC | _MS_SLAVE, None) < 0
        or libc.mount(os.fsencode(hosts), b"/etc/hosts", None, _MS_BIND, None) < 0
    ):
        raise Refused(
            f"The lab's names cannot be put in place: {os.strerror(ctypes.get_errno())}.", "Run it as root."
        )
    with netns.entered():
        try:
            os.execvp(command[0], command)  # noqa: S606  no shell is the point
        except FileNotFoundError:
            raise NotThere(f"There is no program {command[0]}.", "") from None
        except OSError as error:
            raise TpnetError(f"{command[0]} cannot be run: {error.strerror}.") from error
