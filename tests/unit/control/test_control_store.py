import base64
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpnet.control.local.store import LEASE, Store
from tpnet.model import (
    Conflict,
    HeaderRule,
    Intercept,
    InvalidInput,
    NotThere,
    PathKind,
    PathRule,
    Refused,
    Session,
)


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def key(number):
    return base64.b64encode(bytes([number]) * 32).decode()


def session(name="bob@laptop", user="bob", number=1):
    return Session(name, user, key(number))


def intercept(name="orders-bob", user="bob", **more):
    values = {
        "session": "bob@laptop",
        "target": "orders",
        "targets": ("netns/orders",),
        "port": 80,
        "headers": (HeaderRule("Coder", user),),
        "handler": "127.0.0.1:8080",
        "tunnel_port": 20000,
    }
    return Intercept(name=name, user=user, **(values | more))


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(clock):
    store = Store(clock=clock, wall=lambda: 5000.0)
    store.add_session(session())
    store.add_session(session("alice@mac", "alice", 2))
    return store


def test_an_intercept_is_given_its_time_and_a_rising_serial(store):
    first = store.add(intercept())
    second = store.add(intercept("two", headers=(HeaderRule("Coder", "else"),)))
    assert first.created == 5000.0
    assert first.serial < second.serial


def test_targets_are_wanted_at_once_and_rules_once_active(store):
    added = store.add(intercept(targets=("netns/a", "netns/b")))
    assert store.desired() == {("netns/a", 80): (), ("netns/b", 80): ()}
    store.activate(added)
    assert store.desired() == {("netns/a", 80): (added,), ("netns/b", 80): (added,)}


def test_rules_of_a_target_come_oldest_first_and_those_of_others_stay_apart(store):
    first = store.add(intercept())
    second = store.add(intercept("all", "alice", session="alice@mac", headers=()))
    third = store.add(intercept("other", targets=("netns/cart",), port=90))
    for each in (third, second, first):
        store.activate(each)
    assert store.desired() == {("netns/orders", 80): (first, second), ("netns/cart", 90): (third,)}


def test_the_same_requests_are_refused_with_the_owners_name(store):
    store.add(intercept())
    rival = intercept("mine", "alice", session="alice@mac", headers=(HeaderRule("coder", "bob"),))
    with pytest.raises(Conflict, match="bob's intercept orders-bob"):
        store.add(rival)
    assert list(store.intercepts) == ["orders-bob"]


@pytest.mark.parametrize(
    "changes",
    [{"port": 81}, {"targets": ("netns/x",)}, {"path": PathRule(PathKind.PREFIX, "/a")}, {"headers": ()}],
)
def test_other_requests_are_no_conflict(store, changes):
    store.add(intercept())
    store.add(intercept("second", **changes))
    assert len(store.intercepts) == 2


def test_one_common_target_is_enough_for_a_conflict(store):
    store.add(intercept(targets=("netns/a", "netns/b")))
    with pytest.raises(Conflict):
        store.add(intercept("second", targets=("netns/b", "netns/c")))


@pytest.mark.parametrize(("user", "whose"), [("bob", "You have"), ("alice", "bob has")])
def test_a_name_is_taken_once(store, user, whose):
    store.add(intercept())
    sessions = {"bob": "bob@laptop", "alice": "alice@mac"}
    with pytest.raises(Conflict, match=whose):
        store.add(intercept(user=user, session=sessions[user], port=81))


def test_an_intercept_goes_to_a_session_of_its_own_user(store):
    with pytest.raises(Refused, match=r"Session alice@mac is alice's, not bob's"):
        store.add(intercept(session="alice@mac"))


def test_an_intercept_needs_a_session(store):
    with pytest.raises(NotThere, match="no session gone"):
        store.add(intercept(session="gone"))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "-x"},
        {"name": "x" * 129},
        {"user": ""},
        {"port": 0},
        {"connect_timeout": 0},
        {"connect_timeout": 301},
        {"port": 65536},
        {"tunnel_port": 0},
        {"target": "a\x1b[2J"},
        {"handler": "x\n"},
        {"headers": (HeaderRule("no name", "x"),)},
        {"path": PathRule(PathKind.REGEX, "(")},
        {"targets": ()},
    ],
)
def test_malformed_intercepts_are_refused(store, changes):
    with pytest.raises(InvalidInput):
        store.add(replace(intercept(), **changes))
    assert store.intercepts == {}


def test_only_the_owner_or_force_removes(store):
    added = store.add(intercept())
    with pytest.raises(Refused, match="bob's, not alice's"):
        store.remove("orders-bob", "alice")
    assert store.remove("orders-bob", "alice", force=True) == added
    with pytest.raises(NotThere, match="no intercept orders-bob"):
        store.remove("orders-bob", "bob")


def test_withdraw_and_activate_know_an_intercept_from_a_later_one_of_its_name(store):
    old = store.add(intercept())
    store.remove("orders-bob", "bob")
    new = store.add(intercept())
    with pytest.raises(NotThere, match="removed while"):
        store.activate(old)
    store.withdraw(old)
    assert store.intercepts["orders-bob"].intercept == new
    store.withdraw(new)
    assert store.intercepts == {}
    store.withdraw(new)


def test_a_lease_ends_thirty_seconds_after_it_was_renewed(store, clock):
    clock.now += LEASE - 1
    assert store.renew("bob@laptop", {}) == LEASE
    assert store.overdue() == []
    clock.now += 1
    assert store.overdue() == ["alice@mac"]
    assert store.lease_left("alice@mac") == 0
    assert store.lease_left("bob@laptop") == LEASE - 1
    clock.now += LEASE
    assert store.overdue() == ["bob@laptop", "alice@mac"]


def test_a_session_takes_its_intercepts_along(store):
    added = store.add(intercept())
    store.add(intercept("a", "alice", session="alice@mac"))
    assert store.drop_session("bob@laptop") == [added]
    assert list(store.intercepts) == ["a"]
    assert store.drop_session("bob@laptop") == []
    with pytest.raises(NotThere):
        store.renew("bob@laptop", {})


def test_the_same_session_again_replaces_the_old_one(store):
    store.add(intercept())
    store.renew("bob@laptop", {"orders-bob": False})
    store.add_session(session(number=3))
    assert store.intercepts == {}
    assert store.session("bob@laptop").handlers == {}
    assert store.session("bob@laptop").session.public_key == key(3)


def test_a_sessions_name_is_its_users(store):
    with pytest.raises(Conflict, match="bob has a session"):
        store.add_session(session(user="alice", number=4))
    assert store.session("bob@laptop").session.user == "bob"


def test_two_sessions_never_share_a_key(store):
    with pytest.raises(Conflict, match="key"):
        store.add_session(session("third", "carol", 1))


@pytest.mark.parametrize(
    "bad", [Session("x", "u", "short"), Session("", "u", key(9)), Session("x", "\x07", key(9))]
)
def test_malformed_sessions_are_refused(store, bad):
    with pytest.raises(InvalidInput):
        store.add_session(bad)
    assert len(store.sessions) == 2


def test_handlers_are_taken_to_listen_until_they_are_said_not_to(store):
    added = store.add(intercept())
    assert store.handler_up(added)
    store.renew("bob@laptop", {"orders-bob": False, "unknown": True})
    assert not store.handler_up(added)
    store.drop_session("bob@laptop")
    assert not store.handler_up(added)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["add", "activate", "remove", "drop"]))))
def test_what_is_desired_is_always_what_the_intercepts_say(steps):
    store = Store(clock=Clock(), wall=lambda: 0.0)
    for name, step in steps:
        if f"s-{name}" not in store.sessions:
            store.add_session(session(f"s-{name}", name, ord(name)))
        entry = store.intercepts.get(name)
        if step == "add" and entry is None:
            store.add(intercept(name, name, session=f"s-{name}", targets=("netns/x", f"netns/{name}")))
        elif step == "activate" and entry is not None:
            store.activate(entry.intercept)
        elif step == "remove" and entry is not None:
            store.remove(name, name)
        elif step == "drop":
            store.drop_session(f"s-{name}")
        desired = store.desired()
        assert {key for key, rules in desired.items() for _ in [0]} == {
            (target, 80) for entry in store.intercepts.values() for target in entry.intercept.targets
        }
        for (target, _), rules in desired.items():
            assert [rule.serial for rule in rules] == sorted(
                entry.intercept.serial
                for entry in store.intercepts.values()
                if entry.active and target in entry.intercept.targets
            )
