import stat
import threading

import pytest

from tpnet.model import InvalidInput, TpnetError
from tpnet_cli import identity


def test_auto_id_is_made_once_and_kept_for_its_owner_alone(home):
    first = identity.auto_id()
    assert len(first) == 32
    assert int(first, 16) >= 0
    assert identity.auto_id() == first
    kept = home / "state" / "intercept-id"
    assert kept.read_text() == f"{first}\n"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert [path.name for path in kept.parent.iterdir()] == ["intercept-id"]


def test_several_commands_at_once_agree_on_one_id(home):
    found = []
    start = threading.Barrier(8)

    def make():
        start.wait(5)
        found.append(identity.auto_id())

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_where_nothing_can_be_kept_the_way_out_is_said(home, monkeypatch):
    (home / "file").write_text("")
    monkeypatch.setenv("TPNET_STATE_DIR", str(home / "file" / "below"))
    with pytest.raises(TpnetError, match="cannot be kept") as error:
        identity.auto_id()
    assert "TPNET_STATE_DIR" in error.value.hint


@pytest.mark.parametrize(
    ("xdg", "expected"),
    [("/somewhere", "/somewhere/tpnet"), ("relative", "/home/b/.local/state/tpnet"), ("", None)],
)
def test_state_dir_follows_xdg(xdg, expected, home, monkeypatch):
    monkeypatch.delenv("TPNET_STATE_DIR")
    monkeypatch.setenv("HOME", "/home/b")
    monkeypatch.setenv("XDG_STATE_HOME", xdg)
    assert str(identity.state_dir()) == (expected or "/home/b/.local/state/tpnet")


def test_user_is_who_was_said_then_the_environment_then_who_called_sudo(home, monkeypatch):
    monkeypatch.setenv("SUDO_USER", "Carol")
    assert identity.user_name("dora-d") == "dora-d"
    assert identity.user_name() == "bob"
    monkeypatch.delenv("TPNET_USER")
    assert identity.user_name() == "carol"
    monkeypatch.delenv("SUDO_USER")
    monkeypatch.setenv("LOGNAME", "erna")
    assert identity.user_name() == "erna"


@pytest.mark.parametrize(
    ("said", "such_as"),
    [
        ("../x", "x"),
        ("Dora D.", "dora-d"),
        ("Bob", "bob"),
        ("--", "bob"),
        ("", "bob"),
        ("a--b", "a-b"),
        ("x\n", "x"),
        ("b" * 41, "b" * 40),
    ],
)
def test_a_name_that_was_said_is_never_made_another(said, such_as, home, monkeypatch):
    with pytest.raises(InvalidInput, match="lower-case letters and digits") as error:
        identity.user_name(said)
    assert error.value.hint == f"Such as {such_as}."
    if said:
        monkeypatch.setenv("TPNET_USER", said)
        with pytest.raises(InvalidInput, match=r"^TPNET_USER="):
            identity.user_name()
    assert identity.user_name("bob") == "bob"


def test_the_machine_s_name_of_somebody_is_made_to_fit(home, monkeypatch):
    monkeypatch.setenv("TPNET_USER", "")
    monkeypatch.setenv("SUDO_USER", "DOMAIN\\Dora.D")
    assert identity.user_name() == "domain-dora-d"
    monkeypatch.delenv("SUDO_USER")
    monkeypatch.setenv("LOGNAME", "Erna_E")
    assert identity.user_name() == "erna-e"


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("shop-1", "shop-1-bob"),
        ("netns/shop-*", "shop-bob"),
        ("shop-1,shop-2", "shop-1-bob"),
        ("pid/1234", "pid-1234-bob"),
        ("container/1f2e3d4c5b6a7f8e", "1f2e3d4c5b6a-bob"),
        ("/run/netns/My_Shop", "my-shop-bob"),
        ("*", "all-bob"),
    ],
)
def test_default_name_is_the_target_s_and_the_user_s(target, name):
    assert identity.default_name(target, "bob") == name


def test_a_taken_name_gets_a_number():
    assert identity.free_name("a", []) == "a"
    assert identity.free_name("a", ["a"]) == "a-2"
    assert identity.free_name("a", ["a", "a-2", "a-4"]) == "a-3"
