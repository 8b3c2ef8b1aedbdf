"""What the rules want to see of a request, and the two places where that is not as it seems.

The HTTP parser's heads satisfy ``HeadView``; tests bring their own. The index and the dry run share the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence


class HeadView(Protocol):
    """A request's head, read only. Everything is the bytes as they were sent."""

    @property
    def path(self) -> bytes:
        """The raw path without its query; ``*`` for ``OPTIONS *`` (RFC 9112 section 3.2.4)."""

    def values(self, name_lower: bytes, /) -> Sequence[bytes]:
        """The value of every field line of that name, in order, without the blanks around it."""

    def names(self) -> Iterable[bytes]:
        """The names of all field lines in lower case; one may come more than once."""


NO_PATH = b"*"
"""The path of ``OPTIONS *``: it is the server as a whole, so only an equal rule of that very text holds."""


def rule_values(name_lower: bytes, values: Collection[bytes]) -> frozenset[bytes]:
    """The values that rules on this header compare with: each field line's, once.

    None if two ``Host`` lines differ: who is meant cannot be told, and RFC 9112 section 3.2 calls it an
    error.
    """
    distinct = frozenset(values)
    if name_lower == b"host" and len(distinct) > 1:
        return frozenset()
    return distinct
