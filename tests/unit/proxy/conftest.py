"""A worker's own parts, over sockets of this process."""

import pytest
from worker_home import WorkerHome


@pytest.fixture
def home():
    """A target with one intercept, whose session is up."""
    with WorkerHome() as home:
        home.rules()
        home.set_session()
        yield home
