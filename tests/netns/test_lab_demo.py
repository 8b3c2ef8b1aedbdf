import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_lab_network import everything_of

TPNET = [sys.executable, "-m", "tpnet_cli"]


@pytest.fixture
def env(labs):
    return {**os.environ, "TPNET_LAB_DIR": str(labs), "COLUMNS": "100", "NO_COLOR": "1"}


def lab_in(env):
    folder = Path(env["TPNET_LAB_DIR"])
    labs = [path.name for path in folder.iterdir()] if folder.exists() else []
    return labs[0] if labs else None


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_demo_plays_the_whole_story_and_every_expectation_holds(env):
    done = subprocess.run(
        [*TPNET, "lab", "demo"], env=env, capture_output=True, text=True, timeout=220, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    held, expected = re.search(r"(\d+) of (\d+) expectations held", done.stdout).groups()
    assert held == expected
    assert int(expected) >= 40
    assert "✗" not in done.stdout
    assert "\x1b" not in done.stdout
    scenes = [line[0] for line in done.stdout.splitlines() if re.match(r"\d  ", line)]
    assert scenes == list("01234567")
    assert lab_in(env) is None
    assert everything_of(re.search(r"demo-[0-9a-f]{6}", done.stdout).group()) == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130)])
def test_demo_cleans_up_when_it_is_interrupted(number, code, env):
    process = subprocess.Popen(
        [*TPNET, "lab", "demo"],
        env={**env, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # What a shell starts in the background ignores SIGINT, and so would all that is started from there.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  no threads here
    )
    try:
        for line in process.stdout:
            if line.startswith("2  "):
                break
        name = lab_in(env)
        assert name is not None
        time.sleep(0.3)
        os.killpg(process.pid, number)
        rest = process.stdout.read()
        assert process.wait(30) == code, rest
        assert "Traceback" not in rest
    finally:
        process.stdout.close()
        process.kill()
        process.wait(30)
    assert everything_of(name) == ([], [])
    assert lab_in(env) is None


@pytest.mark.slow
def test_demo_tells_an_expectation_that_does_not_hold(env):
    script = (
        "import sys\n"
        "from tpnet_cli.lab import story\n"
        "from tpnet_cli.lab.stage import Request\n"
        "story.play = lambda stage: (stage.scene('one'), stage.expect(Request('client-1', 'shop-1'), by='bob'),"
        " stage.end_scene())\n"
        "from tpnet_cli.main import main\n"
        "main(['lab', 'demo'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 1
    assert "0 of 1 expectations held" in done.stdout
    assert "bob was expected, shop-1, seen from 10.77.0.11 came" in done.stdout
    assert lab_in(env) is None
