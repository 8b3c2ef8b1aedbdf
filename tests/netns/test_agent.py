import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from agent_lab import GET, MATCHED, Agent, AgentLab, ask, changes, wait_until
from networks import sent_again

from tpnet.kernel.uids import WORKER_UIDS
from tpnet.model import Conflict, HeaderRule, InvalidInput, NotThere, OnFailure, Refused, Session
from tpnet.rules.sealed import sealed
from tpnet.tunnel import KeyPair


@pytest.fixture
def own():
    """An agent, not started, for one test."""
    with contextlib.closing(Agent()) as agent:
        yield agent


@pytest.fixture
def lab(agent, request):
    with contextlib.closing(AgentLab(agent, pods=getattr(request, "param", 1))) as lab:
        lab.session()
        yield lab


@pytest.fixture
def own_lab(own):
    with contextlib.closing(AgentLab(own.start())) as lab:
        lab.session()
        yield lab


def counted(lab):
    """Requests that the agent has counted, once a second."""
    (target,) = lab.control.status().targets
    return target.requests


def test_nginx_sees_its_clients_own_address_and_afterwards_nothing_is_left(lab):
    nginx = lab.nginx()
    status = lab.create()
    assert (status.ready, status.total, status.problems) == (1, 1, ())
    for family in (4, 6):
        assert ask(lab.net, family=family) == (200, "the app")
    wait_until(lambda: counted(lab) == 2)
    assert nginx.peers()[-2:] == [lab.pod.client_address[4], lab.pod.client_address[6]]
    assert len(changes(lab.pod)) == 7  # a rule and a route of each family, and three sysctls
    lab.control.delete_intercept("orders-bob", "bob")
    wait_until(lambda: not changes(lab.pod))
    assert ask(lab.net) == (200, "the app")
    assert lab.control.status().targets == ()
    assert not (lab.agent.run_dir / "state.json").exists()


def test_matched_requests_of_an_absent_session_go_to_the_app_or_are_refused_as_asked(lab):
    lab.nginx()
    control = lab.control
    lab.create()
    assert ask(lab.net, MATCHED) == (200, "the app")
    lab.create("strict", headers=(HeaderRule("Strict", "1"),), on_failure=OnFailure.ERROR)
    assert ask(lab.net, GET % b"strict: 1\r\n")[0] == 502
    assert ask(lab.net) == (200, "the app")
    wait_until(lambda: counted(lab) == 3)
    first, second = control.status().intercepts
    assert (first.hits, first.reasons) == (0, {"session down": 1})
    assert list(second.reasons.values()) == [1]
    control.delete_intercept("strict", "bob")
    wait_until(lambda: ask(lab.net, GET % b"strict: 1\r\n") == (200, "the app"))


def test_the_shut_off_worker_knows_a_value_by_its_digest(lab):
    lab.nginx()
    rule = HeaderRule("X-Tpnet-Intercept-Id", "6f1c" * 8)
    restarts = lab.control.info().worker_restarts
    lab.create(headers=(sealed(rule, "bob"),), on_failure=OnFailure.ERROR)
    assert ask(lab.net, GET % f"x-tpnet-intercept-id: {rule.value}\r\n".encode())[0] == 502
    for other in (rule.value.upper(), sealed(rule, "bob").digest):
        assert ask(lab.net, GET % f"x-tpnet-intercept-id: {other}\r\n".encode()) == (200, "the app")
    assert ask(lab.net) == (200, "the app")
    assert lab.control.info().worker_restarts == restarts


def test_several_intercepts_of_a_port_come_and_go_without_touching_each_other(lab):
    lab.nginx()
    control = lab.control
    lab.session("alice")
    lab.create()
    lab.create("all", "alice", headers=(), on_failure=OnFailure.ERROR)
    assert ask(lab.net)[0] == 502
    assert ask(lab.net, MATCHED) == (200, "the app")
    assert control.delete_intercept("all", "alice") == {"draining": 0}
    assert ask(lab.net) == (200, "the app")
    assert [item.intercept.name for item in control.status().intercepts] == ["orders-bob"]
    assert control.status().targets[0].ready


@pytest.mark.parametrize("lab", [2], indirect=True)
def test_a_pattern_takes_every_replica_and_one_that_does_not_listen_is_refused_for_all(lab):
    lab.nginx(lab.net.pods[0])
    pattern = f"tpn-{lab.net.tag}-pod*"
    with pytest.raises(NotThere, match=rf"Nothing listens on port 8080 of netns/{lab.net.pods[1].name}"):
        lab.create(target=pattern)
    assert changes(lab.net.pods[0]) == []
    lab.nginx(lab.net.pods[1])
    status = lab.create(target=pattern)
    assert (status.ready, status.total) == (2, 2)
    assert status.intercept.target == pattern
    assert status.intercept.targets == tuple(f"netns/{pod.name}" for pod in lab.net.pods)
    for pod in lab.net.pods:
        assert ask(lab.net, pod=pod) == (200, "the app")
    lab.control.end_session("bob@laptop")
    for pod in lab.net.pods:
        wait_until(lambda pod=pod: not changes(pod))


def test_one_namespace_has_one_name_whatever_it_is_called(lab):
    nginx = lab.nginx()
    control = lab.control
    lab.create()
    assert control.resolve(f"pid/{nginx.process.pid}")[0].name == f"netns/{lab.pod.name}"
    with pytest.raises(Conflict, match="bob's intercept orders-bob"):
        lab.create("second", target=f"pid/{nginx.process.pid}")


@pytest.mark.parametrize(
    ("changes_of_it", "error", "words"),
    [
        ({"target": "no-such-pod"}, NotThere, "no network namespace 'no-such-pod'"),
        ({"port": 8099}, NotThere, "Nothing listens on port 8099"),
        ({"target": "what/is/this"}, InvalidInput, "is no target"),
        ({"session": "nobody@x"}, NotThere, "no session nobody@x"),
        ({"user": "alice", "session": "bob@laptop"}, Refused, "is bob's, not alice's"),
        ({"headers": (HeaderRule("a b", "c"),)}, InvalidInput, "a b"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence_and_leaves_nothing(lab, changes_of_it, error, words):
    lab.pod.app(8080)
    with pytest.raises(error, match=words) as caught:
        lab.create(**changes_of_it)
    assert caught.value.message.endswith(".")
    assert changes(lab.pod) == []
    assert lab.control.status().intercepts == ()


def test_a_port_nobody_listens_on_is_refused_with_those_that_are(lab):
    lab.pod.app(8080)
    with pytest.raises(NotThere) as caught:
        lab.create(port=8099)
    assert caught.value.hint == "Listening there: 8080."


def test_the_agents_own_namespace_is_refused(lab):
    with subprocess.Popen(["nsenter", f"--net=/run/netns/{lab.agent.node}", "sleep", "60"]) as process:
        try:
            node = Path("/run/netns", lab.agent.node).stat().st_ino
            wait_until(lambda: Path(f"/proc/{process.pid}/ns/net").stat().st_ino == node)
            with pytest.raises(Refused, match="host's or the agent's own network namespace"):
                lab.create(target=f"pid/{process.pid}")
        finally:
            process.kill()
    with pytest.raises(Refused, match="own network namespace"):
        lab.control.resolve(f"netns/{lab.agent.node}")


def test_a_second_agent_on_the_node_is_refused_with_the_first_ones_pid(lab):
    first = lab.agent
    second = first.launch()
    assert second.wait(20) == 4
    assert f"Another agent runs on this node already (process {first.process.pid})" in first.words()
    lab.control.info()


def test_a_name_that_somebody_else_has_taken_is_told_as_what_it_is(own):
    code = (
        "import os, socket, time; os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.bind('\\0tpnet-agent');"
        " s.listen(); print('taken', flush=True); time.sleep(60)"
    )
    command = ["nsenter", f"--net=/run/netns/{own.node}", sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as squatter:
        try:
            assert squatter.stdout.readline() == "taken\n"
            assert own.launch().wait(20) == 4
            said = f"The node's lock is held by process {squatter.pid} of user 65534, which is no agent."
            assert said in own.words()
        finally:
            squatter.kill()


@pytest.mark.parametrize(
    ("dropped", "words"),
    [("-sys_admin,-bpf", "BPF map (EPERM): this process has no CAP_BPF"), ("-net_admin", "CAP_NET_ADMIN")],
)
def test_without_the_right_to_redirect_it_says_which_one_is_missing(own, dropped, words):
    assert own.launch(through=("setpriv", "--bounding-set", dropped)).wait(20) == 3
    assert words in own.words()
    assert "Traceback" not in own.words()
    assert [path.name for path in own.run_dir.iterdir()] == ["agent.log"]


def test_t03_nobody_ends_what_is_anothers_but_by_force(lab):
    lab.pod.app(8080)
    lab.create()
    with pytest.raises(Refused, match="bob's, not alice's"):
        lab.control.delete_intercept("orders-bob", "alice")
    with pytest.raises(Conflict, match="bob has a session named"):
        lab.control.register_session(Session("bob@laptop", "alice", KeyPair().public))
    assert lab.control.status().intercepts[0].ready == 1
    lab.control.delete_intercept("orders-bob", "root", force=True)
    assert lab.control.status().intercepts == ()


def test_a_lease_that_nobody_renews_takes_session_and_intercepts_along(own):
    own.start(patch="import tpnet.control.local.store as s; s.LEASE = 3.0")
    with contextlib.closing(AgentLab(own)) as lab:
        control = lab.control
        lab.pod.app(8080, "the app")
        lab.session()
        lab.create()
        for _ in range(4):
            time.sleep(0.9)
            assert control.renew_session("bob@laptop", {}) == 3.0
        assert len(control.status().intercepts) == 1
        wait_until(lambda: not control.status().sessions)
        assert control.status().intercepts == ()
        wait_until(lambda: not changes(lab.pod))
        with pytest.raises(NotThere, match="no session bob@laptop"):
            control.renew_session("bob@laptop", {})


def test_the_same_session_again_begins_with_nothing(lab):
    lab.pod.app(8080)
    lab.create()
    lab.session()
    assert lab.control.status().intercepts == ()
    assert len(lab.control.status().sessions) == 1
    lab.create()
    assert lab.control.status().intercepts[0].ready == 1


def test_handlers_that_do_not_listen_are_shown(lab):
    lab.pod.app(8080, "the app")
    lab.create()
    assert lab.control.status().intercepts[0].handler_up
    lab.control.renew_session("bob@laptop", {"orders-bob": False})
    assert not lab.control.status().intercepts[0].handler_up


def test_a_dry_run_says_which_intercept_takes_a_request_and_why(lab):
    lab.pod.app(8080)
    lab.pod.app(9090)
    control = lab.control
    name = lab.pod.name
    with pytest.raises(InvalidInput, match="Which port"):
        control.explain(name, None, "GET", "/", [])
    lab.create()
    taken = control.explain(name, None, "POST", "/api?x=1", [("CODER", "bob")])
    assert (taken.to, taken.handler) == ("bob@laptop", "127.0.0.1:9")
    assert "does not answer" in taken.reason
    assert [(step.intercept, step.matches, step.chosen) for step in taken.steps] == [
        ("orders-bob", True, True)
    ]
    assert control.explain(name, 8080, "GET", "/", [("coder", "eve")]).to == ""
    assert "no intercept" in control.explain(name, 9090, "GET", "/", []).reason
    probe = control.explain(name, None, "GET", "/", [("coder", "bob"), ("User-Agent", "kube-probe/1.30")])
    assert (probe.to, probe.reason) == ("", "it is a probe of the kubelet")
    for bad in (
        {"method": "G T"},
        {"path": "x y"},
        {"headers": [("a b", "c")]},
        {"headers": [("a", "b\r\nc: d")]},
    ):
        values = {"method": "GET", "path": "/", "headers": []} | bad
        with pytest.raises(InvalidInput):
            control.explain(name, 8080, **values)


LISTS_MODULES = "import atexit\natexit.register(lambda: print('modules:', *sys.modules))"


def test_an_agent_without_a_cluster_never_imports_what_only_one_in_a_cluster_needs(own):
    own.start(LISTS_MODULES)
    assert own.control.status().agent.redirect == "ebpf"
    assert own.stop() == 0
    _, _, modules = own.words().rpartition("modules:")
    assert "tpnet.agent.supervisor" in modules.split()
    large = {"kubernetes", "aiohttp", "tpnet.control.kubernetes", "pyroute2.ndb", "pyroute2.nftables", "bcc"}
    assert large & set(modules.split()) == set()


def test_info_names_what_is_in_use(lab):
    info = lab.control.info()
    assert (info.pid, info.redirect) == (lab.agent.process.pid, "ebpf")
    assert info.wireguard in {"kernel", "wireguard-go"}
    assert info.kernel == os.uname().release
    assert info.memory_kib > 10_000
    assert 0 < time.time() - info.started < 3600


def test_the_worker_is_nobody_and_the_control_socket_is_roots(lab):
    with open(f"/proc/{lab.agent.worker()}/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    (user,) = set(fields["Uid"].split())
    assert int(user) in WORKER_UIDS
    assert set(fields["Gid"].split()) == {user}
    assert {int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb")} == {0}
    assert fields["NoNewPrivs"].strip() == "1"
    assert (lab.agent.run_dir / "agent.sock").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("number", "kept"), [(signal.SIGTERM, 4), (signal.SIGINT, 0)])
def test_told_to_end_it_puts_everything_back_while_traffic_goes_on(own_lab, number, kept):
    lab, agent = own_lab, own_lab.agent
    lab.nginx()
    lab.create()
    worker = agent.worker()
    load = lab.load(kept=kept)
    load.wait(100)
    began = time.monotonic()
    agent.process.send_signal(number)
    assert agent.process.wait(40) == 0, agent.words()
    assert time.monotonic() - began < 20, "it waits for nobody who owes nothing"
    assert changes(lab.pod) == []
    load.wait(100)
    load.stop()
    assert set(load.new) == {"ok"}, load.new
    assert not Path(f"/proc/{worker}").exists()
    assert [path.name for path in agent.run_dir.iterdir()] == ["agent.log"]
    with pytest.raises(NotThere):
        lab.control.info()


def test_told_to_end_while_it_starts_it_leaves_nothing(own):
    for seconds in (0.3, 0.9):
        process = own.launch()
        time.sleep(seconds)
        process.terminate()
        assert process.wait(30) in {0, -signal.SIGTERM}  # the latter: before it was asked to be told
        assert [path.name for path in own.run_dir.iterdir()] == ["agent.log"]
    assert "Traceback" not in own.words()


def test_f07_an_intercept_made_and_removed_under_load_fails_no_request(lab):
    lab.nginx()
    control = lab.control
    again = sent_again(lab.net.client)
    load = lab.load(new=3, kept=3)
    load.wait(50)
    inside = None
    for turn in range(12):
        lab.create()
        if inside is None:  # connections that the worker has, and keeps while all intercepts go
            inside = lab.load(new=0, kept=3)
            wait_until(lambda: lab.control.status().targets[0].open >= 3)
        load.wait(30)
        if turn % 3 == 0:
            lab.create("all", headers=())
            load.wait(10)
            control.delete_intercept("all", "bob")
        control.delete_intercept("orders-bob", "bob")
        load.wait(10 if turn % 2 else 30)
    inside.stop()
    assert set(inside.kept) == {"ok"}, inside.kept
    wait_until(lambda: not changes(lab.pod))
    load.wait(50)
    load.stop()
    assert set(load.new) == {"ok"}, load.new
    assert set(load.kept) == {"ok"}, load.kept
    assert sent_again(lab.net.client) == again, "a SYN found no listener, or a full one"


def test_nothing_that_is_secret_is_in_the_log(lab):
    lab.pod.app(8080, "the app")
    lab.create(headers=(HeaderRule("Coder", "s3cret-value"),))
    ask(lab.net, GET % b"coder: s3cret-value\r\nauthorization: Basic hunter2\r\n")
    lab.control.explain(lab.pod.name, 8080, "GET", "/", [("authorization", "hunter2")])
    lab.control.delete_intercept("orders-bob", "bob")
    assert lab.agent.words()
    assert not re.search("s3cret|hunter2", lab.agent.words())
