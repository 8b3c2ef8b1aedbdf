"""The cluster for tests: brought up once a session, or, with TPNET_CLUSTER, one that stands already."""

import os
from pathlib import Path

import pytest
from agent_bed import Bed
from kubelab import Cluster
from policy_cast import agents, bobs, bobs_session, cast, installed, tokens

# For test_policy_people.py and test_policy_agents.py.
__all__ = ["agents", "bobs", "bobs_session", "cast", "installed", "tokens"]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """The longest first: the end is not to wait for one of them. A test that says nothing else has 300 s, without fixtures."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(300, func_only=True))


@pytest.fixture(scope="session")
def cluster():
    """Two nodes and two laptops over IPv4."""
    if standing := os.environ.get("TPNET_CLUSTER"):
        yield Cluster.attach(standing)
        return
    yield from owned(dual=False)


@pytest.fixture(scope="module")
def dual_cluster():
    """Two nodes and two laptops over IPv4 and IPv6."""
    yield from owned(dual=True)


@pytest.fixture(scope="module")
def bed(cluster):
    """Agents on all nodes, as processes."""
    bed = Bed(cluster)
    try:
        bed.start()
        yield bed
    finally:
        bed.close()


@pytest.fixture
def namespace(cluster):
    """A Kubernetes namespace of the test's own; its end is begun, not awaited."""
    with cluster.namespace(wait=False) as name:
        yield name


def owned(dual):
    """A cluster that lasts as long as these tests, however they end."""
    made = Cluster.up(dual=dual)
    try:
        yield made
    finally:
        made.down()
