"""Fixtures for tests that need root and network namespaces."""

import pytest
from podnet import PodNet


@pytest.fixture
def podnet():
    """A client and one pod."""
    net = PodNet()
    yield net
    net.close()


@pytest.fixture
def make_podnet():
    """``make_podnet(pods=2)``: a client and several pods."""
    made = []

    def make(pods=1):
        made.append(PodNet(pods))
        return made[-1]

    yield make
    for net in made:
        net.close()


@pytest.fixture(scope="session")
def program():
    """The redirect's BPF program, compiled once."""
    from tpnet.datapath.program import compile_program

    return compile_program()
