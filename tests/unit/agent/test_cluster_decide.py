from cluster_samples import lease, live, pod, slice_of, view, wish
from hypothesis import given
from hypothesis import strategies as st

from tpnet.agent.cluster.decide import (
    CONFLICT,
    CONFLICT_ELSEWHERE,
    NO_SESSION,
    REFUSED,
    SESSION_GONE,
    LeaseState,
    Standing,
    View,
    decide,
)
from tpnet.agent.cluster.facts import Service, ServicePort, Workload, endpoints_of, pod_of
from tpnet.model import HeaderRule, InterceptReport, NodeReport, PathKind, PathRule, TargetKind
from tpnet.rules.sealed import sealed

A, B = pod("orders-a"), pod("orders-b")
KEY = "shop", "orders-bob"
ENDS = (("orders-a", "n1", True), ("orders-b", "n2", True))


def names(outcome):
    return {key: [one.name for one in rules] for key, rules in outcome.wanted.items()}


def test_a_services_pods_of_this_node_are_wanted_at_the_containers_port():
    outcome = decide(view(wish(), pods=[A], ends=ENDS))
    assert names(outcome) == {("pod/u-orders-a", 8080): ["shop/orders-bob"]}
    (intercept,) = outcome.wanted["pod/u-orders-a", 8080]
    assert (intercept.port, intercept.serial, intercept.target) == (8080, 100, "service/orders")
    case = outcome.cases[KEY]
    assert case.expected == {"n1": {"orders-a"}, "n2": {"orders-b"}}
    assert [spot.pod for spot in case.spots] == ["orders-a"]


def test_a_pod_that_is_not_ready_yet_is_wanted_and_does_not_count():
    outcome = decide(view(wish(), pods=[A], ends=[("orders-a", "n1", False)]))
    assert list(outcome.wanted) == [("pod/u-orders-a", 8080)]
    assert outcome.cases[KEY].expected == {}
    assert outcome.cases[KEY].why == "No endpoint of Service orders is ready."


def test_named_target_ports_may_differ_from_pod_to_pod():
    slices = [
        slice_of(("orders-a", "n1", True), ports=[("http", 8080)]),
        slice_of(("orders-b", "n1", True), ports=[("http", 9090), ("metrics", 1)]),
    ]
    outcome = decide(
        view(wish(port="http"), pods=[A, B], slices=slices, ports=[("http", 80), ("metrics", 81)])
    )
    assert set(outcome.wanted) == {("pod/u-orders-a", 8080), ("pod/u-orders-b", 9090)}


def test_of_several_ports_one_must_be_named():
    two = [("http", 80), ("metrics", 81)]
    case = decide(view(wish(), pods=[A], ends=ENDS, ports=two)).cases[KEY]
    assert case.why == "Which port of Service orders is meant? It has 80 (http), 81 (metrics)."
    case = decide(view(wish(port=82), pods=[A], ends=ENDS, ports=two)).cases[KEY]
    assert case.why == "Service orders has no port 82; it has 80 (http), 81 (metrics)."
    assert decide(
        view(wish(port=80), pods=[A], slices=[slice_of(*ENDS, ports=[("http", 8080)])], ports=two)
    ).wanted


def test_dual_stack_is_one_place():
    slices = [slice_of(*ENDS), slice_of(*ENDS, family="IPv6")]
    case = decide(view(wish(), pods=[A], slices=slices)).cases[KEY]
    assert len(case.spots) == 1
    assert case.expected == {"n1": {"orders-a"}, "n2": {"orders-b"}}


def test_the_hosts_network_is_refused_for_the_pod_alone():
    host = pod("orders-b", host_network=True)
    ends = [("orders-a", "n1", True), ("orders-b", "n1", True)]
    outcome = decide(view(wish(), pods=[A, host], ends=ends))
    assert list(outcome.wanted) == [("pod/u-orders-a", 8080)]
    assert "hostNetwork" in outcome.cases[KEY].spots[1].why
    assert outcome.cases[KEY].problem is None


def test_an_endpoint_whose_pod_is_another_by_now_or_not_seen_yet_waits():
    for pods in ([], [pod("orders-a", uid="another")]):
        outcome = decide(view(wish(), pods=pods, ends=ENDS))
        assert not outcome.wanted
        assert outcome.cases[KEY].spots[0].why == "Its node has not heard of the pod yet."


def test_no_such_service_and_none_that_has_pods():
    assert decide(view(wish(), service=None)).cases[KEY].why == "There is no Service orders in shop."
    case = decide(view(wish(target="Service/other"), pods=[A])).cases[KEY]
    assert not case.known


def test_workloads_by_owner_with_ports_by_number_name_or_the_only_one():
    ref = {(TargetKind.DEPLOYMENT, "shop", "orders"): Workload(3)}
    for port in (None, "http", 8080):
        outcome = decide(view(wish(target="Deployment/orders", port=port), pods=[A], workloads=ref))
        assert list(outcome.wanted) == [("pod/u-orders-a", 8080)]
        assert outcome.cases[KEY].total == 3
    assert not decide(view(wish(target="StatefulSet/orders"), pods=[A])).wanted
    several = pod("orders-a", ports=(("http", 8080), ("sidecar", 9090)))
    (spot,) = decide(view(wish(target="Deployment/orders"), pods=[several], workloads=ref)).cases[KEY].spots
    assert spot.why == "Which port is meant? It has 8080, 9090."
    (spot,) = (
        decide(view(wish(target="Deployment/orders", port="x"), pods=[A], workloads=ref)).cases[KEY].spots
    )
    assert spot.why == "It has no port named x."


def test_a_pod_by_its_name_and_none_of_another_namespace():
    assert list(decide(view(wish(target="Pod/orders-a"), pods=[A])).wanted) == [("pod/u-orders-a", 8080)]
    assert not decide(view(wish(target="Pod/orders-a", namespace="other"), pods=[A])).wanted


def test_system_namespaces_and_labels_refuse():
    outcome = decide(view(wish(namespace="kube-system", target="Pod/dns"), pods=[pod("dns", "kube-system")]))
    assert outcome.cases["kube-system", "orders-bob"].problem.reason == REFUSED
    assert not outcome.wanted
    for limit, headers, refused in (
        ("none", (HeaderRule("a", "b"),), True),
        ("personal", (HeaderRule("a", "b"),), False),
        ("personal", (), True),
        ("all", (), False),
        ("nonsense", (HeaderRule("a", "b"),), True),
    ):
        outcome = decide(view(wish(headers=headers), pods=[A], ends=ENDS, limit=limit))
        assert (outcome.cases[KEY].problem is not None) is refused
        assert bool(outcome.wanted) is not refused


def test_a_namespace_that_was_not_looked_at_yet_waits():
    outcome = decide(view(wish(namespace="new", target="Pod/orders-a"), pods=[pod("orders-a", "new")]))
    assert not outcome.wanted
    assert not outcome.cases["new", "orders-bob"].known


def test_a_session_of_another_user_is_refused():
    sessions = {"bob-1": Standing(LeaseState.LIVE, lease("dave", name="bob-1"))}
    outcome = decide(view(wish(), pods=[A], ends=ENDS, sessions=sessions))
    assert outcome.cases[KEY].problem.reason == REFUSED
    assert not outcome.wanted


def test_a_copied_key_is_refused_and_the_older_session_stays():
    copied = lease("dave", public_key=lease("bob").public_key, created=5.0)
    sessions = live("bob") | {"dave-1": Standing(LeaseState.LIVE, copied)}
    outcome = decide(view(wish(), wish("orders-dave", "dave"), pods=[A], ends=ENDS, sessions=sessions))
    assert names(outcome) == {("pod/u-orders-a", 8080): ["shop/orders-bob"]}
    assert outcome.cases["shop", "orders-dave"].problem.reason == REFUSED


def test_until_the_session_is_known_the_target_is_prepared_without_rules():
    outcome = decide(view(wish(), pods=[A], ends=ENDS, sessions={}))
    assert names(outcome) == {("pod/u-orders-a", 8080): []}


def test_a_session_that_has_ended_is_nobodys_and_bars_nobody():
    for state in (LeaseState.OVER, LeaseState.GONE):
        sessions = live("dave") | {"bob-1": Standing(state)}
        later = wish("z", "dave", 200.0, headers=(HeaderRule("coder", "bob"),))
        outcome = decide(view(wish(), later, pods=[A], ends=ENDS, sessions=sessions))
        assert outcome.cases[KEY].problem.reason == SESSION_GONE
        assert names(outcome) == {("pod/u-orders-a", 8080): ["shop/z"]}


def test_one_that_waits_for_a_session_takes_nothing_and_bars_nobody():
    later = wish("z", "dave", 200.0, headers=(HeaderRule("coder", "bob"),))
    outcome = decide(view(wish(session=""), later, pods=[A], ends=ENDS))
    assert outcome.cases[KEY].problem.reason == NO_SESSION
    assert "tpnet connect -n shop" in outcome.cases[KEY].problem.message
    assert names(outcome) == {("pod/u-orders-a", 8080): ["shop/z"]}


def test_of_two_with_the_same_rules_the_older_wins_and_the_other_says_by_whom_it_lost():
    bob, dave = wish(created=100.0), wish("a", "dave", 101.0, headers=(HeaderRule("CODER", "bob"),))
    outcome = decide(view(dave, bob, pods=[A], ends=ENDS))
    assert names(outcome) == {("pod/u-orders-a", 8080): ["shop/orders-bob"]}
    problem = outcome.cases["shop", "a"].problem
    assert problem.reason == CONFLICT
    assert (
        problem.message
        == "bob's intercept shop/orders-bob, which is older, already takes requests with Coder: #81b637d8."
    )


def test_a_value_and_its_digest_are_the_same_rule_and_a_copied_digest_is_nobodys():
    rule = HeaderRule("coder", "x")
    hidden = sealed(rule, "bob")
    bob = wish(created=100.0, headers=(hidden,))
    for late, conflict in (
        (wish("a", "dave", 101.0, headers=(rule,)), True),
        (wish("a", "dave", 101.0, headers=(HeaderRule("b", "1"), rule)), True),
        (wish("a", "bob", 101.0, headers=(rule,)), True),
        (wish("a", "dave", 101.0, headers=(hidden,)), False),
        (wish("a", "dave", 101.0, headers=(HeaderRule("coder", "y"),)), False),
    ):
        problem = decide(view(late, bob, pods=[A], ends=ENDS)).cases["shop", "a"].problem
        assert (problem is not None) is conflict
    thief = wish("a", "dave", 99.0, headers=(hidden,))
    assert decide(view(thief, bob, pods=[A], ends=ENDS)).cases[KEY].problem is None
    plain = wish("a", "dave", 99.0, headers=(rule,))
    assert decide(view(plain, bob, pods=[A], ends=ENDS)).cases[KEY].problem.reason == CONFLICT


def test_of_the_same_second_the_name_decides():
    bob, dave = wish("b", "bob", 100.0), wish("a", "dave", 100.0, headers=(HeaderRule("Coder", "bob"),))
    outcome = decide(view(bob, dave, pods=[A], ends=ENDS))
    assert names(outcome) == {("pod/u-orders-a", 8080): ["shop/a"]}


def test_different_targets_conflict_where_they_share_a_pods_port():
    bob, dave = (
        wish(),
        wish("a", "dave", 101.0, target="Deployment/orders", headers=(HeaderRule("Coder", "bob"),)),
    )
    outcome = decide(view(bob, dave, pods=[A], ends=ENDS))
    assert outcome.cases["shop", "a"].problem.reason == CONFLICT
    # On a node that has no pod of both it is the other node's word that counts.
    said = InterceptReport(nodes=(NodeReport(node="n2", ready=0, total=1, reason=CONFLICT, message="Lost."),))
    dave = wish("a", "dave", 101.0, target="Deployment/orders", report=said)
    case = decide(view(dave, pods=[A])).cases["shop", "a"]
    assert (case.problem.reason, case.problem.message) == (CONFLICT_ELSEWHERE, "Lost.")
    own = InterceptReport(nodes=(NodeReport(node="n1", ready=0, total=1, reason=CONFLICT, message="Lost."),))
    assert decide(view(wish(report=own), pods=[A], ends=ENDS)).cases[KEY].problem is None
    gone = InterceptReport(nodes=(NodeReport(node="n9", ready=0, total=1, reason=CONFLICT, message="Lost."),))
    assert decide(view(wish(report=gone), pods=[A], ends=ENDS)).cases[KEY].problem is None


def test_rules_that_only_overlap_both_stand_oldest_first():
    one, two = wish(created=2.0), wish("p", "dave", 1.0, headers=(), path=PathRule(PathKind.PREFIX, "/api"))
    outcome = decide(view(one, two, pods=[A], ends=ENDS))
    assert names(outcome) == {("pod/u-orders-a", 8080): ["shop/p", "shop/orders-bob"]}


PORTS = st.sampled_from([None, 80, 81, "http"])
WISHES = st.lists(
    st.builds(
        lambda name, user, created, target, header, port: wish(
            name, user, float(created), target=target, headers=(HeaderRule("H", header),), port=port
        ),
        st.sampled_from("abcdef"),
        st.sampled_from(["bob", "dave"]),
        st.integers(1, 3),
        st.sampled_from(["Service/orders", "Deployment/orders", "Pod/orders-a"]),
        st.sampled_from("xy"),
        PORTS,
    ),
    max_size=6,
    unique_by=lambda one: one.name,
)


@given(WISHES, st.randoms())
def test_the_order_of_things_does_not_matter_and_no_target_has_two_of_the_same_rules(wishes, random):
    shuffled = random.sample(wishes, len(wishes))
    slices = [slice_of(*ENDS, ports=[("http", 8080)])]
    both = [
        decide(view(*some, pods=[A], slices=slices, ports=[("http", 80), ("x", 81)]))
        for some in (wishes, shuffled)
    ]
    assert both[0].wanted == both[1].wanted
    assert both[0].cases == both[1].cases
    for rules in both[0].wanted.values():
        assert len({one.headers for one in rules}) == len(rules)
        assert [one.serial for one in rules] == sorted(one.serial for one in rules)


@given(WISHES)
def test_two_nodes_agree_on_who_wins_what_is_asked_of_the_same_thing(wishes):
    services = [one for one in wishes if one.spec.target.kind is TargetKind.SERVICE]
    slices = [slice_of(*ENDS, ports=[("http", 8080)])]
    seen = [
        decide(view(*services, node=node, pods=[one], slices=slices, ports=[("http", 80), ("x", 81)]))
        for node, one in (("n1", A), ("n2", B))
    ]
    winners = [{key for key, case in outcome.cases.items() if case.problem is None} for outcome in seen]
    assert winners[0] == winners[1]


def test_a_static_pod_is_refused_with_the_reason():
    outcome = decide(view(wish(), pods=[pod("orders-a", static=True)], ends=ENDS))
    assert outcome.wanted == {}
    (spot,) = outcome.cases[KEY].spots
    assert spot.why.startswith("It is a static pod")


words = st.dictionaries(
    st.sampled_from(["kubernetes.io/config.mirror", "kubernetes.io/config.hash", "uid", "pod-template-hash"]),
    st.sampled_from(["u-victim", "pod/u-victim", "../u-victim", "0" * 32]),
)
people = st.fixed_dictionaries(
    {"annotations": words, "labels": words},
    optional={
        "ownerReferences": st.lists(
            st.fixed_dictionaries(
                {
                    "kind": st.sampled_from(["Node", "Pod", "ReplicaSet", "Deployment"]),
                    "name": st.sampled_from(["victim", "orders", "n1"]),
                    "uid": st.just("u-victim"),
                    "controller": st.booleans(),
                }
            ),
            max_size=2,
        ),
        "generateName": st.just("victim-"),
        "finalizers": st.just(["x/y"]),
        "deletionTimestamp": st.just("2030-01-01T00:00:00Z"),
    },
)
statuses = st.fixed_dictionaries(
    {},
    optional={
        "podIP": st.just("10.0.0.9"),
        "podIPs": st.just([{"ip": "10.0.0.9"}]),
        "phase": st.sampled_from(["Running", "Pending"]),
        "containerStatuses": st.just(
            [{"containerID": "containerd://" + "a" * 64, "state": {"running": {}}, "ready": True}]
        ),
        "conditions": st.just([{"type": "Ready", "status": "True"}]),
    },
)
references = st.fixed_dictionaries(
    {
        "kind": st.just("Pod"),
        "name": st.sampled_from(["mine", "victim"]),
        "namespace": st.sampled_from(["mine", "shop"]),
        "uid": st.sampled_from(["u-mine", "u-victim"]),
    }
)


@given(people, statuses, st.lists(references, min_size=1, max_size=3), st.sampled_from(["Pod", "Service"]))
def test_nothing_that_people_write_leads_to_another_pods_processes(written, status, refs, kind):
    """The namespace's own admin writes pods, their status, and endpoints; the uid is the API server's."""
    mine = pod_of(
        {"metadata": {**written, "namespace": "mine", "name": "mine", "uid": "u-mine"}, "status": status}
    )
    victim = pod_of(
        {"metadata": {"namespace": "shop", "name": "victim", "uid": "u-victim"}, "status": status}
    )
    slices = endpoints_of(
        {
            "metadata": {"namespace": "mine"},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [{"addresses": ["10.0.0.9"], "nodeName": "n1", "targetRef": ref} for ref in refs],
        }
    )
    asked = wish(namespace="mine", target=f"{kind}/mine", port=8080 if kind == "Pod" else None)
    outcome = decide(
        View(
            node="n1",
            wishes=[asked],
            pods={("mine", "mine"): mine, ("shop", "victim"): victim},
            services={("mine", "mine"): Service((ServicePort("http", 80),))},
            endpoints={("mine", "mine"): slices},
            limits={"mine": "all"},
            sessions=live(),
            agents=frozenset({"n1"}),
        )
    )
    assert set(outcome.wanted) <= {("pod/u-mine", 8080)}
