import time

import pytest

from tpnet_cli import texts

NOW = time.mktime((2026, 3, 9, 10, 0, 0, 0, 0, -1))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (59.9, "59 s"), (60, "1 m"), (3599, "59 m"), (7200, "2 h"), (200000, "2 d")],
)
def test_durations_have_one_unit(seconds, text):
    assert texts.duration(seconds) == text


def test_times_are_told_as_people_do():
    assert texts.ago(0, NOW) == "never"
    assert texts.ago(NOW - 0.4, NOW) == "now"
    assert texts.ago(NOW - 61, NOW) == "1 m ago"
    assert texts.clock(0, NOW) == ""
    assert texts.clock(NOW - 60, NOW) == "09:59"
    assert texts.clock(NOW - 86400, NOW) == "2026-03-08 10:00"


def test_numbers():
    assert texts.counted(1, "request") == "1 request"
    assert texts.counted(1204, "request") == "1,204 requests"


def test_a_handler_here_is_only_its_port():
    assert texts.handler_text("127.0.0.1:8080") == ":8080"
    assert texts.handler_text("[::1]:8080") == ":8080"
    assert texts.handler_text("10.0.0.7:8080") == "10.0.0.7:8080"


def test_reasons_stand_by_their_weight():
    assert texts.reasons_text({"a": 1, "b": 1204, "c": 0}) == "b 1,204, a 1"
    assert texts.reasons_text({}) == ""


def test_plain_forwarding_is_no_news():
    assert texts.verdict_words({"F": 9, "F:app": 9, "R": 2, "B": 1}) == [
        "2 refused as ambiguous",
        "1 broken off",
    ]
