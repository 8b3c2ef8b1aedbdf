"""Where a handler listens, as development servers do it, and how people write that."""

import os
import re
import subprocess
import sys

import pytest
from agent_lab import wait_until
from laptops import answer, request
from servers import node


def tpnet(stage, *words):
    """The command line on bob's laptop: its exit code, and what it said."""
    env = {**os.environ, "TPNET_RUN_DIR": str(stage.lab.agent.run_dir), "COLUMNS": "100", "NO_COLOR": "1"}
    with stage.bob.laptop.entered():
        done = subprocess.run(
            [sys.executable, "-m", "tpnet_cli", *words, "--user", stage.bob.name],
            env=env,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def intercept(stage):
    """``intercept("--to", "localhost")``: what the command said; it takes the requests with ``x-vite``."""
    stage.plays()

    def make(*more):
        return tpnet(
            stage,
            *("intercept", stage.pod.name, "--local", "--port", "5173:8080"),
            *("--http-header", f"X-Vite={stage.bob.name}", "--name", "vite", *more),
        )

    yield make
    if any(item.intercept.name == "vite" for item in stage.control.status().intercepts):
        stage.bob.client.remove("vite")


def reaches(stage):
    with stage.connect() as sock:
        sock.sendall(request(more=b"x-vite: %s\r\n" % stage.bob.name.encode()))
        return answer(sock)


SIX = ["", "::1", "[::1]", "localhost", "[::1]:5173", "localhost:5173"]
FOUR = ["", "127.0.0.1", "localhost", "127.0.0.1:5173", "localhost:5173"]


@pytest.mark.parametrize(
    ("address", "to"), [*(("::1", to) for to in SIX), *(("127.0.0.1", to) for to in FOUR)]
)
def test_a_handler_on_one_family_s_loopback_alone_is_found(stage, intercept, address, to):
    server = node(stage.bob.laptop, 5173, stage.lab.folder, "vite", address=address)
    try:
        code, said = intercept(*(["--to", to] if to else []))
        assert code == 0, said
        assert "nothing listens" not in said
        assert reaches(stage) == (200, "vite")
    finally:
        server.close()


def test_a_handler_that_starts_again_on_the_other_family_is_found(stage, intercept):
    server = node(stage.bob.laptop, 5173, stage.lab.folder, "first", address="127.0.0.1")
    try:
        code, said = intercept()
        assert code == 0, said
        assert reaches(stage) == (200, "first")
    finally:
        server.close()
    server = node(stage.bob.laptop, 5173, stage.lab.folder, "second", address="::1")
    try:
        wait_until(lambda: reaches(stage) == (200, "second"))
    finally:
        server.close()


def test_an_unknown_host_is_told_as_unknown(intercept):
    _, said = intercept("--to", "no-such-host.invalid")
    assert "no-such-host.invalid" in said
    assert "nothing listens" not in said
    assert re.search(r"(?i)unknown|not known|no host|no such host|cannot be (found|resolved)", said), said
