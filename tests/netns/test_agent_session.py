"""The whole way: client, pod, worker, tunnel, session daemon, handler; every part is the real one."""

import contextlib
import os
import signal
import time

import pytest
from agent_lab import GET, MATCHED, AgentLab, ask, wait_until
from clock import quickest
from laptops import Laptops
from tunnel_lab import gone
from worker_lab import Bulk, Server, peak

from tpnet.agent.status import memory_kib
from tpnet.model import Conflict, HeaderRule, OnFailure, PathKind, PathRule
from tpnet.session.client import ensure_session


@pytest.fixture
def lab(agent):
    lab = AgentLab(agent)
    lab.nginx()
    yield lab
    lab.close()


@pytest.fixture
def laptops(agent):
    laptops = Laptops(agent)
    yield laptops
    laptops.close()


def goes_to(lab, request, name, seconds=0.0):
    """Whether it does; or does so within these seconds, and every answer until then was the app's or the name's."""
    if not seconds:
        return ask(lab.net, request) == (200, name)

    def yet():
        status, body = ask(lab.net, request)
        assert (status, body) in {(200, name), (200, "the app")}
        return body == name

    return wait_until(yet, seconds)


def test_matched_requests_go_to_the_handler_and_all_others_to_the_app(lab, laptops):
    bob = laptops.user("bob")
    status = bob.add(lab)
    assert (status.ready, status.total, status.handler_up, status.session_up) == (1, 1, True, True)
    for _ in range(3):
        assert goes_to(lab, bob.matched(), bob.name)
        assert goes_to(lab, GET % b"", "the app")
        assert goes_to(lab, MATCHED, "the app")
    with lab.net.connect(8080) as client:  # on one kept connection too, answers in the order of requests
        client.sendall((bob.matched() + GET % b"") * 3)
        answers = b""
        while answers.count(b"the app\n") < 3:
            data = client.recv(65536)
            assert data
            answers += data
    bodies = [part.partition(b"\r\n\r\n")[2] for part in answers.split(b"HTTP/1.1 200")[1:]]
    assert bodies == [bob.name.encode(), b"the app\n"] * 3

    def counted():
        (item,) = lab.control.status().intercepts
        return item.hits == 6 and item.last_hit > time.time() - 10

    wait_until(counted)
    wait_until(lambda: lab.control.status().sessions[0].rtt_ms > 0)  # told with the second heartbeat
    (session,) = lab.control.status().sessions
    assert session.up
    assert session.endpoint
    assert 19 < session.lease_left <= 30
    assert lab.control.explain(lab.pod.name, None, "GET", "/", [("coder", bob.name)]).reason == ""
    bob.client.remove(f"orders-{bob.name}")
    assert goes_to(lab, bob.matched(), "the app")


def test_two_developers_a_global_one_and_a_path_at_once(lab, laptops):
    bob = laptops.user("bob")
    bob.add(lab)  # before alice comes: a session daemon that is given nothing ends after seconds
    alice = laptops.user("alice")
    alice.add(lab, headers=(), path=PathRule(PathKind.PREFIX, "/api"))
    assert goes_to(lab, bob.matched(), bob.name)  # personal beats global
    assert goes_to(lab, GET % b"", alice.name)
    assert goes_to(lab, GET.replace(b"/api", b"/other") % b"", "the app")
    with pytest.raises(Conflict, match=f"{bob.name}'s intercept orders-{bob.name}"):
        alice.add(lab, "second", headers=(HeaderRule("coder", bob.name),))
    alice.client.quit()
    assert goes_to(lab, GET % b"", "the app")
    assert goes_to(lab, bob.matched(), bob.name)
    assert [item.intercept.user for item in lab.control.status().intercepts] == [bob.name]


def test_f02_laptop_killed_matched_requests_are_back_on_the_app_within_three_seconds(lab, laptops):
    bob = laptops.user("bob")
    bob.add(lab)
    assert goes_to(lab, bob.matched(), bob.name)
    os.kill(bob.client.info()["pid"], signal.SIGKILL)
    killed = time.monotonic()
    slowest = 0.0
    while (now := time.monotonic()) - killed < 3.5:
        assert goes_to(lab, bob.matched(), "the app")
        slowest = max(slowest, time.monotonic() - now)
        time.sleep(0.05)
    assert slowest < 5  # each until it is known: at most a second late; the handler alone has ten
    wait_until(lambda: not lab.control.status().intercepts[0].session_up)
    with bob.laptop.entered():  # the same user again takes the session over at once
        bob.client = ensure_session(laptops.agent.run_dir, bob.name, name=f"{bob.name}@laptop")
    bob.add(lab)
    assert goes_to(lab, bob.matched(), bob.name)


def test_f01_handler_that_is_not_there_sends_requests_to_the_app_and_back(lab, laptops):
    bob = laptops.user("bob")
    bob.add(lab)
    for _ in range(2):
        bob.handler.close()
        for _ in range(10):
            began = time.monotonic()
            assert goes_to(lab, bob.matched(), "the app")
            assert time.monotonic() - began < 5
        wait_until(lambda: not lab.control.status().intercepts[0].handler_up)
        assert goes_to(lab, bob.matched(), "the app")  # the worker does not ask the session any more
        wait_until(lambda: "handler not listening" in lab.control.status().intercepts[0].reasons)
        bob.start_handler()
        goes_to(lab, bob.matched(), bob.name, seconds=20)
    assert lab.control.status().intercepts[0].handler_up


def test_a_developer_who_wants_errors_gets_them(lab, laptops):
    bob = laptops.user("bob")
    bob.add(lab, on_failure=OnFailure.ERROR)
    assert goes_to(lab, bob.matched(), bob.name)
    bob.handler.close()
    assert ask(lab.net, bob.matched())[0] == 502
    assert goes_to(lab, GET % b"", "the app")


def test_worker_killed_the_session_goes_on_with_the_next_one(lab, laptops):
    bob = laptops.user("bob")
    bob.add(lab)
    assert goes_to(lab, bob.matched(), bob.name)
    old = lab.agent.worker()
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: lab.agent.worker() != old)
    goes_to(lab, bob.matched(), bob.name, seconds=20)


def test_agent_killed_and_started_again_gets_session_and_intercept_back(laptops, lab):
    bob = laptops.user("bob")
    bob.add(lab)
    assert goes_to(lab, bob.matched(), bob.name)
    lab.agent.kill()
    with contextlib.suppress(ConnectionError):  # at most one reset per listener
        goes_to(lab, bob.matched(), "the app")
    assert goes_to(lab, bob.matched(), "the app")
    lab.agent.start()
    goes_to(lab, bob.matched(), bob.name, seconds=30)
    assert lab.control.status().sessions[0].up


def test_kept_connections_that_owe_nothing_keep_no_session_that_is_left(laptops, lab):
    bob = laptops.user("bob")
    bob.add(lab)
    pid = bob.client.info()["pid"]
    with lab.net.connect(8080) as client:
        for _ in range(2):
            client.sendall(bob.matched())
            assert bob.name.encode() in client.recv(65536)
        assert bob.client.info()["intercepts"][0]["open"] == 1
        bob.client.remove(f"orders-{bob.name}")
        wait_until(lambda: gone(pid))
        client.sendall(bob.matched())
        assert b"the app" in client.recv(65536)


def test_agent_that_ends_says_goodbye_and_the_next_one_has_everything_within_a_second(laptops, lab):
    bob = laptops.user("bob")
    bob.add(lab)

    def next_one():
        """Seconds until the next agent has everything, once it answers."""
        assert goes_to(lab, bob.matched(), bob.name)
        assert lab.agent.stop() == 0
        wait_until(lambda: not bob.client.info()["up"])
        assert goes_to(lab, bob.matched(), "the app")
        lab.agent.start()
        ready = time.monotonic()
        goes_to(lab, bob.matched(), bob.name, seconds=20)
        return time.monotonic() - ready

    assert quickest(1.0, next_one, 4) < 1.0


def test_intercept_made_and_removed_under_load_with_a_session(lab, laptops):
    bob = laptops.user("bob")
    load = lab.load(new=2, kept=2)
    load.wait(30)
    for _ in range(5):
        bob.add(lab)
        for _ in range(5):
            assert goes_to(lab, bob.matched(), bob.name)
        load.wait(20)
        bob.client.remove(f"orders-{bob.name}")
        assert goes_to(lab, bob.matched(), "the app")
        if not lab.control.status().sessions:  # the daemon ended with its last intercept
            with bob.laptop.entered():
                bob.client = ensure_session(laptops.agent.run_dir, bob.name, name=f"{bob.name}@laptop")
    load.stop()
    assert set(load.new) == {"ok"}, load.new
    assert set(load.kept) == {"ok"}, load.kept


@pytest.mark.slow
@pytest.mark.timeout(
    240
)  # half a minute of wireguard-go at both ends, where the machine has nothing else to do
def test_a_gibibyte_each_way_to_a_handler_arrives_whole_in_bounded_memory(lab, laptops):
    bob = laptops.user("bob")
    bob.add(lab)
    bob.handler.close()
    bulk = Bulk()
    server = Server(bob.laptop, 8080, bulk.serve, "::ffff:127.0.0.1")
    try:
        wait_until(lambda: bob.client.info()["intercepts"][0]["handler_up"])
        processes = {"worker": lab.agent.worker(), "session daemon": bob.client.info()["pid"]}
        before = {name: memory_kib([pid]) for name, pid in processes.items()}
        with lab.net.connect(8080, timeout=30) as sock:
            bulk.ask(sock, b"POST / HTTP/1.1\r\ncoder: %s\r\n%s\r\n\r\n" % (bob.name.encode(), bulk.field))
        for name, pid in processes.items():
            assert peak(pid) - before[name] < 32 * 1024, name
    finally:
        server.close()
