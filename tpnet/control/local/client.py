"""The asking end of the control socket: ``Control`` by blocking calls.

``tpnet_cli`` and the session daemon (from threads) use it. It must never retry a call that may have been
carried out.
"""

from __future__ import annotations

import contextlib
import select
import socket
from typing import TYPE_CHECKING, Any, Self

from tpnet.control.local.protocol import MAX_LINE, SOCKET_NAME, decode_answer, default_run_dir, encode_call
from tpnet.model import (
    AgentStatus,
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
from tpnet.model.codec import decode, encode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

_START_HINT = "Start one: tpnet agent run --local"
_TIMEOUT = 10.0
"""Seconds for a call that only asks or notes."""
_CREATE_TIMEOUT = 60.0
"""Seconds for a call that may compile, spawn and probe."""


class LocalControl:
    """``Control`` over the agent's Unix socket in ``run_dir`` (default: ``default_run_dir()``).

    Connections are made on the first call and kept; several threads may call at once. Use it as a context
    manager, or ``close`` it.
    """

    def __init__(self, run_dir: Path | None = None) -> None:
        self.path = (run_dir or default_run_dir()) / SOCKET_NAME
        self._idle: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the kept connections. A later call opens a new one."""
        while self._idle:
            self._idle.pop().close()

    def answers(self) -> bool:
        """See ``NodeControl``."""
        try:
            self._call("info")
        except TpnetError:
            return False
        return True

    def info(self) -> AgentStatus:
        """See ``Control``."""
        return decode(AgentStatus, self._call("info"))

    def resolve(self, target: str) -> list[TargetInfo]:
        """See ``Control``."""
        return [decode(TargetInfo, item) for item in self._call("resolve", target=target)]

    def register_session(self, session: Session) -> SessionGrant:
        """See ``Control``."""
        return decode(SessionGrant, self._call("register_session", session=encode(session)))

    def renew_session(self, name: str, handlers: Mapping[str, bool]) -> float:
        """See ``Control``."""
        return float(self._call("renew_session", name=name, handlers=dict(handlers)))

    def end_session(self, name: str) -> None:
        """See ``Control``."""
        self._call("end_session", name=name)

    def create_intercept(self, intercept: Intercept) -> InterceptStatus:
        """See ``Control``."""
        answer = self._call("create_intercept", timeout=_CREATE_TIMEOUT, intercept=encode(intercept))
        return decode(InterceptStatus, answer)

    def delete_intercept(self, name: str, user: str, force: bool = False) -> dict[str, int]:
        """See ``Control``."""
        answer = self._call("delete_intercept", name=name, user=user, force=force)
        return {str(key): int(value) for key, value in answer.items()}

    def standing(self, session: str) -> set[str]:
        """See ``Control``."""
        return {item.intercept.name for item in self.status().intercepts if item.intercept.session == session}

    def status(self) -> Status:
        """See ``Control``."""
        return decode(Status, self._call("status"))

    def explain(
        self, target: str, port: int | None, method: str, path: str, headers: Sequence[tuple[str, str]]
    ) -> Explanation:
        """See ``Control``."""
        answer = self._call(
            "explain",
            target=target,
            port=port,
            method=method,
            path=path,
            headers=[[name, value] for name, value in headers],
        )
        return decode(Explanation, answer)

    def _call(self, call: str, /, *, timeout: float = _TIMEOUT, **args: Any) -> Any:
        connection = self._connection()
        try:
            connection.settimeout(timeout)
            # An agent that turns the caller away says why and closes at once; its answer is there to be read.
            with contextlib.suppress(BrokenPipeError):
                connection.sendall(encode_call(call, args))
            line = _read_line(connection)
        except TimeoutError as error:
            connection.close()
            raise NotThere(
                f"The agent at {self.path} did not answer within {timeout:g} s.",
                "It may be busy or stuck; look at its output.",
            ) from error
        except OSError as error:
            connection.close()
            raise NotThere(
                f"The agent at {self.path} went away during the call ({error.strerror or error}).",
                _START_HINT,
            ) from error
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return decode_answer(line)

    def _connection(self) -> socket.socket:
        while self._idle:
            try:
                kept = self._idle.pop()
            except IndexError:  # another thread took it between the two looks
                break
            poll = select.poll()
            poll.register(kept, select.POLLIN)
            if not poll.poll(0):  # readable without a question asked: the agent has closed it
                return kept
            kept.close()
        return self._connect()

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        connection.settimeout(_TIMEOUT)
        try:
            connection.connect(str(self.path))
        except PermissionError as error:
            connection.close()
            raise Refused(
                f"Only root may speak to the agent at {self.path}.", "Run the command as root."
            ) from error
        except OSError as error:
            connection.close()
            raise NotThere(f"No agent answers at {self.path}.", _START_HINT) from error
        return connection


def _read_line(connection: socket.socket) -> bytes:
    parts: list[bytes] = []
    size = 0
    while not parts or not parts[-1].endswith(b"\n"):
        data = connection.recv(1 << 16)
        if not data:
            raise ConnectionResetError("it closed the connection")
        parts.append(data)
        size += len(data)
        if size > MAX_LINE:
            raise InvalidInput("The agent's answer is longer than this version can read.")
    return b"".join(parts)
