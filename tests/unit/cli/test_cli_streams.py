import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tpnet_cli import streams
from tpnet_cli.main import run

TPNET = [sys.executable, "-m", "tpnet_cli"]


def tpnet(*args, **more):
    return subprocess.run([*TPNET, *args], stderr=subprocess.PIPE, timeout=20, check=False, **more)


def with_env(**more):
    return {**os.environ, **more}


@pytest.mark.parametrize(
    "args", [["--help"], ["list"], ["list", "-o", "json"], ["list", "-o", "yaml"], ["watch"], ["version"]]
)
def test_a_full_disk_is_a_sentence(args, agent):
    agent.busy()
    with Path("/dev/full").open("wb") as full:
        done = tpnet(*args, stdout=full)
    assert done.returncode == 1
    first, *rest = done.stderr.decode().splitlines()
    assert first == "✗ The output could not be written: No space left on device."
    assert len(rest) == 1


def test_complaints_that_cannot_be_written_leave_the_exit_code(home):
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*TPNET, "list"], stdout=full, stderr=full, timeout=20, check=False)
    assert done.returncode == 5


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(closed, agent):
    agent.busy()
    line = " ".join([*TPNET, "list", closed])
    done = subprocess.run(["sh", "-c", line], capture_output=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_nobody_who_reads_is_no_error(agent):
    agent.busy()
    line = f"{' '.join(TPNET)} list | true; {' '.join(TPNET)} status | head -n 0"
    done = subprocess.run(["sh", "-c", line], capture_output=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


CHARSETS = [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}]


@pytest.mark.parametrize("env", CHARSETS)
@pytest.mark.parametrize(
    "args",
    [
        ["list"],
        ["status"],
        ["watch", "--once", "-o", "wide"],
        ["list", "-o", "json"],
        ["list", "-o", "yaml"],
        ["leave", "n\xf6pe"],
        ["intercept", "--help"],
    ],
)
def test_a_terminal_without_our_signs_gets_others(args, env, agent):
    agent.busy()
    done = tpnet(*args, stdout=subprocess.PIPE, env=with_env(**env))
    charset = "latin-1" if env.get("PYTHONIOENCODING") == "latin-1" else "ascii"
    out, err = done.stdout.decode(charset), done.stderr.decode(charset)
    assert "Traceback" not in err
    assert done.returncode == (5 if args[0] == "leave" else 0)
    assert "\\u" not in err
    if args[0] == "leave":
        assert err.startswith("x There is no intercept n")
    if args == ["list"]:
        assert "/api~" in out


def test_columns_stay_where_they_are(agent):
    agent.busy()
    ascii_, utf8 = (
        tpnet("status", stdout=subprocess.PIPE, env=with_env(**env)).stdout.decode()
        for env in ({"LC_ALL": "C"}, {"PYTHONIOENCODING": "utf-8"})
    )
    assert [len(line) for line in ascii_.splitlines()] == [len(line) for line in utf8.splitlines()]


@pytest.mark.parametrize("env", CHARSETS)
def test_data_loses_nothing(env, agent):
    from cli_samples import EXPLANATION

    from tpnet.model.codec import encode

    whole = {**encode(EXPLANATION), "reason": "gr\xfcn ✓ …"}
    agent.answers["explain"] = whole
    done = tpnet("explain", "a", "-o", "json", stdout=subprocess.PIPE, env=with_env(**env))
    assert json.loads(done.stdout.decode("ascii"))["reason"] == whole["reason"]


def test_bytes_that_are_no_text_can_be_said(agent, capsys):
    done = tpnet("intercept", b"\xff", "--http-header", b"a=\xfe", stdout=subprocess.PIPE)
    assert b"Traceback" not in done.stderr
    assert done.returncode in {1, 2, 5}


def test_every_sign_has_one_in_its_place():
    stream = streams.PlainStream(io.TextIOWrapper(io.BytesIO(), "ascii"), "ascii")
    streams.codecs.register_error(streams._ERRORS, streams._stand_in)
    assert stream.write("✓ a… ✗·▶ \xe9 \u280b\n") == 13
    stream.flush()
    assert stream.buffer.getvalue() == b"+ a~ x-> ? *\n"


def test_what_the_shell_closed_leads_nowhere():
    code = (
        "import sys\n"
        "from tpnet_cli import streams\n"
        "streams.prepare()\n"
        "print('lost'); print('lost', file=sys.stderr)\n"
        "assert sys.stdin.read() == ''\n"
        "sys.exit(open('/dev/null').fileno())\n"
    )
    done = subprocess.run(
        ["sh", "-c", f'{sys.executable} -c "$0" <&- >&- 2>&-', code],
        timeout=20,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 3


@pytest.mark.parametrize("module", ["click", "rich.text", "tpnet.model.errors"])
def test_ctrl_c_while_something_is_imported(module, agent, tmp_path):
    # In the place of the module, one that takes for ever.
    script = tmp_path / "slow.py"
    script.write_text(
        "import sys, time\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            print('now', flush=True)\n"
        "            time.sleep(20)\n"
        "sys.meta_path.insert(0, Slow())\n"
        "sys.argv[1:] = ['list']\n"
        "from tpnet_cli.main import main\n"
        "main()\n"
    )
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    ) as process:
        assert process.stdout.readline() == b"now\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert err == b"\n"


def test_an_interrupt_that_python_has_wrapped_is_one(monkeypatch, home, capsys):
    def wrapped(self):
        raise RuntimeError("Error calling __set_name__") from KeyboardInterrupt()

    monkeypatch.setattr("tpnet.control.local.LocalControl.status", wrapped)
    assert run(["list"]) == 130
    assert capsys.readouterr().err == "\n"


def test_a_file_that_may_not_be_made_is_a_sentence(monkeypatch, home, capsys):
    def refused(self):
        raise PermissionError(13, "Permission denied", "/run/tpnet/x")

    monkeypatch.setattr("tpnet.control.local.LocalControl.status", refused)
    assert run(["list"]) == 1
    assert capsys.readouterr().err == "✗ /run/tpnet/x: Permission denied.\n"


def test_an_error_of_our_own_is_not_hidden(monkeypatch, home):
    def odd(self):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr("tpnet.control.local.LocalControl.status", odd)
    with pytest.raises(OSError, match="Invalid argument"):
        run(["list"])
