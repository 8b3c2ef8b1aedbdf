"""An agent that ends in an orderly way and the next one, under load: nobody notices."""

import contextlib

import pytest
from agent_lab import Agent
from books import judge
from faults import Watch, away, restart
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
        for _ in range(3):
            load.wait(100)
            watch.run(restart)
        load.wait(100)
    assert not watch.harmed(), "\n".join(map(str, watch.harmed()))
    assert not (wrong := judge(load, own.books)), "\n".join(wrong)
    assert sum(entry.seconds > 5 and not entry.error for entry in load.entries) >= 8
    assert away(load, own.bob.name) < 2
