import os
import re
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorials" / "first-intercept.md"


def steps():
    """Each command of the tutorial with what the tutorial shows of its output."""
    for block in re.findall(r"^```\n\$ (.*?)^```", TUTORIAL.read_text(), re.DOTALL | re.MULTILINE):
        command, _, output = block.partition("\n")
        yield command, output


def plain(text):
    """Without what differs from run to run: times, the machine's name, versions, and the blanks after them."""
    text = re.sub(r"@\S+", "@laptop", text)
    text = re.sub(r"\d+(\.\d+)? m?s( ago)?\b|\bnow\b", "", text)
    text = re.sub(r"curl/\S+", "curl/N", text)
    return [" ".join(line.split()) for line in text.strip().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_tutorial_s_commands_do_what_it_shows(labs):
    name = f"t{uuid4().hex[:6]}"
    env = {
        **os.environ,
        "TPNET_LAB_DIR": str(labs),
        "COLUMNS": "100",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    played = 0
    try:
        for command, expected in steps():
            command = re.sub(r"tpnet lab (up|down|exec)", rf"tpnet lab \1 --name {name}", command)
            command = command.replace("lab-shop", f"{name}-shop")
            done = subprocess.run(
                ["sh", "-c", f"{command} 2>&1"],
                env=env,
                capture_output=True,
                text=True,
                timeout=100,
                check=False,
            )
            shown = plain(done.stdout.replace(f"{name}-", "lab-").replace(f"{name} is gone", "lab is gone"))
            if " up " in command:
                shown = shown[: len(plain(expected))]  # what to try next is told by the tutorial itself
            assert shown == plain(expected), command
            assert done.returncode == (4 if "✗" in expected else 0)
            played += 1
    finally:
        if (labs / name).exists():
            subprocess.run(
                ["tpnet", "lab", "down", "--name", name], env=env, check=True, stdout=subprocess.DEVNULL
            )
    assert played >= 10
