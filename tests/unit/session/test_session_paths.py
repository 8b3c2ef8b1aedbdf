import subprocess
import sys
import time

import pytest

from tpnet.model import Conflict, InvalidInput, Refused, TpnetError
from tpnet.session.paths import Paths, locked

ROUNDS = 40
CONTENDER = """
import os, sys
from pathlib import Path
from tpnet.session.paths import locked
path, inside = Path(sys.argv[1]), sys.argv[2]
for _ in range(int(sys.argv[3])):
    with locked(path, 20, "too long"):
        os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
        os.unlink(inside)
"""


def test_a_path_that_no_socket_can_have_is_said_before_anything_is_made(tmp_path):
    deep = tmp_path / ("d" * (108 - len(str(tmp_path / "sessions" / "bob.sock")) - 1))
    with pytest.raises(InvalidInput, match="too long for a socket: 108 bytes, where 107 are allowed"):
        Paths.of(deep, "bob").make_folder()
    assert not deep.exists()
    Paths.of(deep.parent / deep.name[1:], "bob").make_folder()


def test_paths_are_only_names(tmp_path):
    paths = Paths.of(tmp_path / "run", "bob")
    assert paths.socket == tmp_path / "run" / "sessions" / "bob.sock"
    assert not (tmp_path / "run").exists()
    paths.make_folder()
    paths.make_folder()
    assert paths.lock.parent.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_may_change_is_refused(tmp_path):
    paths = Paths.of(tmp_path / "run", "bob")
    paths.make_folder()
    (tmp_path / "run").chmod(0o777)
    with pytest.raises(Refused, match="is not this account's alone"):
        paths.make_folder()
    (tmp_path / "run").chmod(0o755)
    (tmp_path / "run" / "sessions").rmdir()
    (tmp_path / "run" / "sessions").symlink_to(tmp_path)
    with pytest.raises(Refused, match="is not this account's alone"):
        paths.make_folder()


def test_a_folder_of_another_s_is_refused(tmp_path, monkeypatch):
    paths = Paths.of(tmp_path / "run", "bob")
    paths.make_folder()
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    with pytest.raises(Refused, match="is not this account's alone"):
        paths.make_folder()


@pytest.mark.parametrize("user", ["", "../eve", "a/b", "x" * 65, ".hidden", "a\n"])
def test_odd_users_have_no_paths(user, tmp_path):
    with pytest.raises(InvalidInput, match="cannot be used"):
        Paths.of(tmp_path, user)


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(TpnetError, match="cannot be made") as error:
        Paths.of(tmp_path / "file", "bob").make_folder()
    assert "TPNET_RUN_DIR" in error.value.hint

    def refused(*args, **more):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.mkdir", refused)
    with pytest.raises(Refused, match="by this account"):
        Paths.of(tmp_path, "bob").make_folder()


def test_a_lock_leaves_no_file(tmp_path):
    path = tmp_path / "lock"
    with locked(path, 1, "held"):
        assert path.exists()
        begun = time.monotonic()
        with pytest.raises(Conflict, match="held"), locked(path, 0.1, "held"):
            pass
        assert 0.1 <= time.monotonic() - begun < 10
        assert path.exists()
    assert not path.exists()


def test_the_lock_of_a_removed_file_is_none(tmp_path):
    path = tmp_path / "lock"
    with locked(path, 1, "held"):
        path.unlink()
        with locked(path, 1, "held"):  # somebody tidied up by hand: the name is free, and taken anew
            assert path.exists()


def test_a_file_that_a_killed_holder_left_is_taken_over(tmp_path):
    path = tmp_path / "lock"
    path.touch()
    with locked(path, 0, "held"):
        pass
    assert not path.exists()


def test_of_many_at_once_one_holds_it(tmp_path):
    path = tmp_path / "lock"
    argv = [sys.executable, "-c", CONTENDER, str(path), str(tmp_path / "inside"), str(ROUNDS)]
    contenders = [subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) for _ in range(5)]
    for contender in contenders:
        assert contender.communicate(timeout=50)[1] == ""
        assert contender.returncode == 0
    assert list(tmp_path.iterdir()) == []
