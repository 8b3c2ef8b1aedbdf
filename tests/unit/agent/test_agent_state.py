import json

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
    StateFile(tmp_path).note(1, "netns/a", {"tcp_fwmark_accept": "0"})
    after = StateFile(tmp_path)
    after.load()
    after.clear()
    after.clear()
    assert list(tmp_path.iterdir()) == []


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
