"""What becomes of connections when intercepts end, and come back: nothing that anybody would notice."""

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from agent_lab import GET, Agent, AgentLab, ask, changes, ip, wait_until
from laptops import Laptops
from worker_lab import Server, answer, read_request

SEED = random.SystemRandom().randrange(1 << 32)


@pytest.fixture
def lab(agent):
    with contextlib.closing(AgentLab(agent)) as lab:
        yield lab


@pytest.fixture
def laptops(agent):
    with contextlib.closing(Laptops(agent)) as laptops:
        yield laptops


def said(sock, request=GET % b""):
    """Who answers a request over a connection that is open."""
    sock.sendall(request)
    status, body = answer(sock)
    assert status == 200
    return body.strip()


def left(lab):
    return [(target.port, target.open) for target in lab.control.status().targets if target.left]


def up(lab, user):
    return any(one.name == f"{user.name}@laptop" and one.up for one in lab.control.status().sessions)


def forgotten(lab):
    return not lab.control.status().targets and not changes(lab.pod)


def test_connections_live_on_after_the_last_intercept_until_one_of_their_ends_closes(lab):
    lab.nginx()
    lab.session()
    lab.create()
    with lab.net.connect(8080) as idle, lab.net.connect(8080) as other:
        assert said(idle) == said(other) == "the app"
        wait_until(lambda: lab.control.status().targets[0].open == 2)
        assert lab.control.delete_intercept("orders-bob", "bob") == {"draining": 2}
        assert ask(lab.net) == (200, "the app")
        time.sleep(4)
        assert left(lab) == [(8080, 2)]
        assert said(idle) == "the app"
        assert len(changes(lab.pod)) == 7  # without them the app's answers would not come back to us
        other.close()
        wait_until(lambda: left(lab) == [(8080, 1)])
        assert said(idle) == "the app"
    wait_until(lambda: forgotten(lab))
    assert not (lab.agent.run_dir / "state.json").exists()
    assert ask(lab.net) == (200, "the app")


def test_a_long_answer_and_an_upgraded_connection_outlive_the_last_intercept(lab):
    go_on = threading.Event()

    def serve(sock):
        head = read_request(sock)[0]
        if b"upgrade: echo" in head:
            sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n")
            while data := sock.recv(65536):
                sock.sendall(data)
            return
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf")
        go_on.wait(30)
        sock.sendall(b"more")

    with contextlib.closing(Server(lab.pod.netns, 8080, serve)):
        lab.session()
        lab.create()
        with lab.net.connect(8080) as long, lab.net.connect(8080) as upgraded:
            upgraded.sendall(GET % b"connection: upgrade\r\nupgrade: echo\r\n")
            assert upgraded.recv(4096).startswith(b"HTTP/1.1 101 ")
            long.sendall(GET % b"")
            received = b""
            while not received.endswith(b"half"):
                received += long.recv(4096)
            lab.control.delete_intercept("orders-bob", "bob")
            time.sleep(3)
            upgraded.sendall(b"are you there?")
            assert upgraded.recv(4096) == b"are you there?"
            go_on.set()
            assert long.recv(4096) == b"more"
            wait_until(lambda: left(lab))
    wait_until(lambda: forgotten(lab))


def test_one_target_is_left_while_another_of_its_namespace_stands(lab):
    lab.nginx()
    lab.nginx(port=8081)
    lab.session()
    lab.create()
    lab.create("second", port=8081)
    with lab.net.connect(8080) as kept:
        assert said(kept) == "the app"
        lab.control.delete_intercept("orders-bob", "bob")
        lab.control.delete_intercept("second", "bob")
        wait_until(lambda: left(lab) == [(8080, 1)])
        assert said(kept) == "the app"
        lab.create("second", port=8081)
        assert ask(lab.net, port=8081) == (200, "the app")
        assert said(kept) == "the app"
        lab.control.delete_intercept("second", "bob")
    wait_until(lambda: forgotten(lab))


def test_the_worker_dies_with_the_last_connections_of_a_target_that_was_left():
    with contextlib.closing(Agent()) as agent, contextlib.closing(AgentLab(agent.start())) as lab:
        lab.nginx()
        lab.session()
        lab.create()
        with lab.net.connect(8080) as kept:
            assert said(kept) == "the app"
            lab.control.delete_intercept("orders-bob", "bob")
            wait_until(lambda: left(lab))
            os.kill(agent.worker(), signal.SIGKILL)
            wait_until(lambda: forgotten(lab))
            lab.create()
            assert ask(lab.net) == (200, "the app")


def test_a_connection_outlives_the_name_of_its_namespace_and_is_there_when_that_comes_back(lab, laptops):
    lab.nginx()
    bob = laptops.user("bob")
    bob.add(lab)
    name, moved = lab.pod.name, f"{lab.pod.name}x"
    with lab.net.connect(8080) as kept, second_name(name, moved):
        wait_until(lambda: said(kept, bob.matched()) == bob.name)
        ip("netns", "delete", name)
        wait_until(lambda: left(lab))
        assert said(kept, bob.matched()) == "the app"
        time.sleep(2.5)
        assert said(kept) == "the app"
        Path("/run/netns", name).touch()
        bind_mount(f"/run/netns/{moved}", f"/run/netns/{name}")
        wait_until(
            lambda: said(kept, bob.matched()) == bob.name,
            20,
            lambda: (lab.agent.words(), lab.control.status()),
        )
        assert not left(lab)
        assert ask(lab.net, bob.matched()) == (200, bob.name)


@contextlib.contextmanager
def second_name(name, other):
    """A second name of a namespace, which keeps it while the first one is gone."""
    Path("/run/netns", other).touch()
    bind_mount(f"/run/netns/{name}", f"/run/netns/{other}")
    try:
        yield
    finally:
        ip("netns", "delete", other)


def bind_mount(source, place):
    subprocess.run(["mount", "--bind", source, place], check=True)


@pytest.mark.parametrize("pause", [0.0, 1.5], ids=["at once", "when the listener has gone"])
def test_who_leaves_and_intercepts_again_has_the_connections_that_were_kept(lab, laptops, pause):
    lab.nginx()
    bob = laptops.user("bob")
    bob.add(lab)
    with contextlib.ExitStack() as stack:
        kept = [stack.enter_context(lab.net.connect(8080)) for _ in range(8)]
        wait_until(lambda: said(kept[0], bob.matched()) == bob.name)
        for _ in range(2):
            assert {said(sock, bob.matched()) for sock in kept} == {bob.name}
            assert {said(sock) for sock in kept} == {"the app"}
            bob.remove()
            assert {said(sock, bob.matched()) for sock in kept} == {"the app"}
            time.sleep(pause)
            bob.start_session()
            bob.add(lab)
            assert {said(sock, bob.matched()) for sock in kept} == {bob.name}
            assert ask(lab.net, bob.matched()) == (200, bob.name)
        wait_until(lambda: lab.control.status().targets[0].open == 8)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_after_each_step_of_many_every_kept_connection_is_decided_by_the_rules_that_stand(lab, laptops):
    """Others come and go, a global intercept comes and goes; a load over kept connections loses nothing."""
    print(f"seed {SEED}")
    dice = random.Random(SEED)
    lab.nginx()
    bob, alice, carl = users = [laptops.user(name) for name in ("bob", "alice", "carl")]
    for user in users:  # the tunnels are up before anything is measured
        user.start_session()
        user.add(lab)
        wait_until(lambda user=user: ask(lab.net, user.matched()) == (200, user.name))
    for user in users[1:]:
        user.remove()
    standing = {bob}
    wait_until(lambda: up(lab, bob))
    drafts = {bob: {}, alice: {}, carl: {"headers": ()}}

    def expected(user):
        if user in standing - {carl}:
            return user.name
        return carl.name if carl in standing else "the app"

    load = KeptLoad(lab.net, [bob.matched(), alice.matched(), GET % b""])
    with contextlib.ExitStack() as stack:
        stack.callback(load.stop)
        kept = [stack.enter_context(lab.net.connect(8080)) for _ in range(5)]
        for sock in kept:
            assert said(sock) == "the app"
        for step in range(16):
            user = dice.choice(users)
            if user in standing:
                user.remove()
                standing.discard(user)
            else:
                user.start_session()
                user.add(lab, **drafts[user])
                wait_until(lambda user=user: up(lab, user))
                standing.add(user)
                fresh = stack.enter_context(lab.net.connect(8080))
                assert said(fresh, bob.matched()) == expected(bob)
                kept.append(fresh)
            for sock in kept:
                asked = {bob: bob.matched(), alice: alice.matched(), None: GET % b""}
                for whose in dice.sample([bob, alice, None], 3):
                    assert said(sock, asked[whose]) == expected(whose), (step, standing)
            time.sleep(dice.choice([0.0, 0.1, 0.3, 1.3]))
        for user in standing:
            user.remove()
    names = {bob.name, alice.name, carl.name, "the app"}
    assert load.outcomes.total() > 200
    assert set(load.outcomes) <= names, load.outcomes
    wait_until(lambda: forgotten(lab))


class KeptLoad:
    """Each of ``requests`` again and again over a kept connection of its own; ``outcomes`` counts who answered, and errors."""

    def __init__(self, net, requests, port=8080, pause=0.005):
        self.outcomes = Counter()
        self._stop = threading.Event()
        self._net, self._port, self._pause = net, port, pause
        self._threads = [threading.Thread(target=self._run, args=(request,)) for request in requests]
        for thread in self._threads:
            thread.start()

    def _run(self, request):
        try:
            with self._net.connect(self._port) as sock:
                while not self._stop.is_set():
                    self.outcomes[said(sock, request)] += 1
                    time.sleep(self._pause)
        except (OSError, AssertionError, TypeError) as error:
            self.outcomes[repr(error)] += 1

    def stop(self):
        self._stop.set()
        for thread in self._threads:
            thread.join()
