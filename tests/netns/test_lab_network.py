import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest

from tpnet.datapath.netns import NAMED, NetNs
from tpnet.model import Conflict, NotThere, TpnetError
from tpnet_cli.lab import build, plan, processes
from tpnet_cli.lab.plan import PLACES, lab_paths
from tpnet_cli.lab.record import existing, load
from tpnet_cli.lab.stage import Request, Stage
from tpnet_cli.main import run
from tpnet_cli.terminal import make_console

TPNET = [sys.executable, "-m", "tpnet_cli"]


def everything_of(name):
    """Namespaces and processes that a lab of that name has, or has left."""
    spaces = [path.name for path in NAMED.glob(f"{name}-*")]
    mine = []
    for pid in processes.processes():
        try:
            text = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if f"/{name}/".encode() in text or f"TPNET_LAB={name}\0".encode() in text:
            mine.append((pid, text[:120]))
    return spaces, [entry for entry in mine if processes.start_time(entry[0]) is not None]


@pytest.fixture
def paths(monkeypatch, labs):
    monkeypatch.setenv("TPNET_LAB_DIR", str(labs))
    paths = lab_paths(f"t{uuid4().hex[:6]}")
    yield paths
    if paths.record.exists():
        build.down(paths)
    assert everything_of(paths.name) == ([], [])


@pytest.fixture
def no_agent(monkeypatch):
    """The network alone: quicker, for what is not about the agent."""
    monkeypatch.setattr(build, "_start_agent", lambda *_: None)


def test_lab_goes_up_answers_in_both_families_and_goes_down(paths, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["lab", "up", "--name", paths.name]) == 0
    assert f"{paths.name} is up." in capsys.readouterr().out
    stage = Stage(paths, make_console())
    try:
        for ipv6 in (False, True):
            for shop in ("shop-1", "shop-2"):
                request = Request("client-2", shop, "/a?b", ipv6=ipv6)
                answer = stage.send(request)
                assert (answer.by, answer.peer) == (shop, request.source)
    finally:
        stage.close()
    info = subprocess.run(
        [*TPNET, "lab", "exec", "--name", paths.name, "bob", "--", "tpnet", "status", "-o", "json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(info.stdout)["agent"]["redirect"] == "ebpf"

    assert run(["lab", "up", "--name", paths.name]) == 4
    assert "is up already" in capsys.readouterr().err
    assert run(["lab", "down", "--name", paths.name]) == 0
    assert not paths.root.exists()
    assert everything_of(paths.name) == ([], [])
    assert run(["lab", "down", "--name", paths.name]) == 5


def test_exec_runs_in_the_place_with_its_names_and_exits_as_the_command_does(paths, no_agent):
    build.up(paths)
    inside = [*TPNET, "lab", "exec", "--name", paths.name]
    words = "$TPNET_USER $TPNET_PLACE $TPNET_RUN_DIR"
    done = subprocess.run(
        [*inside, "bob", "--", "sh", "-c", f"echo {words}; exit 7"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.split()) == (7, ["bob", "bob", str(paths.run_dir)])
    done = subprocess.run(
        [*inside, "client-1", "curl", "-s4", "http://shop-2/"], capture_output=True, text=True, check=False
    )
    assert done.stdout == "shop-2: GET /, client 10.77.0.11\n"
    own = Path("/etc/hosts").read_text()
    assert "shop-2" not in own
    for args, code, says in (
        (["nowhere", "true"], 2, "There are: fabric, node"),
        (["bob", "--"], 2, "which command"),
        (["bob", "no-such-program"], 5, "There is no program no-such-program."),
    ):
        done = subprocess.run([*inside, *args], capture_output=True, text=True, check=False)
        assert done.returncode == code
        assert says in done.stderr


def test_handler_answers_with_the_developer_s_name_and_what_it_received(paths, no_agent):
    build.up(paths)
    inside = [*TPNET, "lab", "exec", "--name", paths.name, "alice", "--"]
    curl = ["curl", "-s", "-d", "body", "-H", "Coder: Alice", "http://127.0.0.1:8080/x"]
    done = subprocess.run([*inside, *curl], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "alice's laptop: POST /x"
    assert "  Coder: Alice" in lines


def test_two_labs_live_beside_each_other(paths, no_agent):
    other = lab_paths(f"t{uuid4().hex[:6]}")
    build.up(paths)
    build.up(other)
    try:
        assert existing() == sorted([paths.name, other.name])
        build.down(other)
        assert len(everything_of(paths.name)[0]) == len(PLACES)
        with pytest.raises(NotThere, match="no lab called") as error:
            load(other)
        assert f"There are: {paths.name}." in error.value.hint
    finally:
        if other.record.exists():
            build.down(other)


def test_nothing_is_made_where_a_name_is_taken(paths, no_agent):
    taken = paths.netns("bob")
    subprocess.run(["ip", "netns", "add", taken], check=True)
    try:
        with pytest.raises(Conflict, match=taken):
            build.up(paths)
        assert everything_of(paths.name)[0] == [taken]
        assert not paths.root.exists()
    finally:
        subprocess.run(["ip", "netns", "delete", taken], check=True)


def test_down_leaves_a_namespace_alone_that_only_has_the_name_now(paths, no_agent):
    build.up(paths)
    name = paths.netns("client-1")
    subprocess.run(["ip", "netns", "delete", name], check=True)
    subprocess.run(["ip", "netns", "add", name], check=True)
    with NetNs.from_name(name) as stranger:
        sleeper = processes.start(stranger, "sleeper", ["sleep", "60"], dict(os.environ), paths.root / "x")
    try:
        build.down(paths)
        assert everything_of(paths.name)[0] == [name]
        assert sleeper.alive()
    finally:
        processes.end([sleeper], 1)
        subprocess.run(["ip", "netns", "delete", name], check=True)


def test_a_part_that_does_not_come_up_is_told_and_nothing_is_left(paths, monkeypatch):
    monkeypatch.setattr(build, "tpnet_command", lambda *args: [sys.executable, "-c", "exit('no luck')"])
    with pytest.raises(TpnetError, match="agent did not come up") as error:
        build.up(paths)
    assert "no luck" in error.value.hint
    assert everything_of(paths.name) == ([], [])
    assert not paths.root.exists()


@pytest.mark.parametrize("moment", ["lab.json", "shop-1.log", "bob-handler.log", "agent.log"])
def test_down_removes_what_a_killed_up_has_left(moment, paths):
    process = subprocess.Popen([*TPNET, "lab", "up", "--name", paths.name], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not (paths.root / moment).exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert (paths.root / moment).exists()
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert paths.record.exists()
    assert run(["lab", "up", "--name", paths.name]) == 4
    assert run(["lab", "down", "--name", paths.name]) == 0
    assert everything_of(paths.name) == ([], [])
    assert not paths.root.exists()


def test_without_nginx_the_way_to_get_it_is_said(paths, monkeypatch, capsys):
    monkeypatch.setattr("tpnet_cli.lab.shop.shutil.which", lambda *_, **__: None)
    assert run(["lab", "up", "--name", paths.name]) == 5
    assert "apt-get install nginx-light" in capsys.readouterr().err


def test_without_root_it_is_refused(paths, monkeypatch, capsys):
    monkeypatch.setattr(build.os, "geteuid", lambda: 1000)
    assert run(["lab", "up", "--name", paths.name]) == 3
    assert "sudo tpnet lab up" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a/b", "a" * 25])
def test_names_that_no_namespace_could_have(name, capsys):
    assert run(["lab", "up", "--name", name]) == 2
    assert "is no name for a lab" in capsys.readouterr().err


def test_the_machine_s_own_network_is_not_touched(paths, no_agent):
    def machine():
        return [
            subprocess.run(["ip", *what], capture_output=True, text=True, check=True).stdout
            for what in (["-br", "link"], ["rule"], ["route", "show", "table", "all"])
        ]

    before = machine()
    build.up(paths)
    during = machine()
    build.down(paths)
    ours = [line for text in during for line in text.splitlines() if plan.NODE.ipv4 in line or "br0" in line]
    assert ours == [line for text in before for line in text.splitlines() if "br0" in line]
