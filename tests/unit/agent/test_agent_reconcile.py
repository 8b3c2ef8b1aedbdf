from hypothesis import given
from hypothesis import strategies as st

from tpnet.agent.reconcile import Lower, Raise, SetRules, plan
from tpnet.model import Intercept


def rule(serial):
    return Intercept(f"i{serial}", "bob", "s", "t", ("netns/a",), 80, serial=serial)


keys = st.tuples(st.sampled_from(["netns/a", "netns/b", "pid/1"]), st.sampled_from([80, 81]))
states = st.dictionaries(keys, st.lists(st.sampled_from([rule(n) for n in range(4)]), unique=True).map(tuple))


def carry_out(actual, steps):
    state = dict(actual)
    for step in steps:
        match step:
            case Lower(key):
                del state[key]
            case Raise(key):
                assert key not in state
                state[key] = ()
            case SetRules(key, rules):
                assert key in state
                state[key] = rules
    return state


@given(states, states)
def test_the_plan_leads_from_any_state_to_any_other(desired, actual):
    steps = plan(desired, actual)
    assert carry_out(actual, steps) == desired
    assert plan(desired, carry_out(actual, steps)) == []


@given(states, states)
def test_no_step_is_without_need(desired, actual):
    steps = plan(desired, actual)
    assert len(steps) == len(set(steps))
    for step in steps:
        if isinstance(step, SetRules):
            assert actual.get(step.key, ()) != step.rules


@given(states, states)
def test_what_is_given_back_comes_first_and_what_is_emptied_before_what_is_filled(desired, actual):
    steps = plan(desired, actual)
    order = [{Lower: 0, Raise: 1, SetRules: 2}[type(step)] for step in steps]
    assert order == sorted(order)
    sizes = [len(step.rules) for step in steps if isinstance(step, SetRules)]
    assert sizes == sorted(sizes)


def test_a_target_is_raised_without_rules_until_they_are_wanted():
    assert plan({("netns/a", 80): ()}, {}) == [Raise(("netns/a", 80))]
    assert plan({("netns/a", 80): (rule(1),)}, {("netns/a", 80): ()}) == [
        SetRules(("netns/a", 80), (rule(1),))
    ]
    assert plan({}, {("netns/a", 80): (rule(1),)}) == [Lower(("netns/a", 80))]
