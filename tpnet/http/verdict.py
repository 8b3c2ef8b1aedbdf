"""What is decided about a request or a connection: a value that is made once and passed on.

``tpnet.http`` makes and reads verdicts, ``tpnet.proxy`` decides and counts them. It must never hold anything of
the request itself.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import StrEnum
from typing import Final, NamedTuple

Side = Hashable | None
"""Names one connection upstream; ``APP`` is the app's, any other is a session's."""

APP: Final = None
"""The app's side."""


class Outcome(StrEnum):
    """What happens; the values are the letters of ``docs/reference/http.md``."""

    FORWARD = "F"
    """Forward the request untouched to the side that the rules pick."""
    APP = "A"
    """Forward it untouched to the app, whatever the rules say."""
    PIN = "P"
    """Turn the whole connection into an opaque pipe to the app."""
    REFUSE = "R"
    """400, nothing is forwarded, the connection ends."""
    BREAK = "B"
    """Break off inside a body: 400 if no response has begun, the connection ends."""
    FAIL = "E"
    """502 in its turn, nothing is dialled, the connection ends: the session that the rules pick is not there."""


class Verdict(NamedTuple):
    """An outcome, and what it hangs on.

    ``side``: where the request goes. ``reason``: why it is not the usual; empty if it is. ``intercept``: the
    caller's own key of the intercept that takes the request, for counters; ``None`` if none does.
    ``on_failure_app``: give the request to the app if the session fails and that is safe; otherwise 502.
    """

    outcome: Outcome
    side: Side = APP
    reason: str = ""
    intercept: Hashable = None
    on_failure_app: bool = True


TO_APP: Final = Verdict(Outcome.FORWARD)
"""The usual one: no rule takes the request."""

OF_KUBELET: Final = Verdict(Outcome.APP, reason="it is a probe of the kubelet")
"""Probes and lifecycle hooks are the app's: who answers them in its place has its container killed."""
