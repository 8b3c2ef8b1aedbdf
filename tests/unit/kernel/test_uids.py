import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpnet.kernel.uids import WORKER_UIDS, apart, parse_range, unused


@given(st.integers(1, 2**32 - 2), st.integers(1, 65_536))
def test_what_is_written_is_read(first, number):
    last = min(first + number - 1, 2**32 - 2)
    assert parse_range(f"{first}-{last}") == range(first, last + 1)
    assert parse_range(str(first)) == range(first, first + 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "1-",
        "-1",
        "0",
        "0-5",
        "5-4",
        "1-65537",
        "4294967295",
        "4294967290-4294967295",
        "1-2-3",
        "a",
        " 1",
        "1_0",
        "٣",
        "1e3",
        "0x10",
    ],
)
def test_anything_else_is_refused_with_a_sentence(text):
    with pytest.raises(ValueError, match=r"\.$"):
        parse_range(text)


@given(st.text())
def test_no_text_makes_anything_else_than_a_range_or_a_refusal(text):
    try:
        found = parse_range(text)
    except ValueError:
        return
    assert 1 <= found[0] <= found[-1] <= 2**32 - 2
    assert len(found) <= 65_536


def test_what_comes_by_itself_can_be_written():
    assert parse_range(f"{WORKER_UIDS[0]}-{WORKER_UIDS[-1]}") == WORKER_UIDS


def process(proc, pid, uids, gids):
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "status").write_text(
        f"Name:\tx\nUid:\t{' '.join(map(str, uids))}\nGid:\t{' '.join(map(str, gids))}\nGroups:\t0\n"
    )


def test_a_user_that_any_process_has_in_any_of_its_places_is_not_taken(tmp_path):
    for place in range(4):
        uids, gids = [0] * 4, [0] * 4
        uids[place], gids[place] = 100 + place, 200 + place
        process(tmp_path, 10 + place, uids, gids)
    (tmp_path / "99").mkdir()  # one that has just ended
    (tmp_path / "self").mkdir()
    assert {unused(range(99, 105), tmp_path) for _ in range(200)} == {99, 104}
    assert unused(range(100, 104), tmp_path) is None
    assert unused(range(200, 204), tmp_path) is None


def test_this_machine_s_processes_are_seen():
    assert unused(range(os.getuid(), os.getuid() + 1)) is None
    assert unused(WORKER_UIDS) in WORKER_UIDS


@given(st.integers(1, 1000), st.integers(1, 1000))
def test_two_parts_of_a_range_have_no_user_in_common_unless_there_is_but_one(first, number):
    uids = range(first, first + number)
    one, other = map(set, apart(uids))
    assert one | other == set(uids)
    assert one
    assert other
    assert not one & other or number == 1
