import dataclasses

import pytest

from tpnet.control.kubernetes.options import ClusterOptions
from tpnet.control.kubernetes.targets import (
    interceptable,
    label_of,
    one_port,
    parse_target,
    ports_of,
    split_name,
)
from tpnet.control.kubernetes.view import model_intercept, objects_of, status_of, target_statuses
from tpnet.model import (
    HeaderRule,
    Intercept,
    InvalidInput,
    OnFailure,
    PathKind,
    PathRule,
    TargetInfo,
    TargetKind,
    TargetRef,
)

ORDER = Intercept(
    name="shop/orders-bob",
    user="bob",
    session="bob-1",
    target="orders",
    targets=(),
    port=80,
    headers=(HeaderRule("Coder", "Bob"),),
    path=PathRule(PathKind.PREFIX, "/api"),
    handler="127.0.0.1:8080",
    tunnel_port=20000,
    on_failure=OnFailure.ERROR,
    connect_timeout=30,
)


# TARGET.


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("orders", TargetKind.SERVICE),
        ("svc/orders", TargetKind.SERVICE),
        ("service/orders", TargetKind.SERVICE),
        ("services/orders", TargetKind.SERVICE),
        ("deploy/orders", TargetKind.DEPLOYMENT),
        ("deployment/orders", TargetKind.DEPLOYMENT),
        ("sts/orders", TargetKind.STATEFUL_SET),
        ("statefulset/orders", TargetKind.STATEFUL_SET),
        ("ds/orders", TargetKind.DAEMON_SET),
        ("DaemonSet/orders", TargetKind.DAEMON_SET),
        ("po/orders", TargetKind.POD),
        ("pod/orders", TargetKind.POD),
    ],
)
def test_targets_are_named_as_for_kubectl(text, kind):
    ref = parse_target(text)
    assert ref == TargetRef(kind, "orders")
    assert parse_target(label_of(ref)) == ref


@pytest.mark.parametrize("text", ["job/orders", "a/b/c", "netns/shop-1"])
def test_other_kinds_are_refused_with_those_that_there_are(text):
    with pytest.raises(InvalidInput, match="nothing that can be intercepted") as caught:
        parse_target(text)
    assert "deploy/NAME" in caught.value.hint


@pytest.mark.parametrize("text", ["", "svc/", "Orders", "or ders", "-orders", "orders-", "a" * 254])
def test_what_no_object_can_be_called_is_refused(text):
    with pytest.raises(InvalidInput, match="no name of an object"):
        parse_target(text)


def test_an_intercepts_name_has_its_namespace():
    assert split_name("shop/orders-bob") == ("shop", "orders-bob")
    assert split_name("orders-bob", "shop") == ("shop", "orders-bob")
    assert split_name("prod/orders-bob", "shop") == ("prod", "orders-bob")
    with pytest.raises(InvalidInput, match="has no namespace"):
        split_name("orders-bob")
    with pytest.raises(InvalidInput, match="no name for an intercept"):
        split_name("shop/Orders")


# Ports.


def test_a_services_ports_are_its_own_and_only_tcp():
    service = {
        "spec": {
            "ports": [
                {"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"},
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"port": 90},
            ]
        }
    }
    assert ports_of(TargetKind.SERVICE, service) == [("http", 80), ("", 90)]
    assert interceptable(TargetKind.SERVICE, service)
    assert not interceptable(TargetKind.SERVICE, {"spec": service["spec"] | {"type": "ExternalName"}})
    assert not interceptable(TargetKind.SERVICE, {"spec": {}})


def test_all_elses_ports_are_the_containers_and_native_sidecars_count():
    pod = {
        "containers": [
            {"ports": [{"name": "http", "containerPort": 8080}]},
            {"ports": [{"containerPort": 9000, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}]},
            {},
        ],
        "initContainers": [
            {"ports": [{"containerPort": 1}]},
            {"restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 15001}]},
        ],
    }
    wanted = [("http", 8080), ("", 9000), ("side", 15001)]
    assert ports_of(TargetKind.POD, {"spec": pod}) == wanted
    for kind in (TargetKind.DEPLOYMENT, TargetKind.STATEFUL_SET, TargetKind.DAEMON_SET):
        assert ports_of(kind, {"spec": {"template": {"spec": pod}}}) == wanted


INFO = TargetInfo("shop/svc/orders", listening=(80, 90), port_names=("http", "admin"))


def test_a_port_is_never_guessed():
    assert one_port(INFO, 8080) == 8080
    assert one_port(INFO, "admin") == 90
    assert one_port(INFO, None, {90}) == 90
    assert one_port(dataclasses.replace(INFO, listening=(80,), port_names=("",)), None) == 80
    with pytest.raises(InvalidInput, match=r"Which port of shop/svc/orders .* there: 80, 90\."):
        one_port(INFO, None)
    with pytest.raises(InvalidInput, match=r"These are intercepted: 80, 90\."):
        one_port(INFO, None, {90, 80})
    with pytest.raises(InvalidInput, match="no port named grpc") as caught:
        one_port(INFO, "grpc")
    assert caught.value.hint == "It has: http, admin."
    with pytest.raises(InvalidInput, match="declares no TCP port"):
        one_port(TargetInfo("shop/pod/x"), None)


# Objects as people see them.


def made(order=ORDER, **status):
    obj = objects_of(order, {"a": "b"})
    obj["metadata"]["creationTimestamp"] = "2026-01-02T03:04:05Z"
    return obj | {"status": status}


def part(node, ready, total, **more):
    return {"node": node, "ready": ready, "total": total, **more}


def condition(kind, status, reason, message):
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-01-02T03:04:05Z",
    }


def test_an_intercept_becomes_an_object_and_comes_back():
    obj = made()
    assert obj["metadata"]["namespace"] == "shop"
    assert obj["metadata"]["labels"] == {"a": "b"}
    back = model_intercept(obj, serial=3)
    assert back == dataclasses.replace(
        ORDER, target="svc/orders", targets=("shop/svc/orders",), created=1767323045.0, serial=3
    )


def test_the_only_port_is_left_out():
    obj = made(dataclasses.replace(ORDER, port=0))
    assert "port" not in obj["spec"]
    assert model_intercept(obj).port == 0
    assert model_intercept(obj, port=80).port == 80


def test_an_intercept_that_no_agent_speaks_of_is_not_on():
    status = status_of(made())
    assert (status.ready, status.total, status.session_up) == (0, 0, False)
    assert status.problems == ("no agent has said anything yet",)


def test_the_nodes_parts_are_added_up():
    status = status_of(
        made(
            nodes=[
                part(
                    "n1",
                    2,
                    2,
                    sessionUp=True,
                    hits=5,
                    lastHit="2026-01-02T03:04:05Z",
                    missed=[
                        {"reason": "session down", "count": 2},
                        {"reason": "handler refused", "count": 1},
                    ],
                ),
                part(
                    "n2",
                    1,
                    1,
                    sessionUp=True,
                    hits=7,
                    lastHit="2026-01-02T03:04:06Z",
                    missed=[{"reason": "session down", "count": 4}],
                ),
            ],
            conditions=[condition("Ready", "True", "Redirected", "all")],
        )
    )
    assert (status.ready, status.total, status.hits) == (3, 3, 12)
    assert status.reasons == {"session down": 6, "handler refused": 1}
    assert status.last_hit == 1767323046.0
    assert status.session_up
    assert status.problems == ()


def test_each_endpoint_that_is_missing_has_its_sentence():
    status = status_of(
        made(
            nodes=[
                part("n1", 1, 1, sessionUp=True),
                part(
                    "n2",
                    0,
                    6,
                    endpoints=[
                        {"pod": pod, "port": 80, "ready": False, "reason": why}
                        for pod, why in {
                            **dict.fromkeys("abcde", "nothing listens"),
                            "f": "it has ended",
                        }.items()
                    ],
                    message="a: nothing listens",
                ),
                part("n3", 0, 1, message="The agent on this node is ending."),
            ],
            conditions=[condition("Ready", "False", "Partly", "1 of 8 are redirected.")],
        )
    )
    assert (status.ready, status.total, status.session_up) == (1, 8, False)
    assert status.problems == (
        "node n2: pods a, b, c and 2 more: nothing listens",
        "node n2: pod f: it has ended",
        "node n3: The agent on this node is ending.",
    )


def test_who_refused_it_stands_first():
    status = status_of(
        made(
            nodes=[part("n1", 0, 1, message="not carried out")],
            conditions=[condition("Accepted", "False", "Conflict", "alice's orders-a takes them already.")],
        )
    )
    assert status.problems[0] == "alice's orders-a takes them already."


def test_an_endpoint_of_two_intercepts_is_shown_once():
    end = {"pod": "orders-7d", "port": 8080, "ready": True, "ip": "10.0.0.7"}
    nodes = [part("n1", 1, 1, endpoints=[end])]
    shown = target_statuses([made(nodes=nodes), made(nodes=nodes), made()])
    assert [(one.name, one.port, one.ready, one.addresses) for one in shown] == [
        ("shop/orders-7d on n1", 8080, True, ("10.0.0.7",))
    ]


# Options, as the daemon gets them.


def test_options_go_to_another_process_as_they_are():
    options = ClusterOptions("/a", "c", "shop", True, "eve", ("g", "h"), 1.5, "a=b")
    assert ClusterOptions.from_json(options.to_json()) == options


def test_one_daemon_serves_all_namespaces_of_a_context_as_one_identity():
    options = ClusterOptions("/a", "c")
    assert dataclasses.replace(options, namespace="x", all_namespaces=True).key == options.key
    others = [
        dataclasses.replace(options, kubeconfig="/b"),
        dataclasses.replace(options, context="d"),
        dataclasses.replace(options, as_user="eve"),
        dataclasses.replace(options, as_user="eve", as_groups=("g",)),
    ]
    assert len({options.key, *(one.key for one in others)}) == 5
