import os

from hypothesis import given
from hypothesis import strategies as st

from tpnet.agent.status import Ledger, added, memory_kib, negative
from tpnet.proxy.channel import Counters

counts = st.fixed_dictionaries(
    {"hits": st.integers(0, 99), "reasons": st.dictionaries(st.sampled_from("abc"), st.integers(1, 9))}
)


def target(requests, still_open=0):
    return {"open": still_open, "requests": requests, "verdicts": {"F": requests}}


def test_totals_go_on_over_the_lives_of_workers():
    ledger = Ledger()
    ledger.take(Counters({"1": target(5, 3)}, {"i": {"hits": 2, "last_hit": 10.0, "reasons": {"x": 1}}}))
    assert ledger.target(1) == target(5, 3)
    ledger.worker_lost()
    assert ledger.target(1)["requests"] == 5
    assert ledger.target(1).get("open", 0) == 0
    ledger.take(
        Counters({"1": target(2, 1)}, {"i": {"hits": 1, "last_hit": 20.0, "reasons": {"x": 1, "y": 2}}})
    )
    assert ledger.target(1) == target(7, 1)
    assert ledger.intercept("i") == {"hits": 3, "last_hit": 20.0, "reasons": {"x": 2, "y": 2}}
    ledger.worker_lost()
    ledger.worker_lost()
    assert ledger.intercept("i")["hits"] == 3


def test_an_intercept_of_an_earlier_ones_name_begins_at_zero():
    ledger = Ledger()
    ledger.take(Counters({}, {"i": {"hits": 5, "last_hit": 10.0, "reasons": {"x": 4}}}))
    ledger.begin("i")
    assert ledger.intercept("i")["hits"] == 0
    assert ledger.intercept("i")["reasons"] == {}
    ledger.take(Counters({}, {"i": {"hits": 6, "last_hit": 30.0, "reasons": {"x": 4, "y": 1}}}))
    assert ledger.intercept("i") == {"hits": 1, "last_hit": 30.0, "reasons": {"y": 1}}
    ledger.worker_lost()
    ledger.begin("i")
    assert ledger.intercept("i") == {}


def test_what_is_no_more_is_forgotten():
    ledger = Ledger()
    ledger.take(Counters({"1": target(5), "2": target(6)}, {"i": {"hits": 1}, "j": {"hits": 2}}))
    ledger.worker_lost()
    ledger.keep_only([2], ["j"])
    assert (ledger.target(1), ledger.intercept("i")) == ({}, {})
    assert (ledger.target(2)["requests"], ledger.intercept("j")["hits"]) == (6, 2)


@given(counts, counts)
def test_added_is_taken_back_by_the_negative(one, other):
    assert added(added(one, other), negative(other)) == one
    assert added(one, other) == added(other, one)


def test_memory_of_processes_that_are_there():
    assert memory_kib([os.getpid()]) > 1000
    assert memory_kib([]) == 0
    assert memory_kib([2**22 + 1]) == 0
