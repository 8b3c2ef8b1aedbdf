import json
import os
import stat

import pytest

from tpnet.datapath import cache
from tpnet.datapath.cache import cache_folder, keep, key_of, look_up

RESULT = {"code": "00ff", "maps": [{"name": "signs"}], "relocations": [[1, "signs"]]}
KEY = "k" * 64


@pytest.fixture
def folder(tmp_path):
    """One that is not there yet, nor is its parent."""
    return tmp_path / "cache" / "programs"


def test_what_was_kept_is_found_and_nothing_else(folder):
    assert look_up(folder, KEY) is None
    keep(folder, KEY, RESULT)
    assert look_up(folder, KEY) == RESULT
    assert look_up(folder, "other") is None
    keep(folder, KEY, {"code": ""})
    assert look_up(folder, KEY) == {"code": ""}
    assert [path.name for path in folder.iterdir()] == [KEY]


def test_folder_and_files_are_this_users_alone(folder):
    keep(folder, KEY, RESULT)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / KEY).stat().st_mode) == 0o600


def damaged(content):
    """Each way in which a file may be other than what was written: cut anywhere, a byte changed anywhere, more."""
    step = max(len(content) // 40, 1)
    for at in range(0, len(content), step):
        yield content[:at]
        yield content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    yield content + b" "
    yield b"\xff" * 200
    yield b""


def test_a_damaged_entry_is_none_and_is_replaced(folder, caplog):
    keep(folder, KEY, RESULT)
    whole = (folder / KEY).read_bytes()
    for content in damaged(whole):
        (folder / KEY).write_bytes(content)
        assert look_up(folder, KEY) is None
    assert "is not used" in caplog.text
    keep(folder, KEY, RESULT)
    assert look_up(folder, KEY) == RESULT


def test_an_entry_under_another_name_is_none(folder):
    keep(folder, KEY, RESULT)
    (folder / KEY).rename(folder / "other")
    assert look_up(folder, "other") is None


def test_a_link_is_not_followed_nor_another_thing_opened(folder, tmp_path):
    keep(folder, KEY, RESULT)
    (folder / KEY).rename(tmp_path / "elsewhere")
    (folder / KEY).symlink_to(tmp_path / "elsewhere")
    assert look_up(folder, KEY) is None
    keep(folder, KEY, {"code": "new"})
    assert not (folder / KEY).is_symlink()
    assert b"00ff" in (tmp_path / "elsewhere").read_bytes()  # it was replaced, not written to
    (folder / KEY).unlink()
    os.mkfifo(folder / KEY)
    assert look_up(folder, KEY) is None  # and nobody waits for a writer


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o757, 0o720])
def test_a_folder_that_others_may_write_to_is_not_used(folder, mode):
    keep(folder, KEY, RESULT)
    folder.chmod(mode)
    assert look_up(folder, KEY) is None
    keep(folder, "other", RESULT)
    assert [path.name for path in folder.iterdir()] == [KEY]


def test_a_folder_that_is_a_link_is_not_used(folder, tmp_path):
    keep(tmp_path / "real", KEY, RESULT)
    folder.parent.mkdir()
    folder.symlink_to(tmp_path / "real")
    assert look_up(folder, KEY) is None
    keep(folder, "other", RESULT)
    assert [path.name for path in (tmp_path / "real").iterdir()] == [KEY]


def test_a_folder_of_another_user_is_not_used(folder, monkeypatch):
    keep(folder, KEY, RESULT)
    monkeypatch.setattr(cache.os, "geteuid", lambda: os.getuid() + 1)
    assert look_up(folder, KEY) is None


def test_where_no_folder_can_be_made_nothing_is_kept_and_nobody_fails(tmp_path):
    (tmp_path / "file").write_text("")
    keep(tmp_path / "file" / "programs", KEY, RESULT)
    assert look_up(tmp_path / "file" / "programs", KEY) is None


def test_the_oldest_go(folder):
    for number in range(20):
        keep(folder, f"{number}", RESULT)
        os.utime(folder / f"{number}", ns=(number, number))
    keep(folder, "last", RESULT)
    names = {path.name for path in folder.iterdir()}
    assert "last" in names
    assert names == {"last"} | {f"{number}" for number in range(13, 20)}


def test_the_key_tells_source_kernel_machine_and_compiler_apart(tmp_path, monkeypatch):
    source = tmp_path / "redirect.c"
    source.write_text("one")
    keys = [key_of([source])]
    assert key_of([source]) == keys[0]
    source.write_text("two")
    keys.append(key_of([source]))
    (tmp_path / "more.h").write_text("")
    keys.append(key_of([source, tmp_path / "more.h"]))
    real = os.uname()
    for change in ({2: "99.1"}, {4: "riscv64"}):
        monkeypatch.setattr(
            cache.os,
            "uname",
            lambda change=change: os.uname_result(change.get(at, real[at]) for at in range(5)),
        )
        keys.append(key_of([source]))
    monkeypatch.undo()
    monkeypatch.setattr(cache, "_compiler", lambda: b"9.9")
    keys.append(key_of([source]))
    assert len(set(keys)) == len(keys)


def test_the_compiler_is_known_by_its_version_without_being_loaded(tmp_path, monkeypatch):
    package = tmp_path / "bcc"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "version.py").write_text("__version__ = '7.1'")
    monkeypatch.syspath_prepend(tmp_path)
    assert b"7.1" in cache._compiler()


def test_the_environment_may_name_the_place(monkeypatch):
    monkeypatch.setenv("TPNET_CACHE_DIR", "/some/where")
    assert str(cache_folder()) == "/some/where/programs"
    monkeypatch.delenv("TPNET_CACHE_DIR")
    assert str(cache_folder()) == "/var/cache/tpnet/programs"


def test_what_is_kept_is_readable(folder):
    keep(folder, KEY, RESULT)
    told, content = (folder / KEY).read_text().split("\n")
    assert len(told) == 64
    assert json.loads(content) == RESULT
