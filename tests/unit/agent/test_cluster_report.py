from dataclasses import replace

import re2
from cluster_samples import live, pod, view, wish
from hypothesis import given
from hypothesis import strategies as st

from tpnet.agent.cluster.decide import LeaseState, Standing, decide
from tpnet.agent.cluster.facts import Workload
from tpnet.agent.cluster.report import READY, conclusion, differs, part_of
from tpnet.agent.cluster.ring import Ring
from tpnet.control.kubernetes.convert import from_api, to_api
from tpnet.model import HeaderRule, InterceptReport, MissedReport, NodeReport, TargetKind
from tpnet.rules.sealed import mark
from tpnet.text import ONE_LINE

A, B = pod("orders-a"), pod("orders-b")
ENDS = (("orders-a", "n1", True), ("orders-b", "n2", True))
AGENTS = frozenset({"n1", "n2"})
KEY = "shop", "orders-bob"


def case_of(*wishes, key=KEY, **more):
    return decide(view(*(wishes or (wish(),)), **({"pods": [A], "ends": ENDS} | more))).cases[key]


def part(case, node="n1", trouble="", **more):
    return part_of(
        node,
        case,
        lambda key: trouble,
        **({"session_up": True, "hits": 3, "last_hit": 10.0, "missed": {"b": 2, "a": 1, "c": 0}} | more),
    )


def ready(report):
    (one,) = (one for one in report.conditions if one.type == READY)
    return one.status.value, one.reason, one.message


def both():
    here = part(case_of())
    there = part(case_of(node="n2", pods=[B]), "n2")
    return [here, there]


def test_a_part_tells_each_endpoint():
    said = part(case_of())
    assert (said.ready, said.total, said.message, said.reason) == (1, 1, "", "")
    assert (said.session_up, said.hits, said.last_hit) == (True, 3, "1970-01-01T00:00:10Z")
    assert said.missed == (MissedReport("a", 1), MissedReport("b", 2))
    (end,) = said.endpoints
    assert (end.pod, end.port, end.ready, end.ip, end.reason) == ("orders-a", 8080, True, "10.0.0.1", "")
    assert from_api(NodeReport, to_api(said)) == said


def test_what_is_not_redirected_is_said_with_the_reason():
    said = part(case_of(), trouble="nothing listens on 8080")
    assert (said.ready, said.total, said.message) == (0, 1, "orders-a: nothing listens on 8080")
    said = part(case_of(sessions={}))
    assert said.endpoints[0].reason == "Its node has not heard of the session bob-1 yet."
    said = part(case_of(sessions={"bob-1": Standing(LeaseState.GONE)}))
    assert (said.ready, said.reason) == (0, "SessionGone")


def test_a_node_without_endpoints_has_no_part():
    assert part(case_of(pods=[], ends=[("orders-b", "n2", True)])) is None


def test_ready_when_every_ready_endpoint_is_redirected():
    report = conclusion(case_of(), both(), AGENTS, 50.0)
    assert ready(report) == ("True", "Redirected", "All 2 ready endpoints are redirected and probed.")
    assert (report.redirected, report.requests, report.observed_generation) == (
        "2/2",
        f"Coder: #{mark(b'bob')}",
        1,
    )


def test_partly_names_those_that_are_missing():
    report = conclusion(case_of(), both()[:1], AGENTS, 50.0)
    assert ready(report)[:2] == ("False", "Partly")
    assert ready(report)[2] == (
        "1 of 2 ready endpoints are redirected. orders-b on n2: no agent on this node has said anything."
    )
    assert report.redirected == "1/2"


def test_words_of_a_node_without_an_agent_do_not_count():
    assert conclusion(case_of(), both(), frozenset({"n1"}), 50.0).redirected == "1/2"


def test_a_part_about_a_pod_that_is_gone_does_not_count():
    old = replace(both()[1], endpoints=tuple(replace(end, pod="orders-old") for end in both()[1].endpoints))
    assert conclusion(case_of(), [both()[0], old], AGENTS, 50.0).redirected == "1/2"


def test_not_listening_no_endpoints_session_gone_and_conflict():
    silent = [
        replace(
            one,
            ready=0,
            endpoints=tuple(
                replace(end, ready=False, reason="nothing listens on 8080") for end in one.endpoints
            ),
        )
        for one in both()
    ]
    assert ready(conclusion(case_of(), silent, AGENTS, 1.0))[1] == "NotListening"
    assert ready(conclusion(case_of(ends=[]), [], AGENTS, 1.0)) == (
        "False",
        "NoEndpoints",
        "No endpoint of Service orders is ready.",
    )
    gone = conclusion(case_of(sessions={"bob-1": Standing(LeaseState.OVER)}), [], AGENTS, 1.0)
    assert [one.reason for one in gone.conditions] == ["Accepted", "SessionGone"]
    waits = conclusion(case_of(wish(session="")), [], AGENTS, 1.0)
    assert [one.reason for one in waits.conditions] == ["Accepted", "NoSession"]
    lost = case_of(wish(), wish("z", "dave", 101.0, headers=wish().spec.headers), key=("shop", "z"))
    report = conclusion(lost, [part(lost)], AGENTS, 1.0)
    assert [one.reason for one in report.conditions] == ["Conflict", "Conflict"]
    # Another agent, which sees no conflict of its own, says the same by the part of the first.
    seen = conclusion(
        case_of(wish("z", "dave", 101.0), key=("shop", "z"), node="n2"), [part(lost)], AGENTS, 1.0
    )
    assert seen.conditions[0].message == report.conditions[0].message


def test_a_workloads_ready_pods_of_nodes_that_have_not_spoken_are_missing():
    target = "Deployment/orders"
    ref = {(TargetKind.DEPLOYMENT, "shop", "orders"): Workload(2)}
    case = case_of(wish(target=target), workloads=ref)
    assert conclusion(case, [part(case)], AGENTS, 1.0).redirected == "1/2"


def test_the_time_of_a_condition_is_that_of_its_change():
    first = conclusion(case_of(), both(), AGENTS, 50.0)
    assert differs(first, InterceptReport())
    seen = replace(wish(), report=first)
    again = conclusion(case_of(seen), both(), AGENTS, 99.0)
    assert not differs(again, first)
    less = conclusion(case_of(seen), both()[:1], AGENTS, 99.0)
    times = {one.type: one.last_transition_time for one in less.conditions}
    assert times == {"Accepted": "1970-01-01T00:00:50Z", "Ready": "1970-01-01T00:01:39Z"}
    assert differs(less, first)


def test_what_other_writers_add_does_not_matter():
    first = conclusion(case_of(), both(), AGENTS, 50.0)
    more = replace(
        first,
        conditions=(*reversed(first.conditions), replace(first.conditions[0], type="Other")),
        nodes=tuple(both()),
    )
    assert not differs(first, more)
    assert from_api(InterceptReport, to_api(first)) == first


@given(st.permutations(["n1", "n2"]))
def test_every_agent_concludes_the_same(order):
    parts = {one.node: one for one in both()}
    reports = [
        conclusion(case_of(node=node, pods=[one]), [parts[name] for name in order], AGENTS, 1.0)
        for node, one in (("n1", A), ("n2", B), ("n3", pod("else")))
    ]
    assert reports[0] == reports[1] == reports[2]
    assert live()


NODES = st.frozensets(st.sampled_from([f"n{number}" for number in range(30)]), min_size=1)


@given(NODES, NODES, st.text())
def test_the_ring_depends_on_nothing_but_the_nodes_that_there_are(before, now, uid):
    fresh, used = Ring(), Ring()
    used.set_nodes(before)
    used.set_nodes(now)
    fresh.set_nodes(now)
    assert used.owners(uid) == fresh.owners(uid)
    owners = fresh.owners(uid)
    assert len(set(owners)) == len(owners) == min(2, len(now))
    assert set(owners) <= now


def test_a_node_that_goes_moves_only_what_was_its_own():
    ring, nodes = Ring(), frozenset(f"n{number}" for number in range(50))
    ring.set_nodes(nodes)
    uids = [str(number) for number in range(2000)]
    first = {uid: ring.owners(uid) for uid in uids}
    shares = [sum(owners[0] == node for owners in first.values()) for node in nodes]
    assert max(shares) < 4 * 2000 / 50
    ring.set_nodes(nodes - {"n7"})
    for uid in uids:
        if first[uid][0] != "n7":
            assert ring.owners(uid)[0] == first[uid][0]
        else:
            assert ring.owners(uid)[0] == first[uid][1]
    assert Ring().owners("x") == ()


SECRET = "Bearer-eyJhbGciOi"


@given(
    st.lists(
        st.builds(
            HeaderRule,
            st.sampled_from(["Authorization", "Host", "x"]),
            st.sampled_from([SECRET, f"{SECRET}.*", f"{SECRET}(", f"{SECRET}|"]),
            st.booleans(),
        ),
        min_size=1,
        max_size=3,
    ),
    st.booleans(),
)
def test_nothing_that_an_agent_says_has_a_headers_value(rules, older):
    mine = wish(headers=tuple(rules))
    wishes = (mine, wish("a", "dave", 99.0, headers=tuple(rules))) if older else (mine,)
    case = case_of(*wishes)
    said = part(case)
    assert SECRET not in repr((said, conclusion(case, [said], AGENTS, 50.0)))


@given(st.text(max_size=1200))
def test_what_an_agent_says_is_what_the_api_server_takes_and_gives_back(trouble):
    said = part(case_of(), trouble=trouble)
    assert from_api(NodeReport, to_api(said)) == said
    for text in (said.message, said.endpoints[0].reason):
        assert len(text) <= 1024
        assert re2.search(ONE_LINE, text)
    other = part(case_of(), "n2", trouble=trouble)
    concluded = conclusion(case_of(), [said, other], AGENTS, 50.0)
    assert from_api(InterceptReport, to_api(concluded)) == concluded
    assert all(re2.search(ONE_LINE, one.message) for one in concluded.conditions)
