import json
import threading

import pytest

from tpnet.agent.state import StateFile


def test_what_was_noted_and_not_forgotten_is_found_by_the_next_agent(tmp_path):
    state = StateFile(tmp_path)
    state.note(1, "netns/a", {"tcp_fwmark_accept": "0"})
    state.note(2, "netns/b", {"tcp_fwmark_accept": "1"})
    state.forget(1)
    state.forget(77)
    assert StateFile(tmp_path).load() == {"2": {"tcp_fwmark_accept": "1"}}
    assert json.loads((tmp_path / "state.json").read_text())["namespaces"]["2"]["label"] == "netns/b"
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600


def test_nothing_to_undo_means_no_file(tmp_path):
    state = StateFile(tmp_path)
    assert state.load() == {}
    state.note(1, "netns/a", {})
    state.forget(1)
    assert list(tmp_path.iterdir()) == []


def test_what_was_swept_is_cleared(tmp_path):
    state = StateFile(tmp_path)
    state.note(1, "netns/a", {"tcp_fwmark_accept": "0"})
    state.note(2, "netns/b", {"tcp_fwmark_accept": "1"})
    after = StateFile(tmp_path)
    after.keep_only([2, 3])
    assert state.load() == {"2": {"tcp_fwmark_accept": "1"}}
    after.keep_only([])
    after.keep_only([])
    assert list(tmp_path.iterdir()) == []


def test_two_agents_change_it_and_neither_loses_what_the_other_wrote(tmp_path):
    old, new = StateFile(tmp_path), StateFile(tmp_path)
    old.note(1, "netns/a", {})
    old.note(2, "netns/b", {})
    new.note(3, "netns/c", {})
    old.forget(1)
    assert new.load().keys() == {"2", "3"}
    new.forget(2)
    old.forget(3)
    assert list(tmp_path.iterdir()) == []


def test_while_one_holds_it_another_waits(tmp_path):
    order = []

    def other():
        with StateFile(tmp_path).held():
            order.append("other")

    with StateFile(tmp_path).held():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        order.append("one")
    thread.join(5)
    assert order == ["one", "other"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"version": 1}', '{"version": 1, "namespaces": {"1": 2}}', '{"version": 2}', "\udcff"],
)
def test_a_file_that_makes_no_sense_counts_as_empty(tmp_path, text):
    (tmp_path / "state.json").write_bytes(text.encode(errors="surrogateescape"))
    assert StateFile(tmp_path).load() == {}


def test_a_disk_that_is_full_is_told_before_anything_is_changed(tmp_path):
    state = StateFile(tmp_path / "gone")
    with pytest.raises(OSError):
        state.note(1, "netns/a", {})
