"""The agent's pod goes and comes under load, as in an upgrade: nobody notices but who is intercepted, and he not for long."""

import pytest
from restarts import installed, reach


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_restarts_of_an_agent_s_pod_under_load_fail_nothing(cluster, namespace):
    more = {"rate": 100, "slow": 4, "slow_seconds": 6.0, "most": 40}
    with installed(cluster):
        wrong, stage = reach(cluster, namespace, restarts=4, requests=0, **more)
    assert wrong == []
    assert sum(entry.seconds > 5 and not entry.error for entry in stage.load.entries) >= 8
    assert (
        max(stage.beyond) < 30
    )  # on a calm machine less than two; three tests at once on two cores take their time
