"""Heads and intercepts for the tests of the rules, without the HTTP parser."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count

import pytest

from tpnet.model import Intercept
from tpnet.rules.sealed import sealed

_serials = count(1)


@dataclass
class Head:
    """A request head from a list of field lines; counts what it is asked."""

    path: bytes = b"/"
    lines: list[tuple[bytes, bytes]] = field(default_factory=list)
    asked: int = 0

    def values(self, name_lower):
        self.asked += 1
        return [value for name, value in self.lines if name.lower() == name_lower]

    def names(self):
        self.asked += 1
        return [name.lower() for name, _ in self.lines]


@pytest.fixture(scope="session")
def head():
    """head(path, "Coder: Bob", ...) as a client would write it."""

    def make(path="/", *lines):
        pairs = []
        for line in lines:
            raw = line if isinstance(line, bytes) else line.encode()
            name, _, value = raw.partition(b":")
            pairs.append((name, value.strip(b" \t")))
        return Head(path if isinstance(path, bytes) else path.encode(), pairs)

    return make


@pytest.fixture(scope="session")
def intercept():
    """intercept(headers, path, name=..., ...); each is younger than the one before.

    Of a rule with the digest "own" it keeps the digest of its user alone, with "ann's" that of ann.
    """

    def kept(rule, user):
        if rule.digest not in {"own", "ann's"}:
            return rule
        return sealed(replace(rule, digest=""), "ann" if rule.digest == "ann's" else user)

    def make(headers=(), path=None, name="", user="bob", serial=0, created=0.0, shared=False):
        serial = serial or next(_serials)
        headers = [kept(rule, user) for rule in headers]
        return Intercept(
            name=name or f"i{serial}",
            user=user,
            session=f"{user}@laptop",
            target="netns/shop-1",
            targets=("netns/shop-1",),
            port=80,
            headers=tuple(headers),
            path=path,
            serial=serial,
            created=created,
            shared=shared,
        )

    return make
