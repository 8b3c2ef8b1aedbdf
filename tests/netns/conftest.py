"""Fixtures for tests that need root and network namespaces."""

import contextlib
import tempfile
from pathlib import Path

import pytest
from agent_lab import Agent
from laptops import Scene, Stage
from podnet import PodNet


@pytest.fixture
def labs():
    """A folder for labs; of a short path, as sockets are in it."""
    with tempfile.TemporaryDirectory(prefix="tpnet-") as folder:
        yield Path(folder)


@pytest.fixture
def podnet():
    """A client and one pod."""
    net = PodNet()
    yield net
    net.close()


@pytest.fixture(scope="module")
def net():
    """A client and one pod for all tests of a file, each of which leaves nothing there."""
    net = PodNet()
    yield net
    net.close()


@pytest.fixture(scope="module")
def agent():
    """An agent for all tests of a file, none of which kills it."""
    with contextlib.closing(Agent()) as agent:
        yield agent.start()


@pytest.fixture
def scene(agent):
    """A pod and a developer of this test's own, at the file's agent."""
    with contextlib.closing(Scene(agent)) as scene:
        yield scene


@pytest.fixture(scope="module")
def stage(agent):
    """A pod, and a developer who intercepts it, for all tests of a file; each says what app and handler do."""
    with contextlib.closing(Stage(agent)) as stage:
        yield stage


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


@pytest.fixture(scope="session")
def signs():
    """Signs of life for redirects that no worker serves."""
    from tpnet.kernel.signs import Signs

    with contextlib.closing(Signs.create()) as signs:
        yield signs
