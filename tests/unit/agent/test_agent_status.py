import os

from hypothesis import given
from hypothesis import strategies as st

from tpnet.agent.status import Ledger, added, memory_kib
from tpnet.model import Intercept
from tpnet.proxy.channel import Counters

counts = st.fixed_dictionaries(
    {"hits": st.integers(0, 99), "reasons": st.dictionaries(st.sampled_from("abc"), st.integers(1, 9))}
)


def target(requests, still_open=0):
    return {"open": still_open, "requests": requests, "verdicts": {"F": requests}}


def intercept(name="i", serial=1):
    return Intercept(name, "bob", "s", "t", ("t",), 80, serial=serial)


def test_totals_go_on_over_the_lives_of_workers():
    ledger = Ledger()
    ledger.take(Counters({"1": target(5, 3)}, {"i#1": {"hits": 2, "last_hit": 10.0, "reasons": {"x": 1}}}))
    assert ledger.target(1) == target(5, 3)
    ledger.worker_lost()
    assert ledger.target(1)["requests"] == 5
    assert ledger.target(1).get("open", 0) == 0
    ledger.take(
        Counters({"1": target(2, 1)}, {"i#1": {"hits": 1, "last_hit": 20.0, "reasons": {"x": 1, "y": 2}}})
    )
    assert ledger.target(1) == target(7, 1)
    assert ledger.intercept(intercept()) == {"hits": 3, "last_hit": 20.0, "reasons": {"x": 2, "y": 2}}
    ledger.worker_lost()
    ledger.worker_lost()
    assert ledger.intercept(intercept())["hits"] == 3


def test_an_intercept_of_an_earlier_ones_name_has_counts_of_its_own():
    ledger = Ledger()
    ledger.take(Counters({}, {"i#1": {"hits": 5}, "i#2": {"hits": 1}}))
    assert ledger.intercept(intercept(serial=2)) == {"hits": 1}
    assert ledger.intercept(intercept(serial=3)) == {}


def test_what_is_no_more_is_forgotten():
    ledger = Ledger()
    ledger.take(Counters({"1": target(5), "2": target(6)}, {"i#1": {"hits": 1}, "j#2": {"hits": 2}}))
    ledger.worker_lost()
    ledger.keep_only([2], [intercept("j", 2)])
    assert (ledger.target(1), ledger.intercept(intercept())) == ({}, {})
    assert (ledger.target(2)["requests"], ledger.intercept(intercept("j", 2))["hits"]) == (6, 2)


@given(counts, counts, counts)
def test_sums_do_not_depend_on_their_order(one, two, three):
    assert added(one, two) == added(two, one)
    assert added(added(one, two), three) == added(one, added(two, three))
    assert added(one, {}) == one


def test_memory_of_processes_that_are_there():
    assert memory_kib([os.getpid()]) > 1000
    assert memory_kib([]) == 0
    assert memory_kib([2**22 + 1]) == 0
