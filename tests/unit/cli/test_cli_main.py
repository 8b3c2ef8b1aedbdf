import json
import os
import subprocess
import sys
import time

import cli_samples as samples
import click
import pytest

from tpnet.model import Conflict, InvalidInput, NotThere, Refused, TpnetError
from tpnet_cli import main
from tpnet_cli.group import cli
from tpnet_cli.main import run

HEAVY = [
    "rich",
    "pyroute2",
    "pydantic",
    "cryptography",
    "scapy",
    "kubernetes",
    "bcc",
    "re2",
    "yaml",
    "asyncio",
]
LOADED = "import sys, json; sys.stderr.write(json.dumps(sorted(sys.modules)))"


def all_commands(command=cli, path=()):
    context = click.Context(command)
    yield path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from all_commands(command.get_command(context, name), (*path, name))


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        [],
        ["intercept", "--help"],
        ["lab", "--help"],
        ["agent", "--help"],
        ["version", "--client"],
    ],
)
def test_help_imports_nothing_heavy(args):
    code = f"import atexit\natexit.register(lambda: exec({LOADED!r}))\nfrom tpnet_cli.main import main\nmain({args!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stderr))
    assert not [name for name in HEAVY if name in loaded]


def test_help_takes_less_than_200_ms_of_cpu():
    def cpu():
        before = os.times()
        subprocess.run([sys.executable, "-m", "tpnet_cli", "--help"], stdout=subprocess.DEVNULL, check=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(cpu() for _ in range(3)) < 0.2


def test_every_command_has_help_and_a_line_in_its_group(capsys):
    for path, _ in all_commands():
        assert run([*path, "--help"]) == 0
        assert "Usage: " in capsys.readouterr().out


def test_lines_in_the_list_of_commands_are_those_of_commands_that_exist():
    names = {path for path, _ in all_commands()}
    assert ("lab", "up") in names
    assert ("agent", "run") in names


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TpnetError("It broke.", "Mend it."), 1),
        (InvalidInput("It is odd.", "Mend it."), 2),
        (Refused("You may not.", "Mend it."), 3),
        (Conflict("It is taken.", "Mend it."), 4),
        (NotThere("It is gone.", "Mend it."), 5),
    ],
)
def test_errors_are_a_sentence_and_a_hint_on_stderr(error, code, agent, capsys):
    agent.answers["status"] = error
    assert run(["list"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"✗ {error.message}\n  Mend it.\n"


def test_a_terminal_gets_lines_of_whole_words(agent, monkeypatch):
    words = "word " * 40 + "/a/path/that-is-not/to-be-cut"
    agent.answers["status"] = NotThere(words, words)
    terminal = samples.Tty()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    assert run(["list"]) == 5
    lines = terminal.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("✗ word")
    assert all(line.startswith("  ") for line in lines[1:])
    assert " ".join(" ".join(lines).split()) == f"✗ {words} {words}"


def test_no_agent_is_said_with_the_way_to_start_one(home, capsys):
    assert run(["status"]) == 5
    err = capsys.readouterr().err
    assert err.startswith("✗ No agent answers at ")
    assert "tpnet agent run --local" in err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["intrcept"], "✗ There is no command intrcept. Did you mean intercept?"),
        (["xyzzy"], "✗ There is no command xyzzy."),
        (["list", "--nope"], "✗ No such option '--nope'"),
        (["lab", "upp"], "Did you mean up?"),
        (["intercept"], "✗ Missing argument 'TARGET'."),
        (["leave"], "✗ Name the intercepts to leave, or use --all"),
        (["status", "-o", "xml"], "✗ Invalid value"),
    ],
)
def test_usage_errors_look_alike_and_exit_2(args, says, home, capsys):
    assert run(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert "  Try: tpnet" in err


def test_ctrl_c_exits_130_without_a_traceback(monkeypatch, home, capsys):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("tpnet.control.local.LocalControl.status", interrupted)
    assert run(["list"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_main_exits_with_the_code(home, capsys):
    with pytest.raises(SystemExit) as stop:
        main.main(["status"])
    assert stop.value.code == 5


def test_a_reader_that_stops_early_is_no_error(agent):
    agent.busy()
    code = "import sys; from tpnet_cli.main import main; main(['status', '-o', 'json'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(20) == 0
    assert err == b""


def test_completion_lists_commands_without_importing_them(home):
    env = {**os.environ, "_TPNET_COMPLETE": "bash_complete", "COMP_WORDS": "tpnet le", "COMP_CWORD": "1"}
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tpnet_cli"], env=env, capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout.split() == ["plain,leave"]
    assert time.monotonic() - begun < 10
