"""Signs of life in a whole agent: what the kernel does by itself, what the supervisor does about it, what is said of it."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from agent_lab import GET, Agent, AgentLab, ask, settled, wait_until

PATIENT = "from tpnet.agent import workers\nworkers.HUNG_SECONDS = workers.STARVED_SECONDS = 600.0"
"""An agent that does not replace a worker that hangs."""


@pytest.fixture
def lab(request):
    with contextlib.closing(Agent()) as agent:
        agent.start(getattr(request, "param", ""))
        with contextlib.closing(AgentLab(agent)) as lab:
            lab.nginx()
            lab.session()
            lab.create()
            wait_until(lambda: lab.control.status().targets[0].ready)
            assert ask(lab.net) == (200, "the app")
            yield lab


@contextlib.contextmanager
def stopped(*pids):
    """Processes that do nothing, and hold what they have."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def served(lab):
    """Requests that the worker has seen. It tells the agent once a second."""
    return lab.control.status().targets[0].requests


def serves(lab):
    """Wait until it does."""
    before = served(lab)
    wait_until(lambda: ask(lab.net) == (200, "the app") and served(lab) > before)


class Trapped:
    """A client whose connection the kernel has brought to a worker that hangs: its answer comes in its own time."""

    def __init__(self, lab):
        self.answer = b""
        self._sock = lab.net.connect(8080, timeout=30)
        self._sock.sendall(GET % b"connection: close\r\n")
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self):
        with contextlib.suppress(OSError):
            while data := self._sock.recv(65536):
                self.answer += data

    def done(self):
        self._thread.join(30)
        self._sock.close()
        return self.answer


@pytest.mark.parametrize("lab", [PATIENT], indirect=True)
def test_a_stopped_worker_gets_nobody_new_and_goes_on_where_it_was(lab):
    with lab.net.connect(8080, timeout=30) as kept:
        kept.sendall(GET % b"")
        assert kept.recv(65536).endswith(b"the app\n")
        with stopped(lab.agent.worker()):
            trapped = Trapped(lab)
            time.sleep(1.1)
            for _ in range(50):  # none of them waits for the worker, or this would not end
                assert ask(lab.net) == (200, "the app")
                assert ask(lab.net, family=6) == (200, "the app")
            wait_until(lambda: not lab.control.status().targets[0].ready)
            (target,) = lab.control.status().targets
            assert target.reason == "the worker does not respond: new connections go to the app"
            assert "the worker does not respond" in lab.control.status().intercepts[0].problems[0]
            assert lab.control.info().worker_silent > 1
            status = tpnet(lab, "status")
            assert "does not respond" in status.stdout
            probe = tpnet(lab, "agent", "probe")
            assert probe.returncode == 1
            assert "The worker has not responded for" in probe.stderr
            kept.sendall(GET % b"")
            assert trapped.answer == b""
        assert trapped.done().endswith(b"the app\n")
        assert kept.recv(65536).endswith(b"the app\n")
    wait_until(lambda: lab.control.status().targets[0].ready)
    assert tpnet(lab, "agent", "probe").returncode == 0
    serves(lab)
    assert lab.control.info().worker_restarts == 0
    assert lab.control.info().worker_silent == 0


def tpnet(lab, *args):
    return subprocess.run(
        [sys.executable, "-m", "tpnet_cli", *args],
        env={**os.environ, "TPNET_RUN_DIR": str(lab.agent.run_dir)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_worker_that_hangs_is_replaced_and_its_successor_answers_who_waited(lab):
    old = lab.agent.worker()
    with stopped(old):
        trapped = Trapped(lab)
        wait_until(lambda: lab.agent.worker() != old)
        assert trapped.done().endswith(b"the app\n")
    assert re.search(rf"killing worker {old}: it gave no sign of life for [2-9]\.", lab.agent.words())
    assert lab.control.info().worker_restarts == 1


def test_a_stopped_supervisor_leaves_the_worker_its_work_until_sockets_run_low(lab):
    """Clients one after the other, more than there are sockets for: nobody waits; the probe fails."""
    before = settled(lambda: served(lab))
    with stopped(lab.agent.process.pid):
        answered = 0
        began = time.monotonic()
        while answered < 400 or time.monotonic() - began < 4:
            assert ask(lab.net) == (200, "the app")
            answered += 1
            if answered == 200:
                probe = tpnet(lab, "agent", "probe")
                assert probe.returncode == 1
                assert "does not answer" in probe.stderr
    time.sleep(1.5)
    assert 8 <= served(lab) - before < 100  # what it had sockets for
    wait_until(lambda: lab.control.status().targets[0].ready)
    serves(lab)
    assert lab.control.info().worker_restarts == 0


def test_both_stopped_for_a_while_nobody_is_blamed_afterwards(lab):
    old = lab.agent.worker()
    with stopped(lab.agent.process.pid, old):
        time.sleep(1.3)
        began = time.monotonic()
        while time.monotonic() - began < 4:
            assert ask(lab.net) == (200, "the app")
    wait_until(lambda: lab.control.status().targets[0].ready)
    serves(lab)
    assert lab.agent.worker() == old
    assert lab.control.info().worker_restarts == 0
    (session,) = json.loads(tpnet(lab, "status", "-o", "json").stdout)["sessions"]
    assert session["name"] == "bob@laptop"


def test_at_rest_signs_of_life_cost_little(lab):
    """Less than a hundredth of a processor, worker and supervisor together."""

    def used():
        total = 0
        for pid in (lab.agent.process.pid, lab.agent.worker()):
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    time.sleep(1)
    before = used()
    time.sleep(5)
    assert used() - before < 0.5
