"""The supervisor's end of a worker, with workers that are a few lines of Python and keep all of their privileges."""

import asyncio
import contextlib
import os
import resource
import signal
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tpnet.agent import workers as module
from tpnet.agent.workers import Workers
from tpnet.kernel.signs import SPEC, WORKER, Signs
from tpnet.kernel.uids import WORKER_UIDS
from tpnet.model import TpnetError
from tpnet.proxy.channel import AddTarget, AppRefused, Purpose, SetRules, Sockets
from tpnet.proxy.testimony import LieError

PRELUDE = """
import os, socket, sys, time
from tpnet.proxy import channel
from tpnet.proxy.channel import *
from tpnet.kernel.signs import WORKER, Signs
end = socket.socket(fileno=int(sys.argv[1]))
end.setblocking(True)
ready = lambda: channel.send(end, Ready(os.getpid()))
"""
SERVES = """
ready()
while (received := channel.receive(end)) is not None:
    message, fds = received
    if isinstance(message, TakeSigns):
        signs = Signs(fds[0])
        continue
    for fd in fds:
        os.write(fd, b"x")
    channel.send(end, AppRefused(getattr(message, "target", 0)))
"""


def signs():
    """Signs of life in a file in memory: a map takes root."""
    fd = os.memfd_create("signs")
    os.ftruncate(fd, SPEC.entries * SPEC.value_size)
    return Signs(fd)


class Watched(Workers):
    """Notes what it is told."""

    def __init__(self):
        self.events, self.said = [], []
        self.signs = signs()
        super().__init__(
            WORKER_UIDS,
            self.signs,
            lambda: self.events.append("ready"),
            self.events.append,
            self.said.append,
        )

    async def until(self, condition):
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.005)


@pytest.fixture
def worker(monkeypatch):
    """``worker(code)``: what workers are from now on."""

    def use(code):
        script = PRELUDE + textwrap.dedent(code)
        monkeypatch.setattr(module, "command", lambda fd, uid: [sys.executable, "-c", script, str(fd)])
        monkeypatch.setattr(module, "apart", contextlib.nullcontext)  # it takes root

    return use


@contextlib.asynccontextmanager
async def started():
    workers = Watched()
    workers.start()
    try:
        yield workers
    finally:
        await workers.close()
        workers.signs.close()
        assert workers.pids == ()


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def run(coroutine):
    before = descriptors()
    asyncio.run(coroutine)
    assert descriptors() == before


def test_messages_and_descriptors_arrive_in_order(worker):
    worker(SERVES)

    async def body():
        async with started() as workers:
            assert not workers.ready
            await workers.wait_ready()
            ours, theirs = os.pipe()
            for number in range(1, 201):
                workers.send(AddTarget(number, "netns/a", 80), [theirs])
            await workers.until(lambda: len(workers.said) == 200)
            assert workers.said == [AppRefused(number) for number in range(1, 201)]
            os.close(theirs)
            assert os.read(ours, 1000) == b"x" * 200
            os.close(ours)
            assert workers.events == ["ready"]

    run(body())


def test_what_a_busy_worker_does_not_read_waits_and_offers_are_declined(worker):
    worker("ready()\ntime.sleep(0.7)\n" + SERVES.replace("ready()", ""))

    async def body():
        async with started() as workers:
            await workers.wait_ready()
            ours, theirs = os.pipe()
            big = [{"x": "y" * 50_000}]
            for number in range(1, 101):
                workers.send(SetRules(number, big), [theirs])
            assert not workers.offer(Sockets(Purpose.APP4, 1), [theirs])
            await workers.until(lambda: len(workers.said) == 100)
            assert workers.said == [AppRefused(number) for number in range(1, 101)]
            assert workers.offer(Sockets(Purpose.APP4, 7), [theirs])
            await workers.until(lambda: workers.said[-1] == AppRefused(7))
            os.close(theirs)
            assert len(os.read(ours, 1000)) == 101
            os.close(ours)

    run(body())


def test_a_worker_that_dies_is_noticed_at_once_and_replaced(worker):
    worker(SERVES)

    async def body():
        async with started() as workers:
            for turn in range(3):
                await workers.until(lambda: workers.ready)
                (pid,) = workers.pids
                os.kill(pid, signal.SIGKILL)
                await workers.until(lambda: not workers.ready)
                workers.send(AddTarget(1, "lost", 80), [0])  # nobody there: no error
                await workers.until(lambda: workers.ready)
                assert workers.restarts == turn + 1
                assert workers.pids != (pid,)
            assert workers.events == ["ready", 0.0, "ready", 0.2, "ready", 0.4, "ready"]

    run(body())


@pytest.mark.parametrize(
    "code",
    [
        "end.send(b'nonsense')\ntime.sleep(60)",
        "ready()\nend.send(b'J[1')\ntime.sleep(60)",
        "end.close()\ntime.sleep(60)",
        "ready()\nend.send(b'J' + b'[' * 55_000)\ntime.sleep(60)",
        "ready()\nchannel.send(end, NeedSockets(Purpose.APP4, 3, 9), [0, 1, 2])\ntime.sleep(60)",
        "fd = os.memfd_create('x')\nos.ftruncate(fd, 4 << 30)\nsocket.send_fds(end, [b'M'], [fd])\ntime.sleep(60)",
        "ready()\nchannel.send(end, Counters({}, {'i': {'hits': 1, 'last_hit': float('inf'), 'reasons': {}}}))\ntime.sleep(60)",
        "ready()\nready()\ntime.sleep(60)",
        "ready()\nchannel.send(end, SetRules(1))\ntime.sleep(60)",
    ],
)
def test_a_worker_that_makes_no_sense_is_killed_and_replaced(worker, code):
    worker(code)

    async def body():
        async with started() as workers:
            await workers.until(lambda: workers.restarts == 2)
            assert workers.said == []


def test_who_listens_may_call_it_a_lie(worker):
    worker(SERVES)

    async def body():
        async with started() as workers:

            def listen(message):
                raise LieError("no")

            workers._on_message = listen
            await workers.wait_ready()
            workers.send(AddTarget(1, "netns/a", 80))
            await workers.until(lambda: workers.restarts == 1)
            await workers.until(lambda: workers.ready)

    run(body())


def test_a_worker_that_says_much_does_not_keep_the_loop(worker):
    worker("ready()\nwhile True: channel.send(end, AppRefused(1))")

    async def body():
        async with started() as workers:
            workers._on_message = lambda message: time.sleep(0.005)
            await workers.wait_ready()
            longest = 0.0
            for _ in range(50):
                began = time.monotonic()
                await asyncio.sleep(0)
                longest = max(longest, time.monotonic() - began)
            assert longest < 0.005 * module._BURST, "not all that is there"

    run(body())


def test_a_worker_that_is_never_ready_is_killed_and_said_so(worker, monkeypatch):
    monkeypatch.setattr(module, "READY_SECONDS", 0.3)
    worker("time.sleep(60)")

    async def body():
        async with started() as workers:
            with pytest.raises(TpnetError, match=r"No worker became ready within 0\.1 s"):
                await workers.wait_ready(0.1)
            await workers.until(lambda: workers.restarts == 1)

    run(body())


def test_a_worker_that_cannot_be_started_is_tried_again(monkeypatch):
    monkeypatch.setattr(module, "command", lambda fd, uid: ["/nowhere/python"])

    async def body():
        async with started() as workers:
            await workers.until(lambda: workers.restarts == 2)

    run(body())


@pytest.mark.parametrize("free", range(8))
def test_descriptors_that_run_out_end_nothing_for_good(worker, free):
    """Whatever of a start finds no room: another follows, and there is a worker once there is room again."""
    worker(SERVES)

    async def body():
        async with started() as workers:
            await workers.until(lambda: workers.ready)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            probe = os.open("/dev/null", os.O_RDONLY)
            os.close(probe)
            resource.setrlimit(resource.RLIMIT_NOFILE, (probe + free, hard))
            try:
                os.kill(workers.pids[0], signal.SIGKILL)
                await workers.until(lambda: workers.restarts >= 3 or (workers.restarts and workers.ready))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await workers.until(lambda: workers.ready)

    run(body())


def test_a_worker_that_does_not_end_is_ended(worker, monkeypatch):
    monkeypatch.setattr(module, "_END_SECONDS", 0.2)
    worker("ready()\ntime.sleep(60)")

    async def body():
        async with started() as workers:
            await workers.wait_ready()

    run(body())


def test_what_a_worker_says_is_passed_on_line_by_line_and_plain(worker, caplog):
    worker("""
import os
print("first\\x1b[2J\\r of \\u202e all", file=sys.stderr, flush=True)
os.write(2, b"\\xff" + b"x" * 3000 + b"\\nend")
os.write(1, b"nowhere")
ready()
""")

    async def body():
        async with started() as workers:
            await workers.until(lambda: "ready" in workers.events)
            await workers.until(lambda: workers.restarts)
            await workers.until(lambda: sum("end" in one.getMessage() for one in caplog.records))

    run(body())
    said = [one.getMessage() for one in caplog.records if one.name == "tpnet.agent.relay"]
    assert said[0] == "first\\x1b[2J\\r of \\u202e all"
    assert said[1].startswith("\\\\xffxxx")
    assert any(one == "end" for one in said)
    assert "nowhere" not in "".join(said)


def test_a_worker_that_floods_its_log_is_heard_a_little_at_a_time(worker, caplog):
    worker("""
ready()
while True:
    os.write(2, b"y" * 99 + b"\\n")
""")

    async def body():
        async with started() as workers:
            await workers.until(lambda: "ready" in workers.events)
            await asyncio.sleep(1)

    begun = time.monotonic()
    run(body())
    said = [one for one in caplog.records if one.name == "tpnet.agent.relay"]
    reads = (time.monotonic() - begun) / 0.1 + 1
    assert 40 <= len(said) <= 41 * reads + 660, "what a pipe holds is read at the end"


def test_a_worker_has_none_of_the_supervisor_s_secrets(worker, monkeypatch):
    monkeypatch.setenv("TPNET_SECRET", "x")
    monkeypatch.setenv("KUBERNETES_TOKEN", "x")
    worker("""
ready()
odd = [name for name in os.environ if not name.startswith(("PYTHON", "PATH", "LANG", "LC_", "TZ"))]
channel.send(end, AppRefused(len(odd)))
while channel.receive(end): pass
""")

    async def body():
        async with started() as workers:
            await workers.until(lambda: workers.said)
            assert workers.said == [AppRefused(0)]

    run(body())


# Signs of life. A worker that beats in a loop, until it is told of target 7; then it does what ``then`` says.
BEATS = """
ready()
signs = None
end.setblocking(False)
while True:
    try:
        received = channel.receive(end)
    except BlockingIOError:
        time.sleep(0.01)
    else:
        if received is None:
            break
        message, fds = received
        if isinstance(message, TakeSigns):
            signs = Signs(fds[0])
        elif message.target == 7:
            channel.send(end, AppRefused(7))
            THEN
    if signs is not None:
        signs.beat(WORKER)
"""


@contextlib.asynccontextmanager
async def watched(monkeypatch, hung=0.6, starved=30.0):
    """Workers that are watched as the supervisor does it, and hung after ``hung`` seconds."""
    monkeypatch.setattr(module, "HUNG_SECONDS", hung)
    monkeypatch.setattr(module, "STARVED_SECONDS", starved)
    async with started() as workers:
        workers.paused = False

        async def watch():
            while True:
                if not workers.paused:
                    workers.watch()
                await asyncio.sleep(0.05)

        watching = asyncio.create_task(watch())
        try:
            await workers.wait_ready()
            yield workers
        finally:
            watching.cancel()


async def hang(workers):
    """Have the worker do what it does at target 7; its process id."""
    (pid,) = workers.pids
    workers.send(AddTarget(7, "netns/a", 80))
    await workers.until(lambda: AppRefused(7) in workers.said)
    return pid


@pytest.mark.parametrize(
    "then",
    ["time.sleep(600)", "while True: pass", "os.kill(os.getpid(), 19)"],
    ids=["sleeps", "spins", "is stopped"],
)
def test_a_worker_that_hangs_is_killed_and_replaced(worker, monkeypatch, then):
    worker(BEATS.replace("THEN", then))

    async def body():
        async with watched(monkeypatch) as workers:
            assert workers.silent == 0
            pid = await hang(workers)
            await workers.until(lambda: workers.restarts == 1)
            await workers.until(lambda: workers.ready)
            assert workers.pids != (pid,)
            assert workers.silent == 0
            await asyncio.sleep(0.9)  # the next one is well
            assert workers.restarts == 1

    run(body())


def test_a_worker_that_goes_on_in_time_is_left_alone(worker, monkeypatch):
    worker(BEATS.replace("THEN", "time.sleep(1.2)"))

    async def body():
        async with watched(monkeypatch, hung=5.0) as workers:
            (pid,) = workers.pids
            await hang(workers)
            await workers.until(lambda: workers.silent > 1)
            await workers.until(lambda: workers.silent == 0)
            assert workers.pids == (pid,)

    run(body())


def test_a_worker_that_gets_no_processor_is_not_taken_for_hung_at_once(worker, monkeypatch):
    worker(BEATS.replace("THEN", "time.sleep(600)"))
    monkeypatch.setattr(module, "_process_state", lambda pid: ("R", 1.0))

    async def body():
        async with watched(monkeypatch, starved=2.0) as workers:
            await hang(workers)
            await asyncio.sleep(1.2)
            assert workers.restarts == 0
            await workers.until(lambda: workers.restarts == 1)

    run(body())


def test_time_in_which_this_process_was_not_there_counts_for_nobody(worker, monkeypatch):
    worker(BEATS.replace("THEN", "time.sleep(1.5)"))

    async def body():
        async with watched(monkeypatch, hung=1.3) as workers:
            await hang(workers)
            workers.paused = True
            await asyncio.sleep(1.3)
            workers.paused = False
            await workers.until(lambda: workers.silent == 0)
            assert workers.restarts == 0

    run(body())


def test_signs_of_a_worker_that_is_gone_are_taken_back(worker):
    worker(BEATS.replace("THEN", "pass"))

    async def body():
        async with started() as workers:
            await workers.wait_ready()
            await workers.until(lambda: workers.signs.last(WORKER) > 0)
            os.kill(workers.pids[0], signal.SIGKILL)
            await workers.until(lambda: not workers.ready)
            assert workers.signs.last(WORKER) == 0

    run(body())


def test_a_processes_state_is_read(worker):
    state, cpu = module._process_state(os.getpid())
    assert state == "R"
    assert cpu > 0
    assert module._process_state(0) == ("", 0.0)
