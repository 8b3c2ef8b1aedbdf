"""What a worker says, as far as the supervisor believes it: nothing before its size, form, types and ranges are checked.

``tpnet.agent.workers`` reads its end of the channel by this; workers, which trust the supervisor, read theirs by
``tpnet.proxy.channel.receive``. Whoever took a worker over with a client's bytes chooses every byte. Must never take a
descriptor from there, nor raise anything but ``LieError``, whatever is said.
"""

from __future__ import annotations

import json
import math
import socket
from typing import TYPE_CHECKING, Any, NoReturn

from tpnet.proxy.channel import (
    INLINE,
    AppRefused,
    Counters,
    Drained,
    Full,
    Message,
    NeedSockets,
    NotTaken,
    Purpose,
    Ready,
)
from tpnet.proxy.counters import AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Callable

    Check = Callable[[Any], object]

MOST = 1 << 53
"""The largest number that is a count, a process id or a target's number."""
LATEST = 253_402_300_799
"""The last second that a date can be made of, in Unix seconds."""
_LONGEST_NAME = 1024
_MOST_REASONS = 256
_MOST_SOCKETS = 1 << 16
_MOST_TIMES = 1 << 32
_MOST_BRACKETS = 512
"""Of honest counters some 210: so nothing is nested deeper than this, which the parser bears."""


class LieError(ValueError):
    """No worker that runs our code says this."""


def receive(end: socket.socket) -> Message | None:
    """The worker's next message; ``None`` at the end of the channel.

    Raises ``BlockingIOError`` when there is none yet, ``OSError`` when the channel is broken, ``LieError``.
    """
    # No room for descriptors: the kernel lets go of those that come, and says so.
    data, _, flags, _ = end.recvmsg(INLINE + 2)
    if flags & socket.MSG_CTRUNC:
        raise LieError("it sends descriptors")
    if flags & socket.MSG_TRUNC or len(data) > INLINE + 1:
        raise LieError("its message is too long")
    return message_of(data) if data else None


def message_of(data: bytes) -> Message:
    """What a datagram says. Raises ``LieError``."""
    if data[:1] != b"J":
        raise LieError("its message is of no known form")
    if data.count(b"[") + data.count(b"{") > _MOST_BRACKETS:
        raise LieError("its message is nested too deeply")
    try:
        said = json.loads(data[1:].decode(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise LieError("its message is no JSON") from error
    if type(said) is not list or len(said) != 2 or type(said[0]) is not str or said[0] not in _KINDS:
        raise LieError("its message is none of a worker's")
    kind = _KINDS[said[0]]
    _record(_CHECKS[kind])(said[1])
    found: Message = kind(**said[1])
    return found


def _no_number(word: str) -> NoReturn:
    raise ValueError(word)


# Checks: each raises ``LieError``.


def _need(true: bool, what: str) -> None:
    if not true:
        raise LieError(f"its message has {what}")


def _number(most: int) -> Check:
    def check(value: Any) -> None:
        _need(type(value) is int and 0 <= value <= most, "a number that cannot be")

    return check


def _flag(value: Any) -> None:
    _need(type(value) is bool, "something that is neither true nor false")


def _time(value: Any) -> None:
    _need(type(value) is int or (type(value) is float and math.isfinite(value)), "a time that is none")
    _need(0 <= value <= LATEST, "a time that cannot be")


def _purpose(value: Any) -> None:
    _need(type(value) is str and value in set(Purpose), "a purpose that is none")


def _name(value: str) -> None:
    _need(0 < len(value) <= _LONGEST_NAME, "a name that is none")
    try:
        value.encode()
    except UnicodeError as error:  # half of a surrogate pair, which no log or API can take
        raise LieError("its message has a name that is no text") from error


def _target(value: str) -> None:
    _need(
        len(value) <= 10 and value.isascii() and value.isdecimal() and str(int(value)) == value,
        "a target that is none",
    )


def _table(name: Check, entry: Check, most: int) -> Check:
    def check(value: Any) -> None:
        _need(type(value) is dict and len(value) <= most, "no table, or too long a one")
        for key, one in value.items():
            name(key)
            entry(one)

    return check


def _record(checks: dict[str, Check]) -> Check:
    def check(value: Any) -> None:
        _need(type(value) is dict and value.keys() == checks.keys(), "other fields than it should have")
        for field, one in checks.items():
            one(value[field])

    return check


_COUNT = _number(MOST)
_TALLY = _table(_name, _COUNT, _MOST_REASONS)
_TARGET_COUNT: dict[str, Check] = {
    "open": _COUNT,
    "accepted": _COUNT,
    "requests": _COUNT,
    "app_requests": _COUNT,
    "verdicts": _TALLY,
    "reasons": _TALLY,
}
_INTERCEPT_COUNT: dict[str, Check] = {"hits": _COUNT, "last_hit": _time, "reasons": _TALLY}
_CHECKS: dict[type[Any], dict[str, Check]] = {
    Ready: {"pid": _COUNT},
    NeedSockets: {"purpose": _purpose, "count": _number(_MOST_SOCKETS), "target": _COUNT},
    AppRefused: {"target": _COUNT},
    Full: {"full": _flag},
    NotTaken: {"target": _COUNT},
    Drained: {"target": _COUNT, "times": _number(_MOST_TIMES)},
    Counters: {
        "targets": _table(_target, _record(_TARGET_COUNT), AT_ONCE),
        "intercepts": _table(_name, _record(_INTERCEPT_COUNT), AT_ONCE),
        "sessions": _table(_name, _COUNT, AT_ONCE),
        "more": _flag,
    },
}
_KINDS = {kind.__name__: kind for kind in _CHECKS}
