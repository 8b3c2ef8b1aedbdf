"""The cluster for tests: brought up once a session, or, with TPNET_CLUSTER, one that stands already."""

import os
from pathlib import Path

import pytest
from kubelab import Cluster
from kubelab.runs import reaper

# A first run builds Kubernetes, within the time of whichever test comes first.
BUILD_SECONDS = 1800


def pytest_collection_modifyitems(items):
    """Room for a cold build in each test's time limit, where it has none of its own."""
    for item in items:
        if Path(__file__).parent in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(180, func_only=True))


@pytest.fixture(scope="session")
def cluster():
    """Two nodes and two laptops over IPv4."""
    if standing := os.environ.get("TPNET_CLUSTER"):
        yield Cluster.attach(standing)
        return
    yield from owned(dual=False)


@pytest.fixture(scope="session")
def dual_cluster():
    """Two nodes and two laptops over IPv4 and IPv6."""
    yield from owned(dual=True)


@pytest.fixture
def namespace(cluster):
    """A Kubernetes namespace of the test's own."""
    with cluster.namespace() as name:
        yield name


def owned(dual):
    """A cluster that lasts as long as these tests, however they end."""
    made = Cluster.up(dual=dual)
    try:
        with reaper(made.folder):
            yield made
    finally:
        made.down()
