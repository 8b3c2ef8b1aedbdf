"""Nobody takes more of a worker than a share, and who has little is never over it."""

import random
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpnet.proxy import shares as module
from tpnet.proxy.counters import TargetCount
from tpnet.proxy.shares import KEPT, Shares

MOST = 20_000


class World:
    """Clients that come from sources to targets, and are turned away as the worker does it."""

    def __init__(self):
        self.loop = SimpleNamespace(sockets=0)
        self.shares = Shares(self.loop, MOST)
        self.targets = {}
        self.there = Counter()

    def come(self, source, target):
        """Whether it is taken: what is over its share when the last one came is passed by."""
        count = self.targets.setdefault(target, TargetCount())
        if self.shares.over(source) or self.shares.target_over(count):
            return False
        self.shares.begun(source)
        count.open += 1
        self.loop.sockets += 2
        self.there[source, target] += 1
        return True

    def go(self, source, target):
        self.shares.ended(source)
        self.targets[target].open -= 1
        self.loop.sockets -= 2
        self.there[source, target] -= 1


def test_one_source_takes_a_fifth_and_another_still_finds_room():
    world = World()
    assert sum(world.come("hog", 1) for _ in range(11_000)) == pytest.approx(MOST / 10, rel=0.01)
    assert all(world.come("other", 1) for _ in range(1000))
    assert all(world.come("third", 2) for _ in range(1000))


def test_one_target_of_many_sources_takes_a_third_and_another_still_finds_room():
    world = World()
    assert sum(world.come(f"s{number}", 1) for number in range(11_000)) == pytest.approx(MOST / 6, rel=0.01)
    assert all(world.come("other", 2) for _ in range(1000))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(1, 20))
def test_whatever_hogs_there_are_somebody_new_finds_room(hogs, targets):
    world = World()
    rng = random.Random(hogs * 100 + targets)
    for _ in range(300):
        hog, target = rng.randrange(hogs), rng.randrange(targets)
        for _ in range(100):
            if not world.come(f"hog{hog}", target):
                break
    assert world.loop.sockets < MOST
    free = MOST - world.loop.sockets
    assert free >= MOST * max((2 / 3) ** targets, (4 / 5) ** hogs) * 0.9 - 4
    assert all(world.come("new", "its own") for _ in range(free // 10))


def test_who_goes_makes_room_and_nothing_is_left_of_him():
    world = World()
    while world.come("hog", 1):
        pass
    assert world.shares.over("hog")
    assert not world.shares.again("hog")
    for _ in range(world.there["hog", 1] // 2):
        world.go("hog", 1)
    assert world.shares.again("hog")
    assert world.shares.target_again(world.targets[1])
    while world.there["hog", 1]:
        world.go("hog", 1)
    assert not world.shares._sources
    assert world.loop.sockets == 0


def test_bytes_of_heads_have_shares_of_their_own():
    shares = Shares(SimpleNamespace(sockets=0), MOST)
    kept = 0
    while shares.keep("hog", 1, 60_000):
        kept += 60_000
    assert KEPT / 5 - 60_000 <= kept <= KEPT / 5
    shares.keep("hog", 1, -60_000)
    for number in range(20):
        assert number < 3 or shares.keep("other", 2, 0)
        while shares.keep(f"more{number}", 1, 60_000):
            pass
        shares.keep(f"more{number}", 1, -60_000)
    assert shares.keep("other", 2, 60_000), "another target has a share of its own"
    assert shares._kept[None] < KEPT


def test_what_is_given_back_is_forgotten():
    shares = Shares(SimpleNamespace(sockets=0), MOST)
    for number in range(100):
        assert shares.keep(f"s{number}", number, 10)
    for number in range(100):
        assert shares.keep(f"s{number}", number, -10)
    assert not shares._kept
    assert module.KEPT > 1 << 20
