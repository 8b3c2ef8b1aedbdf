import secrets

import pytest
from soak import soak


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_twenty_seconds_of_faults_harm_nobody():
    """What it prints, and with it the seed, is shown when it fails."""
    assert soak(20, seed=secrets.randbelow(1_000_000), rate=100, slow_seconds=4) == []
