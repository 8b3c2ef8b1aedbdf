"""An agent that starts where somebody has been before it: names squatted, links laid, a folder for everybody."""

import os
import shutil
import socket
import stat
import subprocess

import pytest
from agent_lab import Agent, AgentLab, wait_until
from worker_lab import UID


@pytest.fixture
def agent():
    made = Agent()
    yield made
    made.close()


def plant(kind, path, victim):
    if kind == "link":
        path.symlink_to(victim)
    elif kind == "folder of another's":
        (path / "in").mkdir(parents=True)
        for folder in (path, path / "in"):
            os.chown(folder, UID, UID)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "file of another's":
        path.write_text('{"version": 1, "namespaces": {"1": {"label": "x", "changes": {}}}}')
        os.chown(path, UID, UID)
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))


@pytest.mark.parametrize("kind", ["link", "folder of another's", "pipe", "file of another's", "dead socket"])
def test_names_that_were_planted_before_the_start_do_not_matter(agent, kind, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    names = ("state.json", "state.new", "agent.sock")
    for name in names:
        plant(kind, agent.run_dir / name, victim)
    agent.start()
    lab = AgentLab(agent)
    try:
        lab.pod.app(8080, "the app")
        lab.session()
        lab.create()
        for name in ("state.json", "agent.sock"):
            status = (agent.run_dir / name).lstat()
            assert status.st_uid == 0
            assert stat.S_IMODE(status.st_mode) == 0o600
            assert stat.S_ISREG(status.st_mode) or stat.S_ISSOCK(status.st_mode)
        assert victim.read_text() == "precious"
    finally:
        lab.close()
    assert agent.stop() == 0, agent.words()
    assert not any(os.path.lexists(agent.run_dir / name) for name in ("state.json", "agent.sock"))


def test_a_run_directory_in_which_others_may_write_is_refused(agent):
    agent.run_dir.chmod(0o777)
    process = agent.launch()
    assert process.wait(20) != 0
    assert "can be written by others" in agent.words()
    assert stat.S_IMODE(agent.run_dir.stat().st_mode) == 0o777


@pytest.mark.parametrize("mode", ["0777", "1777"], ids=["on disk", "in memory"])
def test_a_container_s_volume_is_made_the_agent_s_own(agent, mode):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode={mode}", "tpnet-test", agent.run_dir], check=True)
    try:
        agent.start()
        assert stat.S_IMODE(agent.run_dir.stat().st_mode) == 0o700
        assert agent.stop() == 0, agent.words()
    finally:
        agent.stop()
        subprocess.run(["umount", "-l", agent.run_dir], check=True)
        shutil.rmtree(agent.run_dir)


def test_the_worker_s_user_can_write_nothing_that_the_agent_has_made(agent):
    agent.start()
    lab = AgentLab(agent)
    try:
        lab.pod.app(8080, "the app")
        lab.session()
        lab.create()
        wait_until((agent.run_dir / "state.json").exists)
        done = subprocess.run(
            ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "find", agent.run_dir, "-writable"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.stdout == ""
        mine = subprocess.run(
            ["find", agent.run_dir, "!", "-uid", "0"], capture_output=True, text=True, check=True
        )
        assert mine.stdout == ""
    finally:
        lab.close()
