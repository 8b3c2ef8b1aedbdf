"""The size of the path: what is asked, and what is concluded from which echoes. A simulated path, no time passes."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpnet.tunnel.path import FULL, GROW_EVERY, LADDER, PROVE_EVERY, SMALLEST, PathSize


class Simulation:
    """A path that passes packets up to ``limit`` bytes, but for those that are lost; and the seconds."""

    def __init__(self, limit=FULL, loss=0.0, seed=0, round_trip=0.05):
        self.path, self.now, self.limit, self.loss, self.round_trip = (
            PathSize(),
            100.0,
            limit,
            loss,
            round_trip,
        )
        self.random = random.Random(seed)
        self.sent = []
        self.on_the_way = []

    def run(self, seconds):
        end = self.now + seconds
        while self.now < end:
            for size in self.path.due(self.now, self.round_trip):
                self.sent.append((self.now, size))
                if size <= self.limit and self.random.random() >= self.loss:
                    self.on_the_way.append((self.now + self.round_trip, size))
            for arrives, size in [one for one in self.on_the_way if one[0] <= self.now]:
                self.on_the_way.remove((arrives, size))
                self.path.echoed(size)
            self.now += 0.1
        return self.path.size


def fits(limit):
    return max((size for size in LADDER if size <= limit), default=0)


def test_whole_path_costs_a_probe_every_few_seconds():
    world = Simulation()
    assert world.run(60) == FULL
    assert [size for _, size in world.sent] == [FULL, 0] * (len(world.sent) // 2)
    assert len(world.sent) // 2 <= 60 / PROVE_EVERY + 1


@given(limit=st.integers(SMALLEST, FULL), round_trip=st.sampled_from([0.001, 0.05, 0.4]))
@settings(deadline=None)
def test_size_that_passes_is_found_soon(limit, round_trip):
    world = Simulation(limit, round_trip=round_trip)
    assert world.run(1.6 if round_trip < 0.15 else 4.5) == fits(limit)
    assert world.run(120) == fits(limit)


def test_only_small_packets_pass():
    world = Simulation(limit=400)
    assert world.run(3) == 0
    world.limit = FULL
    assert world.run(PROVE_EVERY + GROW_EVERY + 3) == FULL


@pytest.mark.parametrize("limit", [600, 1000, 1240])
def test_path_that_shrinks_and_heals_is_followed(limit):
    world = Simulation()
    world.run(20)
    world.limit = limit
    assert world.run(PROVE_EVERY + 2) == fits(limit)
    world.run(20)
    world.limit = FULL
    assert world.run(PROVE_EVERY + GROW_EVERY + 3) == FULL


def test_silence_of_everything_says_nothing_of_the_size():
    world = Simulation()
    world.run(20)
    world.limit = -1
    assert world.run(30) == FULL


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=50)
def test_a_few_lost_packets_change_nothing(seed):
    """At five lost of a hundred, all four tries of one size are lost once in 160,000 looks."""
    world = Simulation(loss=0.05, seed=seed)
    assert world.run(60) == FULL


def test_another_path_is_looked_at_at_once():
    world = Simulation(limit=900)
    world.run(10)
    assert world.path.size == fits(900)
    world.limit = FULL
    world.path.restart()
    assert world.run(1) == FULL
