"""The kubelet's probes reach the app through a worker whose rules would give them to a session."""

import contextlib
from dataclasses import replace

import pytest
from worker_lab import Server, WorkerLab, answer, answering, behind_tunnel, intercept, until

from tpnet.rules import Probe

PORT = 8080
TUNNEL = 20001
GLOBAL = replace(intercept(PORT, TUNNEL), headers=())
OWN = Probe("/healthz?full=1", (("User-Agent", "Checker"), ("X-Probe", "1")))
BARE = Probe("/ready")


def get(path="/", *lines, method="GET"):
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: a", *lines, "", ""]).encode()


@pytest.fixture
def lab(net, program):
    lab = WorkerLab()
    with (
        contextlib.closing(Server(net.pod.netns, PORT, answering("app"))),
        contextlib.closing(Server(net.client, TUNNEL, behind_tunnel(answering("handler")))),
    ):
        lab.add_target(net.pod.netns, PORT, program)
        lab.session(net.client, [TUNNEL])
        yield lab
    assert lab.close() == ""


def asked(net, request, family=4):
    with net.connect(PORT, family) as sock:
        sock.sendall(request)
        return answer(sock)[1].split()[0]


OWN_LINES = ("user-agent: Checker", "x-probe: 1")


def test_under_a_global_intercept_only_what_equals_a_probe_is_the_apps(net, lab):
    lab.rules(GLOBAL, probes=[OWN, BARE])
    assert asked(net, get("/healthz?full=1", *OWN_LINES)) == "app"
    assert asked(net, get("/x", "User-Agent: kube-probe/1.31")) == "app"
    assert asked(net, get("/x", "User-Agent: kube-lifecycle/1.31")) == "app"
    for other in (
        get("/healthz", *OWN_LINES),
        get("/healthz?full=1", "user-agent: Checker"),
        get("/ready"),
        get("/"),
    ):
        assert asked(net, other) == "handler", other
    until(lambda: lab.target.get("reasons", {}).get("it is a probe of the kubelet") == 3)
    assert lab.target["verdicts"]["A"] == 3


@pytest.mark.parametrize("family", [4, 6])
def test_from_the_nodes_own_address_a_probes_path_is_enough(net, lab, family):
    lab.rules(GLOBAL, probes=[OWN, BARE])
    assert asked(net, get("/ready"), family) == "handler"
    lab.node(net.pod.client_address[4], net.pod.client_address[6])
    assert asked(net, get("/ready"), family) == "app"
    assert asked(net, get("/healthz?full=1"), family) == "app"
    assert asked(net, get("/healthz"), family) == "handler"
    assert asked(net, get("/ready", method="POST"), family) == "handler"


def test_a_personal_intercept_keeps_what_carries_its_header(net, lab):
    lab.node(net.pod.client_address[4])
    lab.rules(intercept(PORT, TUNNEL), probes=[OWN, BARE])
    assert asked(net, get("/ready", "x-me: me")) == "handler"
    assert asked(net, get("/healthz?full=1", *OWN_LINES, "x-me: me")) == "handler"
    assert asked(net, get("/ready")) == "app"


def test_a_probe_among_other_requests_of_one_connection(net, lab):
    lab.rules(GLOBAL, probes=[OWN])
    probe = get("/healthz?full=1", *OWN_LINES)
    with net.connect(PORT) as sock:
        for request, who in ((get(), "handler"), (probe, "app"), (get(), "handler"), (probe, "app")):
            sock.sendall(request)
            assert answer(sock)[1].split()[0] == who
