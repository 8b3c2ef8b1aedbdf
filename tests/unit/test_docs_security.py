"""The tests that docs/explanation/security.md names are there."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "explanation" / "security.md"
NAMED = re.compile(r"`((?:unit|netns|cluster|soak|fuzz)/[a-z0-9_/]+)(?:::(\w+))?`")


def test_every_test_that_is_named_is_there():
    named = NAMED.findall(PAGE.read_text())
    assert len(named) > 40
    missing = []
    for file, words in named:
        path = TESTS / f"{file}.py"
        functions = re.findall(r"^def (\w+)", path.read_text(), re.MULTILINE) if path.is_file() else []
        if not any(words in name for name in functions):
            missing.append(f"{file}::{words}")
    assert missing == []


def test_no_row_of_what_somebody_cannot_do_is_without_a_test():
    rows = [
        line
        for line in PAGE.read_text().splitlines()
        if line.startswith("| ") and not line.startswith("| cannot ")
    ]
    without = [row for row in rows if not NAMED.search(row) and "see below" not in row]
    assert len(rows) > 30
    assert without == []
