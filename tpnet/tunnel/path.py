"""How large a packet the path between session and agent carries, found by padded heartbeats.

Paths that drop large packets and say nothing exist (a VPN below, a tunnel of the provider): small heartbeats pass there,
and data hangs. ``HeartbeatSender`` asks here what to send. Pure: no I/O, no clock of its own.

A probe is a heartbeat of such a length that the tunnel's packet has the size in question; its echo is as long, so it
proves both directions. The largest size is proved every few seconds. When it is not echoed and small heartbeats are, all
sizes of a ladder are asked at once, a few times, and the largest that was echoed is the path's. From then on larger ones
are tried every half a minute.
"""

from __future__ import annotations

FULL = 1280
"""Bytes of the largest inner packet: the tunnel's MTU."""
STEP = 48
SMALLEST = 560
"""The ladder: 1280, 1232, …, 560. All are multiples of 16: WireGuard pads to these (its whitepaper, section 5.4.6)."""
LADDER = tuple(range(FULL, SMALLEST - 1, -STEP))
ROUNDS = 4
"""How often a size is asked before its silence counts: one lost packet says nothing."""
ROUND_SECONDS = 0.3
"""Between two of these at least; twice the round trip where that is longer."""
PROVE_EVERY = 5.0
GROW_EVERY = 30.0


class PathSize:
    """``size``: the largest inner packet, in bytes, that is known to pass; 0 when not even ``SMALLEST`` does.

    ``FULL`` until something else is known.
    """

    def __init__(self) -> None:
        self.size = FULL
        self._next = 0.0
        self._round = 0
        self._asked: tuple[int, ...] = ()
        self._passed = 0
        self._heard = False
        self._grow_at = 0.0

    def restart(self) -> None:
        """Another path, perhaps: look anew at once."""
        self._next = self._grow_at = 0.0
        self._round = 0

    def due(self, now: float, round_trip: float) -> tuple[int, ...]:
        """The sizes to ask now, 0 for a heartbeat without padding; to be called often while the agent is up.

        ``round_trip`` in seconds.
        """
        if now < self._next:
            return ()
        if not self._round:
            self._begin(now)
        elif self._passed >= self._asked[0] or self._round >= ROUNDS:
            self._conclude(now)
            return ()
        elif len(self._asked) == 1:
            # Silence at the first try: now it matters which sizes do pass.
            self._asked = tuple(size for size in LADDER if size <= self._asked[0])
        self._round += 1
        self._next = now + max(ROUND_SECONDS, 2 * round_trip)
        return (*self._asked, 0)

    def echoed(self, size: int) -> None:
        """A probe of this size came back, or, with 0, a heartbeat without padding."""
        self._heard = True
        self._passed = max(self._passed, size)

    def _begin(self, now: float) -> None:
        self._passed, self._heard = 0, False
        if self.size < FULL and now >= self._grow_at:
            self._grow_at = now + GROW_EVERY
            self._asked = LADDER
        else:
            self._asked = (self.size or SMALLEST,)

    def _conclude(self, now: float) -> None:
        self._round = 0
        self._next = now + PROVE_EVERY
        if (
            self._heard and self._passed != self.size
        ):  # else nothing at all passes, which is no matter of size
            self.size = self._passed
            self._grow_at = now + GROW_EVERY
