"""Signs of life: words in the kernel that the agent's processes write through memory, at the price of a store.

bpf/redirect.c reads them for each new connection and passes it to the app when worker or supervisor have been silent:
so a process that hangs is in nobody's way. One array for all namespaces of an agent; the supervisor makes it, the worker
gets its descriptor. Times are of CLOCK_MONOTONIC, which is the clock of bpf_ktime_get_ns() too: neither setting the
time of day nor a suspended computer makes anybody silent. It must never be relied on for more than that: the worker can
write every word.
"""

from __future__ import annotations

import mmap
import os
import time
from collections import deque
from enum import IntEnum

from tpnet.kernel.bpf import MapSpec, create_map

_BPF_MAP_TYPE_ARRAY = 2
_BPF_F_MMAPABLE = 1 << 10  # include/uapi/linux/bpf.h, since Linux 5.5
SPEC = MapSpec("signs", _BPF_MAP_TYPE_ARRAY, 4, 8, 8192, _BPF_F_MMAPABLE)
"""The map as bpf/redirect.c declares it."""

WORKER, SUPERVISOR, WITHDRAWN, FIRST_PLACE = 0, 1, 2, 4
"""Indices: when each was last alive in ns; not 0 while the worker takes no clients at all; from here two for a target."""
WORKER_SECONDS = 1.0
"""Seconds of silence after which a worker gets no new connections."""
SUPERVISOR_SECONDS = 0.3
"""Seconds of silence after which a worker whose sockets run low gets none: nobody refills them."""


class Level(IntEnum):
    """What must be known for a target to get a new connection, besides that the worker has not withdrawn."""

    AWAY = 0
    """Whatever is known, it goes to the app."""
    LOW = 1
    """Worker and supervisor live: prepared sockets run low."""
    SERVES = 2
    """The worker lives."""
    ALWAYS = 3
    """Nothing: while the redirect is tried with a connection of the agent's own."""


class Signs:
    """The array, mapped into this process. ``fd`` is its descriptor, which the object owns."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._memory = mmap.mmap(fd, SPEC.entries * SPEC.value_size, mmap.MAP_SHARED)
        self._words = memoryview(self._memory).cast("Q")
        # In turn: a worker may yet write the levels of a target that it has not been told to give up.
        self._free = deque(range(FIRST_PLACE, SPEC.entries, 2))

    @classmethod
    def create(cls) -> Signs:
        """New ones, all silent. Raises ``OSError``."""
        return cls(create_map(SPEC))

    def beat(self, who: int) -> None:
        """``WORKER`` or ``SUPERVISOR`` is alive at this moment."""
        self._words[who] = time.monotonic_ns()

    def silence(self, who: int) -> None:
        """It is not: said of somebody who is known to be gone."""
        self._words[who] = 0

    def last(self, who: int) -> float:
        """When it was last alive, in seconds of the monotonic clock; 0 for never."""
        return self._words[who] / 1e9

    def withdraw(self, *, withdrawn: bool) -> None:
        """The worker takes no new clients of any target, or does again."""
        self._words[WITHDRAWN] = withdrawn

    def take_place(self) -> int:
        """A place of two words for a target, IPv4's and IPv6's. Raises ``OSError`` when all are taken."""
        if not self._free:
            raise OSError(f"{(SPEC.entries - FIRST_PLACE) // 2} targets are redirected already")
        place = self._free.popleft()
        self.set_levels(place, Level.AWAY)
        return place

    def free_place(self, place: int) -> None:
        """Give it back."""
        self.set_levels(place, Level.AWAY)
        self._free.append(place)

    def set_level(self, place: int, level: Level, *, v4: bool) -> None:
        """For clients of one family."""
        self._words[place + (not v4)] = level

    def set_levels(self, place: int, level: Level) -> None:
        """For clients of both."""
        self._words[place] = self._words[place + 1] = level

    def level(self, place: int, *, v4: bool) -> Level:
        """What was set last; ``AWAY`` for what is none, as the program takes it."""
        word = self._words[place + (not v4)]
        return Level(word) if word <= Level.ALWAYS else Level.AWAY

    def close(self) -> None:
        """Let go of the array, which lives as long as a program that reads it."""
        if self.fd >= 0:
            self._words.release()
            self._memory.close()
            os.close(self.fd)
            self.fd = -1
