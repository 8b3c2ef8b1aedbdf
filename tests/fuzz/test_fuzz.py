"""A short run of every fuzz target, and everything again that one has ever found. The long one: make fuzz SECONDS=3600."""

import subprocess
import sys
from pathlib import Path

import fuzz
import pytest

TARGETS = fuzz.load()
FOUND = sorted(path for path in (Path(__file__).parent / "found").glob("*/*") if path.is_file())


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_what_each_begins_with(name):
    for seed in TARGETS[name].seeds:
        TARGETS[name].run(seed)


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_was_found_stays_mended(path):
    TARGETS[path.parent.name].run(path.read_bytes())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_short_run_finds_nothing():
    done = subprocess.run(
        [sys.executable, str(Path(fuzz.__file__)), "--fresh", "--seconds", str(len(TARGETS))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
