"""Every place where bytes of others come in, as a function of bytes that raises when something is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True)
class Target:
    name: str
    run: Callable[[bytes], None]
    seeds: Sequence[bytes]
    words: Sequence[bytes]
    longest: int


TARGETS: dict[str, Target] = {}


def target(*, seeds: Sequence[bytes] = (b"",), words: Sequence[bytes] = (), longest: int = 2048):
    """Registers a function by its name. ``seeds``: what it is to begin with; ``words``: what may stand in between."""

    def register(function):
        TARGETS[function.__name__] = Target(function.__name__, function, seeds, words, longest)
        return function

    return register
