"""Makes /proc/sys/net writable inside a container that is not privileged. Called by the supervisor as it starts.

The sysctls of pods' network namespaces, which keep a client's address, and those of the tunnel's own are written
through it. Must never be called outside of the supervisor.
"""

from __future__ import annotations

from tpnet.kernel.sysctl import NET, remount_net_writable
from tpnet.model import Refused


def make_net_sysctls_writable() -> bool:
    """Whether anything had to be done. Raises ``Refused`` when the kernel does not let us."""
    try:
        return remount_net_writable()
    except OSError as error:
        raise Refused(
            f"{NET} is read-only, and cannot be made writable: {error.strerror}.",
            "The agent's container needs CAP_SYS_ADMIN and the AppArmor profile Unconfined, or a writable /proc/sys.",
        ) from error
