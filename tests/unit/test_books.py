"""The judge of the ledger finds what is wrong."""

from types import SimpleNamespace

import pytest
from books import Record, judge
from ledger import Entry, Outcome


def entry(number=1, *, header="", answered="app", outcome=Outcome.OK, method="GET"):
    return Entry(
        1.0, 0.1, header, answered, True, outcome=outcome, id=f"c.{number}", method=method, head="h", body="b",
        connection="c", number=number,
    )  # fmt: skip


def record(number=1, side="app", head="h", body="b"):
    return Record(f"c.{number}", side, head, body, "c", number)


def judged(entries, records, **more):
    return judge(SimpleNamespace(entries=entries), SimpleNamespace(records=records), **more)


@pytest.mark.parametrize(
    ("entries", "records"),
    [
        ([entry()], [record()]),
        ([entry(header="bob", answered="bob")], [record(side="bob")]),
        ([entry(header="bob")], [record()]),
        ([entry(), entry(2, outcome=Outcome.UNKNOWN)], [record(), record(2)]),
        ([entry(), entry(2, outcome=Outcome.UNKNOWN)], [record()]),
        ([entry(), entry(2, outcome=Outcome.REFUSED)], [record()]),
    ],
)
def test_what_is_right_is_found_right(entries, records):
    assert judged(entries, records) == []


@pytest.mark.parametrize(
    ("entries", "records", "words"),
    [
        ([entry()], [], "app did not carry it out"),
        ([entry()], [record(), record()], "carried out by"),
        ([entry(answered="bob")], [record(side="bob")], "saw it"),
        ([entry(header="bob", answered="alice")], [record(side="alice")], "it is not alice's"),
        ([entry(), entry(2, outcome=Outcome.UNKNOWN)], [record(), record(2, "bob")], "saw it"),
        ([entry()], [record(head="x")], "bytes differ"),
        ([entry()], [record(body="x")], "bytes differ"),
        ([entry(), entry(2, outcome=Outcome.REFUSED)], [record(), record(2)], "carried out by"),
        ([entry(), entry(2)], [record(2), record()], "after a later one"),
        ([entry()], [record(), record(7)], "nobody has asked"),
        ([entry(outcome=Outcome.FAILED)], [record()], "nothing was answered"),
        ([entry(header="bob")], [record(side="bob"), record()], "carried out by"),
    ],
)
def test_what_is_wrong_is_found(entries, records, words):
    assert any(words in line for line in judged(entries, records))


def test_a_get_may_be_asked_again_at_the_app_where_that_is_said_and_nothing_else():
    seen = [record(side="bob"), record()]
    assert judged([entry(header="bob")], seen, replays=True) == []
    assert judged([entry(header="bob", method="POST")], seen, replays=True)
    assert judged([entry(header="bob")], [*seen, record()], replays=True)
