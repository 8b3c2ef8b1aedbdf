"""An agent that ends in an orderly way and the next one, under load: nobody notices."""

import contextlib

import pytest
from agent_lab import Agent
from books import judge
from faults import Watch, away, overlapping_restart, restart
from laptops import Stage


@pytest.fixture
def own():
    """A stage at an agent of this test's own."""
    with contextlib.closing(Agent()) as agent:
        agent.start()
        with contextlib.closing(Stage(agent)) as stage:
            yield stage


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_restarts_under_load_fail_nothing_and_keep_a_developer_away_for_a_second(own):
    with own.load(rate=200, slow=4, slow_seconds=6, most=40) as load:
        load.wait_for(own.bob.name, own.bob.name)
        watch = Watch(own, load)
        for step in (restart, overlapping_restart, overlapping_restart, restart):
            load.wait(100)
            watch.run(step)
        load.wait(100)
    watch.ended()
    assert not watch.harmed(), "\n".join(map(str, watch.harmed()))
    assert not (wrong := judge(load, own.books)), "\n".join(wrong)
    assert sum(entry.seconds > 5 and not entry.error for entry in load.entries) >= 8
    # The time until the next agent answers, which the machine's load stretches, and as much again for the session.
    assert away(load, own.bob.name) < 1 + 3 * max(own.agent.starts)
