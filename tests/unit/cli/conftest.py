"""An agent that is only a socket with prepared answers, for the commands to speak to."""

import contextlib
import socket
import threading

import pytest
from cli_samples import EMPTY, INFOS, STATUS

from tpnet.control.local.protocol import SOCKET_NAME, decode_call, encode_error, encode_ok
from tpnet.model import TpnetError
from tpnet.model.codec import encode


class FakeAgent:
    """Answers each call with ``answers[name]``: data, an error, or a function of the arguments. Notes all calls."""

    def __init__(self, path):
        self.calls = []
        self.answers = {
            "info": encode(EMPTY.agent),
            "status": encode(EMPTY),
            "resolve": [encode(i) for i in INFOS],
        }
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(8)
        self._open = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def busy(self):
        self.answers["status"] = encode(STATUS)

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self._threads[-1].start()

    def _serve(self, connection):
        with connection, connection.makefile("rb") as lines:
            for line in lines:
                name, args = decode_call(line)
                self.calls.append((name, args))
                answer = self.answers[name]
                answer = answer(args) if callable(answer) else answer
                reply = encode_error(answer) if isinstance(answer, TpnetError) else encode_ok(answer)
                connection.sendall(reply)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Nothing of the machine's: no agent, no identity, 80 columns."""
    for name in (
        "NO_COLOR",
        "LC_ALL",
        "PYTHONIOENCODING",
        "SUDO_USER",
        "TPNET_LAB_DIR",
        "XDG_STATE_HOME",
        "KUBECONFIG",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TPNET_RUN_DIR", str(tmp_path))
    monkeypatch.setenv("TPNET_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TPNET_USER", "bob")
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


@pytest.fixture
def agent(home):
    """An agent without intercepts."""
    fake = FakeAgent(home / SOCKET_NAME)
    yield fake
    fake.close()
