"""Decisions made of bytes, and JSON objects gone wrong by them: any fuzzer's bytes lead everywhere, and again to the same."""

from __future__ import annotations

import copy

ODD_TEXTS = [
    "", " ", "0", "-1", "1e400", "nan", "a" * 300, "../../x", "a/b", "?x=1#y", "%2e%2e", "\n", "\r\nx: y", "\x00", "\x1b[31m",
    "\x1b]52;c;eA==\x07", "\u202e", "\u2028", "\ud800", "٣", "²", "\u0131", "\u212a", "\u2167", "None", "True", "*", ".*", "(", "[a-", "(a*)*$",
    "::1", "[::1]:80", "1.2.3.4:99999", "localhost:x", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", "0/0", "1/x", "/",
]  # fmt: skip
ODD_NUMBERS = [0, 1, -1, 80, 65_535, 65_536, 2**31, 2**63, -(2**63), 10**400, 0.5, float("inf"), float("nan")]
_DEEP = 2000


class Choices:
    """Bytes as a source of decisions; at their end everything is 0."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def below(self, limit: int) -> int:
        return (self.byte() if limit <= 256 else self.byte() * 256 + self.byte()) % limit

    def pick(self, things):
        return things[self.below(len(things))]

    def bytes(self) -> bytes:
        size = self.byte()
        found = self.data[self.at : self.at + size]
        self.at += size
        return found

    def rest(self) -> bytes:
        found = self.data[self.at :]
        self.at = len(self.data)
        return found

    def text(self) -> str:
        if self.byte() % 2:
            return self.pick(ODD_TEXTS)
        return self.bytes().decode("utf-8", "surrogateescape" if self.byte() % 4 == 0 else "replace")

    @property
    def more(self) -> bool:
        return self.at < len(self.data)


def odd_value(choices: Choices, *, json_only: bool = True):
    """Any value that JSON can carry, and some that Python's parser takes for JSON."""
    match choices.below(8):
        case 0:
            return None
        case 1:
            return bool(choices.byte() % 2)
        case 2:
            return choices.pick(ODD_NUMBERS)
        case 3 | 4:
            return choices.text()
        case 5:
            return [odd_value(choices) for _ in range(choices.below(3))]
        case 6:
            return {choices.text(): odd_value(choices) for _ in range(choices.below(3))}
        case _:
            return deep(choices.below(_DEEP))


def deep(depth: int):
    """Lists in lists."""
    found: list = []
    for _ in range(depth % 90):  # what reads JSON is given deeper ones as text, by its own target
        found = [found]
    return found


def gone_wrong(value, choices: Choices, *, same_type: bool = False, kept=frozenset()):
    """A copy of ``value`` with some places changed. ``same_type``: as a schema allows; ``kept`` keys are not removed."""
    value = copy.deepcopy(value)
    for _ in range(1 + choices.below(4)):
        value = _once(value, choices, same_type, kept, root=True)
    return value


def _once(value, choices, same_type, kept, *, root=False):
    if isinstance(value, dict) and value and (root or choices.below(5)):
        key = choices.pick(sorted(value))
        if not choices.below(6) and key not in kept:
            del value[key]
        else:
            value[key] = _once(value[key], choices, same_type, kept)
        return value
    if isinstance(value, list) and value and choices.below(5):
        at = choices.below(len(value))
        value[at] = _once(value[at], choices, same_type, kept)
        if not choices.below(4) and not isinstance(value[at], list):
            value.append(copy.deepcopy(value[at]))
        return value
    if root:
        return value
    if not same_type:
        return odd_value(choices)
    match value:
        case bool():
            return not value
        case int():
            return choices.pick([0, 1, 80, 65_535])
        case str():
            return choices.text()
        case list():
            return []
        case dict():
            return value if kept & value.keys() else {}
    return value
