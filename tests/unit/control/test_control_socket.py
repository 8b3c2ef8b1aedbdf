import asyncio
import contextlib
import json
import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from tpnet.control.local import LocalControl, default_run_dir
from tpnet.control.local.protocol import MAX_LINE, decode_answer, decode_call, encode_call
from tpnet.control.local.server import ControlServer
from tpnet.model import (
    AgentStatus,
    Conflict,
    ExplainStep,
    Explanation,
    Intercept,
    InterceptStatus,
    InvalidInput,
    NotThere,
    Refused,
    Session,
    SessionGrant,
    Status,
    TargetInfo,
    TpnetError,
)

AGENT = AgentStatus("1", 2, "6.1", "n1", "ebpf", "it works", "kernel", (7, 8))
INTERCEPT = Intercept("i", "bob", "s", "orders", (), 80, tunnel_port=20000)
GRANT = SessionGrant("s", "fd00::1", "key", "fd00::2", 21821, ("10.0.0.1:21820",), 30.0, 1280)


class Echo:
    """A backend that notes its calls."""

    def __init__(self):
        self.calls = []
        self.gate = asyncio.Event()

    async def info(self):
        return AGENT

    async def resolve(self, target):
        self.calls.append(target)
        return [TargetInfo("netns/a", (80, 81), ("10.0.0.2",))]

    async def register_session(self, session):
        self.calls.append(session)
        return GRANT

    async def renew_session(self, name, handlers):
        self.calls.append((name, handlers))
        return 30.0

    async def end_session(self, name):
        self.calls.append(name)

    async def create_intercept(self, intercept):
        self.calls.append(intercept)
        if intercept.name == "slow":
            await self.gate.wait()
        return InterceptStatus(intercept, 1, 1)

    async def delete_intercept(self, name, user, force):
        self.calls.append((name, user, force))
        if user == "mallory":
            raise Refused("It is bob's.", "Ask bob.")
        if user == "bug":
            raise RuntimeError("oops")
        return {"draining": 3}

    async def status(self):
        return Status(AGENT)

    async def explain(self, target, port, method, path, headers):
        self.calls.append((target, port, method, path, headers))
        return Explanation((ExplainStep("i", "bob", (("header a", True),), True, True),), "s", "127.0.0.1:1")


class Served:
    """A server in a thread's event loop."""

    def __init__(self, run_dir):
        self.run_dir = run_dir
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.backend = self.run(self._make())
        self.server = ControlServer(run_dir, self.backend)

    async def _make(self):
        return Echo()

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def close(self):
        self.run(self.server.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def served(tmp_path):
    served = Served(tmp_path)
    served.run(served.server.start())
    yield served
    served.close()


@pytest.fixture
def control(served):
    with LocalControl(served.run_dir) as control:
        yield control


def test_every_call_arrives_and_is_answered_with_the_models_objects(control, served):
    session = Session("s", "bob", "key")
    assert control.info() == AGENT
    assert control.resolve("a*") == [TargetInfo("netns/a", (80, 81), ("10.0.0.2",))]
    assert control.register_session(session) == GRANT
    assert control.renew_session("s", {"i": True, "j": False}) == 30.0
    assert control.end_session("s") is None
    assert control.create_intercept(INTERCEPT) == InterceptStatus(INTERCEPT, 1, 1)
    assert control.delete_intercept("i", "bob") == {"draining": 3}
    assert control.delete_intercept("i", "root", force=True) == {"draining": 3}
    assert control.status() == Status(AGENT)
    explanation = control.explain("a", None, "GET", "/x?y", [("A", "é"), ("A", "2")])
    assert explanation.steps[0].checks == (("header a", True),)
    assert served.backend.calls == [
        "a*",
        session,
        ("s", {"i": True, "j": False}),
        "s",
        INTERCEPT,
        ("i", "bob", False),
        ("i", "root", True),
        ("a", None, "GET", "/x?y", [("A", "é"), ("A", "2")]),
    ]


def test_a_refusal_keeps_its_kind_words_and_hint_and_the_connection_lives_on(control):
    with pytest.raises(Refused, match=r"It is bob's\.") as caught:
        control.delete_intercept("i", "mallory")
    assert caught.value.hint == "Ask bob."
    assert control.info() == AGENT


def test_a_fault_of_the_agent_is_an_error_and_nothing_more(control):
    with pytest.raises(TpnetError, match="failed at delete_intercept"):
        control.delete_intercept("i", "bug")
    assert control.info() == AGENT


def test_no_agent_is_a_sentence_that_says_how_to_start_one(tmp_path):
    with LocalControl(tmp_path) as control, pytest.raises(NotThere, match="No agent answers at") as caught:
        control.info()
    assert caught.value.hint == "Start one: tpnet agent run --local"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "agent.sock"))
    with LocalControl(tmp_path) as control, pytest.raises(NotThere, match="No agent answers at"):
        control.info()


def test_an_agent_that_was_started_anew_is_found_again(control, served):
    assert control.info() == AGENT
    served.run(served.server.close())
    with pytest.raises(NotThere, match="No agent answers"):
        control.info()
    served.server = ControlServer(served.run_dir, served.backend)
    served.run(served.server.start())
    assert control.info() == AGENT


def test_an_agent_that_goes_away_in_the_middle_is_said_so(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "agent.sock"))
        listener.listen()

        def answer_half():
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b'{"ok": ')

        thread = threading.Thread(target=answer_half)
        thread.start()
        with LocalControl(tmp_path) as control, pytest.raises(NotThere, match="went away"):
            control.info()
        thread.join()


def test_a_slow_call_holds_up_no_other_of_the_same_control(control, served):
    slow = Intercept("slow", "bob", "s", "orders", (), 80, tunnel_port=20000)
    thread = threading.Thread(target=control.create_intercept, args=(slow,))
    thread.start()
    assert control.info() == AGENT
    served.loop.call_soon_threadsafe(served.backend.gate.set)
    thread.join(10)
    assert not thread.is_alive()


def test_the_socket_is_roots_alone_and_is_removed(served):
    mode = stat.S_IMODE((served.run_dir / "agent.sock").stat().st_mode)
    assert mode == 0o600
    served.run(served.server.close())
    assert list(served.run_dir.iterdir()) == []


def test_a_second_server_in_the_same_run_directory_is_a_conflict(served):
    second = ControlServer(served.run_dir, served.backend)
    with pytest.raises(Conflict, match="Another agent answers"):
        served.run(second.start())
    with LocalControl(served.run_dir) as control:
        assert control.info() == AGENT


def test_what_a_killed_agent_left_is_replaced(tmp_path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "agent.sock"))
    served = Served(tmp_path)
    try:
        served.run(served.server.start())
        with LocalControl(tmp_path) as control:
            assert control.info() == AGENT
    finally:
        served.close()


def test_a_run_directory_that_is_not_there_is_an_error_with_a_way_out(tmp_path):
    served = Served(tmp_path / "none")
    try:
        with pytest.raises(TpnetError, match="cannot be made") as caught:
            served.run(served.server.start())
        assert "TPNET_RUN_DIR" in caught.value.hint
    finally:
        served.close()


def test_others_than_root_are_refused(served):
    assert os.geteuid() == 0, "only root can become another user: run the tests as root"
    served.run_dir.chmod(0o755)
    for parent in served.run_dir.parents[:2]:
        parent.chmod(0o755)

    def as_nobody(path_mode):
        """What a process of another user gets: (kind, message)."""
        (served.run_dir / "agent.sock").chmod(path_mode)
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                os.setresuid(65534, 65534, 65534)
                try:
                    LocalControl(served.run_dir).info()
                except TpnetError as error:
                    os.write(theirs, json.dumps(error.to_json()).encode())
            os._exit(0)
        os.close(theirs)
        os.waitpid(child, 0)
        with os.fdopen(ours) as pipe:
            return json.loads(pipe.read())

    assert as_nobody(0o600)["kind"] == "refused"
    by_peer = as_nobody(0o666)
    assert by_peer["kind"] == "refused"
    assert "Only root" in by_peer["message"]


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense\n",
        b"[]\n",
        b'{"call": 1, "args": {}}\n',
        b'{"call": "info"}\n',
        b'{"call": "nothing", "args": {}}\n',
        b'{"call": "resolve", "args": {"target": 1}}\n',
        b'{"call": "create_intercept", "args": {"intercept": {"name": "x"}}}\n',
        b'{"call": "explain", "args": {"target":"a","port":1,"method":"GET","path":"/","headers":[["a"]]}}\n',
        b"\xff\xfe\n",
        b"\n",
    ],
)
def test_what_is_no_call_is_refused_and_the_connection_lives_on(served, line):
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(10)
        raw.connect(str(served.run_dir / "agent.sock"))
        raw.sendall(line)
        answers = raw.makefile("rb")
        assert json.loads(answers.readline())["error"]["kind"] == "invalid"
        raw.sendall(encode_call("info", {}))
        assert json.loads(answers.readline())["ok"]["pid"] == 2
        answers.close()


def test_a_line_without_end_closes_its_connection_only(served, control):
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(10)
        raw.connect(str(served.run_dir / "agent.sock"))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(3):
                raw.sendall(b"x" * MAX_LINE)
        with contextlib.suppress(ConnectionResetError):
            assert raw.recv(1) == b""
    assert control.info() == AGENT


def test_lines_of_the_protocol_decode_to_what_was_encoded():
    assert decode_call(encode_call("a", {"b": [1, "ü"]})) == ("a", {"b": [1, "ü"]})
    assert decode_answer(b'{"ok": null}\n') is None
    with pytest.raises(InvalidInput):
        decode_answer(b"{}\n")
    with pytest.raises(Conflict, match="taken"):
        decode_answer(b'{"error": {"kind": "conflict", "message": "taken", "hint": ""}}\n')


def test_the_run_directory_is_the_environments_or_the_default(monkeypatch):
    monkeypatch.setenv("TPNET_RUN_DIR", "/run/other")
    assert default_run_dir() == Path("/run/other")
    monkeypatch.delenv("TPNET_RUN_DIR")
    assert default_run_dir() == Path("/run/tpnet")
