"""What a pod does to the redirect of it: it takes names, it removes rules and routes, it turns its loopback off."""

import contextlib
import subprocess
import sys
import time

import pytest
from agent_lab import Agent, AgentLab, ask, changes, wait_until

from tpnet.datapath.changes import Changes
from tpnet.datapath.hold import lock_namespace, others_in, stay_on
from tpnet.datapath.source_address import SourceAddress
from tpnet.kernel.lock import names_held
from tpnet.model import Conflict

QUICK = "import tpnet.agent.namespace as n; n.PUT_BACK_SECONDS = 4.0"


@pytest.fixture
def lab():
    with contextlib.closing(Agent()) as agent:
        agent.start(QUICK)
        with contextlib.closing(AgentLab(agent)) as lab:
            lab.session()
            yield lab


def inside(pod, command):
    subprocess.run(["ip", "netns", "exec", pod.name, "sh", "-c", command], check=True, capture_output=True)


ACTS = {
    "its rule": "ip rule del pref 747",
    "its rule of IPv6": "ip -6 rule del pref 747",
    "all rules": "ip rule flush; ip rule add pref 32766 lookup main",
    "its route": "ip route flush table 29808",
    "its route of IPv6": "ip -6 route flush table 29808",
    "a rule before it": "ip rule add pref 1 lookup main",
    "its loopback": "ip link set lo down; ip link set lo up",
}


@pytest.mark.slow
@pytest.mark.parametrize("act", ACTS)
def test_what_a_pod_undoes_gives_its_clients_to_the_app_in_time_and_is_told(lab, act):
    pod = lab.pod
    nginx = lab.nginx()
    lab.create()
    assert ask(lab.net) == (200, "the app")

    def target():
        return lab.control.status().targets[0]

    assert target().ready
    wait_until(lambda: target().requests == 1)
    inside(pod, ACTS[act])
    began = time.monotonic()
    wait_until(lambda: not target().ready, 5, lab.agent.words)
    seconds = time.monotonic() - began
    assert "tpnet's rule or route" in target().reason
    problems = lab.control.status().intercepts[0].problems
    assert any("tpnet's rule or route" in one for one in problems)
    for _ in range(5):
        assert ask(lab.net) == (200, "the app")
    assert set(nginx.peers()) == {pod.client_address[4]}
    assert seconds < 2
    if act == "a rule before it":
        inside(pod, "ip rule del pref 1")
    wait_until(lambda: target().ready, 10, lab.agent.words)
    assert ask(lab.net) == (200, "the app")
    wait_until(lambda: target().requests == 2, 5, lambda: "five went past the worker, and one came by again")


def test_what_happens_else_in_a_pod_is_nothing(lab):
    lab.nginx()
    lab.create()
    inside(
        lab.pod,
        "ip route add 10.200.0.0/16 via 10.77.1.1; ip rule add pref 900 lookup main; ip addr add 10.201.0.1/32 dev lo",
    )
    for _ in range(15):
        assert lab.control.status().targets[0].ready
        time.sleep(0.05)


# Names that anybody in the pod may take.


SQUATTER = """
import os, socket, sys, time
held = []
for name in ("tpnet-redirect", "tpnet-stays-1", "tpnet-agent"):
    held.append(socket.socket(socket.AF_UNIX))
    held[-1].bind("\\0" + name)
    held[-1].listen()
if sys.argv[1] == "gone elsewhere":
    elsewhere()
print("taken", flush=True)
time.sleep(60)
"""
ELSEWHERE = """
import ctypes
def elsewhere():
    assert ctypes.CDLL(None).unshare(0x50000000) == 0
"""


@contextlib.contextmanager
def squatter(pod, *how, script=ELSEWHERE + SQUATTER):
    command = ["nsenter", f"--net=/run/netns/{pod.name}", sys.executable, "-c", script, *how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "taken\n"
            yield
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["still there", "gone elsewhere"])
def test_no_name_that_a_pod_takes_keeps_the_agent_away_or_its_changes_there(lab, how):
    lab.nginx()
    with squatter(lab.pod, how):
        lab.create()
        assert lab.control.status().targets[0].ready
        assert changes(lab.pod) != []
        lab.control.delete_intercept("orders-bob", "bob", force=False)
        wait_until(lambda: changes(lab.pod) == [], 10)


ELDER = """
import sys, time
from tpnet.datapath.netns import NetNs
from tpnet.kernel.lock import take_name
with NetNs.from_name(sys.argv[1]) as netns:
    lock = take_name(sys.argv[2], lambda: netns.socket(1, 1))
print("taken", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("name", ["tpnet-redirect", "tpnet-stays-1"])
def test_an_agent_of_before_is_heeded_and_sees_us(podnet, name):
    netns = podnet.pod.netns
    command = [sys.executable, "-c", ELDER, podnet.pod.name, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as elder:
        try:
            assert elder.stdout.readline() == "taken\n"
            for _ in range(20):  # however often one looks: it answers nobody
                assert others_in(netns)
            if name == "tpnet-redirect":
                with pytest.raises(Conflict, match=f"process {elder.pid}"):
                    lock_namespace(netns)
            else:
                lock_namespace(netns).close()
        finally:
            elder.kill()
    wait_until(lambda: not others_in(netns))
    with lock_namespace(netns):
        assert netns.run(lambda: names_held("tpnet-")).keys() == {"tpnet-redirect"}


def test_one_agent_redirects_and_any_number_stay(podnet):
    netns = podnet.pod.netns
    with lock_namespace(netns) as hold:
        assert not others_in(netns, {hold.number})
        with pytest.raises(Conflict, match=r"already \(process \d+\)"):
            lock_namespace(netns)
        assert not others_in(netns, {hold.number}), "who was too late leaves no mark"
        with stay_on(netns) as one, stay_on(netns) as other:
            assert others_in(netns, {hold.number, one.number})
            assert not others_in(netns, {hold.number, one.number, other.number})
        assert others_in(netns)
    assert not others_in(netns)
    lock_namespace(netns).close()


def test_who_stays_does_not_keep_the_next_from_redirecting(podnet):
    netns = podnet.pod.netns
    with stay_on(netns), lock_namespace(netns) as hold:
        assert others_in(netns, {hold.number})


def test_changes_are_seen_once(podnet):
    with contextlib.closing(Changes(podnet.pod.netns)) as seen:
        assert not seen.seen()
        source = SourceAddress(podnet.pod.netns)
        assert not source.holds()
        source.apply()
        assert source.holds()
        assert seen.seen()
        assert not seen.seen()
        inside(
            podnet.pod,
            "for i in $(seq 2000); do echo route add 10.9.$((i / 250)).$((i % 250)) dev lo; done | ip -b -",
        )
        assert seen.seen(), "more than there is room for"
        while seen.seen():
            pass
        source.undo()
        assert seen.seen()
        assert not source.holds()
