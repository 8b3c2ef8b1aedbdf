"""Gives up every privilege, for good. Called by ``tpnet.proxy.confinement`` before the worker's first hostile byte.

Must never be called in a process that is to keep anything of root: there is no way back.
"""

from __future__ import annotations

import os

from tpnet.kernel import capabilities
from tpnet.kernel.libc import prctl
from tpnet.model import TpnetError

_PR_SET_DUMPABLE = 4  # linux/prctl.h
_HINT = "Run the agent as root, with CAP_SETUID, CAP_SETGID and CAP_SETPCAP."


def drop(uid: int) -> None:
    """Become ``uid`` (user and group) without groups or capabilities, unable to regain any, and undumpable.

    Undumpable also keeps processes of the same uid from tracing this one (ptrace(2)). Raises ``TpnetError``
    when the kernel refuses a step, or when something is left after all of them.
    """
    try:
        capabilities.bound_to()  # first: it needs CAP_SETPCAP
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        capabilities.keep()
        capabilities.no_new_privileges()
        prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    except OSError as error:
        raise TpnetError(f"The worker cannot give up its privileges: {error.strerror}.", _HINT) from error
    if os.getresuid() != (uid, uid, uid) or capabilities.held():
        raise TpnetError(
            f"The worker should run as uid {uid} without capabilities, and does not.",
            _HINT,
        )
