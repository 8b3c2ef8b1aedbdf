"""What the kubelet asks of a pod, read off the pod's spec."""

import pytest
from cluster_samples import pod, view, wish

from tpnet.agent.cluster.book import ClusterBook
from tpnet.agent.cluster.decide import decide
from tpnet.agent.cluster.facts import pod_of
from tpnet.rules import Probe

PORTS = [{"name": "http", "containerPort": 8080}, {"name": "admin", "containerPort": 9090}]


def probes_of(container, **spec):
    item = {
        "metadata": {"name": "x", "namespace": "shop"},
        "spec": {"containers": [{"ports": PORTS, **container}], **spec},
        "status": {"podIPs": [{"ip": "10.0.0.1"}]},
    }
    return pod_of(item).probes


def get(**action):
    return {"httpGet": {"port": 8080, **action}}


def test_probes_and_hooks_of_every_kind_are_read():
    container = {
        "livenessProbe": get(path="/live", port="admin"),
        "readinessProbe": get(path="/ready?full=1", httpHeaders=[{"name": "X-Probe", "value": "1"}]),
        "startupProbe": get(path="/start"),
        "lifecycle": {"postStart": get(path="/begun"), "preStop": get(path="/ends")},
    }
    assert probes_of(container) == (
        (9090, Probe("/live")),
        (8080, Probe("/ready?full=1", (("X-Probe", "1"),))),
        (8080, Probe("/start")),
        (8080, Probe("/begun")),
        (8080, Probe("/ends")),
    )


def test_native_sidecars_have_probes_too():
    sidecar = {"restartPolicy": "Always", "livenessProbe": get(port=7070, path="/side")}
    once = {"livenessProbe": get(port=7071, path="/once")}
    assert probes_of({}, initContainers=[sidecar, once]) == ((7070, Probe("/side")),)


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ({}, "/"),
        ({"path": ""}, "/"),
        ({"path": "healthz"}, "/healthz"),
        ({"path": "/a#fragment"}, "/a"),
        ({"path": "/a", "host": "10.0.0.1"}, "/a"),
        ({"path": "/a", "scheme": "HTTP"}, "/a"),
    ],
)
def test_the_path_is_what_the_kubelet_sends(action, expected):
    assert probes_of({"livenessProbe": get(**action)}) == ((8080, Probe(expected)),)


@pytest.mark.parametrize(
    "probe",
    [
        {"tcpSocket": {"port": 8080}},
        {"grpc": {"port": 8080}},
        {"exec": {"command": ["true"]}},
        get(scheme="HTTPS"),
        get(host="127.0.0.1"),
        get(port="no-such-port") | {},
        {},
    ],
)
def test_what_is_no_plain_http_to_the_pod_is_none(probe):
    assert [one for one in probes_of({"livenessProbe": probe}) if one[0]] == []


def test_a_port_may_be_text_and_a_value_that_takes_a_header_away_is_none():
    headers = [{"name": "Accept", "value": ""}, {"name": "user-agent"}, {"name": "X-Empty", "value": ""}]
    assert probes_of({"livenessProbe": get(port="8081", httpHeaders=headers)}) == (
        (8081, Probe("/", (("X-Empty", ""),))),
    )


def test_each_target_has_the_probes_of_its_port():
    one = pod(probes=((8080, Probe("/a")), (9090, Probe("/b")), (8080, Probe("/c"))))
    outcome = decide(view(wish(), pods=[one], ends=[("orders-a", "n1", True)]))
    key = ("pod/u-orders-a", 8080)
    assert outcome.probes == {key: (Probe("/a"), Probe("/c"))}
    book = ClusterBook()
    assert book.probes(key) == ()
    book.set_wanted(outcome.wanted, outcome.probes, outcome.addresses)
    assert book.probes(key) == (Probe("/a"), Probe("/c"))
