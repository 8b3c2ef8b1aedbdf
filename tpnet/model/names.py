"""What intercepts and sessions may be called: the same at the command line as at the agent.

The command line asks before it starts anything, the agent's store before it keeps anything. Pure.
"""

from __future__ import annotations

import re

from tpnet.model.errors import InvalidInput

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")

OBJECT_NAME = "[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
"""What an object of a cluster can be called: a DNS subdomain (RFC 1123), of at most 253 characters."""
_object_name = re.compile(OBJECT_NAME).fullmatch


def check_name(what: str, name: str) -> None:
    """Raise ``InvalidInput`` when nothing can be called so; ``what`` is ``intercept`` or ``session``."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name[:64]!r} is no name for {'an' if what == 'intercept' else 'a'} {what}.",
            "Names have 1 to 128 letters, digits and . _ @ -, and begin with a letter or digit.",
        )


def is_object_name(name: str) -> bool:
    """Whether an object of a cluster can be called so."""
    return len(name) <= 253 and _object_name(name) is not None
