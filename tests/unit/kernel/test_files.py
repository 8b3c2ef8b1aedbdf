"""Files that are made where others have been before: links, folders, pipes and files under every name."""

import errno
import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from tpnet.kernel import files

UID = 64997


@pytest.fixture
def own(tmp_path):
    files.own_folder(tmp_path / "a" / "own")
    return tmp_path / "a" / "own"


@pytest.fixture
def victim(tmp_path):
    made = tmp_path / "victim"
    made.write_text("precious")
    yield made
    assert made.read_text() == "precious"
    assert made.stat().st_nlink <= 2


def plant(kind, path, victim):
    if kind == "link":
        path.symlink_to(victim)
    elif kind == "dangling link":
        path.symlink_to(victim.with_name("not-there"))
    elif kind == "hard link":
        os.link(victim, path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "full folder":
        (path / "in" / "it").mkdir(parents=True)
    elif kind == "link to a folder":
        path.symlink_to(victim.parent)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    elif kind == "another's file":
        path.write_text("theirs")
        if os.geteuid() == 0:
            os.chown(path, UID, UID)
        else:
            os.link(path, victim.with_name("second"))
    elif kind == "file that may not be opened":
        path.write_text("theirs")
        path.chmod(0)


KINDS = (
    "link", "dangling link", "hard link", "folder", "full folder", "link to a folder", "pipe", "socket", "another's file",
    "file that may not be opened", "nothing",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_there_a_file_is_written_and_read(own, victim, kind):
    plant(kind, own / "state.json", victim)
    files.write(own / "state.json", b"new")
    status = (own / "state.json").lstat()
    assert stat.S_ISREG(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_uid == os.geteuid()
    assert files.read(own / "state.json", 100) == b"new"
    assert not victim.with_name("not-there").exists()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_there_a_file_is_opened_and_kept(own, victim, kind):
    plant(kind, own / "log", victim)
    for line in (b"first\n", b"second\n"):
        with os.fdopen(files.open_own(own / "log", os.O_WRONLY | os.O_APPEND), "ab") as log:
            log.write(line)
            assert os.get_blocking(log.fileno())
    assert files.read(own / "log", 100).endswith(b"first\nsecond\n")
    assert not victim.with_name("not-there").exists()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_there_a_socket_is_bound(own, victim, kind):
    plant(kind, own / "agent.sock", victim)
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        files.bind(listener, own / "agent.sock")
        listener.listen()
        client.connect(str(own / "agent.sock"))
    assert stat.S_IMODE((own / "agent.sock").lstat().st_mode) == 0o600
    assert [
        path.name
        for path in own.iterdir()
        if path.name.startswith(".") and not path.name.startswith(".aside")
    ] == []


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_there_it_is_removed_and_nothing_behind_it(own, victim, kind):
    plant(kind, own / "name", victim)
    files.remove(own / "name")
    assert not os.path.lexists(own / "name")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    "kind", ["link", "hard link", "folder", "link to a folder", "pipe", "socket", "another's file"]
)
def test_what_this_account_has_not_made_is_not_read(own, victim, kind):
    plant(kind, own / "name", victim)
    with pytest.raises(OSError) as caught:
        files.read(own / "name", 100)
    assert caught.value.errno != errno.ENOENT


def test_a_file_that_cannot_be_written_leaves_nothing(own):
    with pytest.raises(TypeError):
        files.write(own / "name", "text")
    assert list(own.iterdir()) == []


def test_a_folder_is_made_for_this_account_alone(own):
    assert stat.S_IMODE(own.stat().st_mode) == stat.S_IMODE(own.parent.stat().st_mode) == 0o700
    files.own_folder(own)
    files.check_folder(own)
    with pytest.raises(FileNotFoundError):
        files.check_folder(own / "not-there")


@pytest.mark.parametrize(
    ("mode", "above", "refused"),
    [
        (0o700, 0o755, False), (0o755, 0o755, False), (0o777, 0o755, True), (0o722, 0o755, True), (0o770, 0o755, True),
        (0o1777, 0o755, True), (0o700, 0o777, True), (0o700, 0o1777, False), (0o700, 0o757, True),
    ],
)  # fmt: skip
def test_a_folder_in_which_others_may_write_is_refused(tmp_path, mode, above, refused):
    folder = tmp_path / "above" / "folder"
    folder.mkdir(parents=True)
    folder.chmod(mode)
    folder.parent.chmod(above)
    if refused:
        with pytest.raises(files.NotOurs, match="can be written by others"):
            files.own_folder(folder)
    else:
        files.own_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == mode, "it may serve others"


def test_a_folder_that_is_a_link_is_refused_where_others_may_have_made_it(tmp_path):
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    open_ = tmp_path / "open"
    open_.mkdir()
    open_.chmod(0o1777)
    (open_ / "link").symlink_to(real)
    files.own_folder(open_ / "link" / "mine")
    with pytest.raises(files.NotOurs, match="is a link"):
        files.own_folder(open_ / "link")
    if os.geteuid() == 0:
        os.chown(open_ / "link", UID, UID, follow_symlinks=False)
        with pytest.raises(files.NotOurs, match=f"a link that the user {UID} made"):
            files.own_folder(open_ / "link" / "mine")
        os.chown(real, UID, UID)
        with pytest.raises(files.NotOurs, match=f"is of the user {UID}"):
            files.own_folder(real)


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        files.own_folder(tmp_path / "file" / "below")
    with pytest.raises(NotADirectoryError):
        files.own_folder(tmp_path / "file")


def test_names_go_through_no_shell_and_no_limit(own):
    name = "a b;$(x)\n" + "y" * 200
    files.write(own / name, b"1")
    assert files.read(own / name, 10) == b"1"


def test_no_descriptor_is_left(own):
    before = list(Path("/proc/self/fd").iterdir())
    for number in range(20):
        files.write(own / f"{number}", b"x")
        files.own_folder(own)
        files.read(own / f"{number}", 1)
        os.close(files.open_own(own / f"{number}", os.O_RDWR))
    assert len(list(Path("/proc/self/fd").iterdir())) == len(before)


def test_what_is_made_is_not_inherited(own):
    fd = files.open_own(own / "name", os.O_RDWR)
    listed = subprocess.run(["ls", f"/proc/self/fd/{fd}"], capture_output=True, text=True, check=False)
    assert listed.returncode != 0
    os.close(fd)


@pytest.mark.parametrize("path", ["/tmp", "/var/tmp", "/dev/shm"])
def test_a_folder_that_is_everybody_s_is_never_taken_for_oneself(path):
    before = Path(path).stat().st_mode
    with pytest.raises(OSError):
        files.own_folder(Path(path))
    assert Path(path).stat().st_mode == before
