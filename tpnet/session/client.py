"""The session daemon as the command line sees it: start it if need be, and ask it things.

``tpnet_cli`` calls this. It must never start a second daemon for the same user and run directory.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from tpnet.control.local.protocol import MAX_LINE, decode_answer, encode_call
from tpnet.kernel import files
from tpnet.model import Conflict, InterceptStatus, NotThere, Refused, TpnetError
from tpnet.model.codec import decode, encode
from tpnet.session.paths import Paths, locked

if TYPE_CHECKING:
    from pathlib import Path

    from tpnet.control.kubernetes.options import ClusterOptions
    from tpnet.model import Intercept

END_SECONDS = 5.0
"""Seconds that connections may last when the whole session ends; those of an intercept that is left last as they like."""
_CALL_SECONDS = 15.0
_ADD_SECONDS = 75.0
_REMOVE_SECONDS = 25.0
_START_SECONDS = 30.0


class SessionClient:
    """One user's daemon. Calls block; they raise what it answers, and ``NotThere`` when there is none."""

    def __init__(self, run_dir: Path, user: str, cluster: ClusterOptions | None = None) -> None:
        self.paths = Paths.of(run_dir, user, cluster)
        self.user = user

    def info(self, *, stay: bool = False) -> dict[str, Any]:
        """What the daemon knows of itself. ``stay``: it is to wait some seconds for an intercept before it ends.

        ``session``, ``user``, ``pid``, ``started`` (Unix seconds), ``address``, ``agent_address``,
        ``endpoint``, ``up``, ``rtt_ms``, ``wireguard`` (a sentence), ``log`` (a path), ``agents`` (a list of ``node``,
        ``address``, ``endpoint``, ``up``, ``rtt_ms``, ``mtu``) and ``intercepts``: a
        list of ``name``, ``handler``, ``handler_up``, ``handler_problem``, ``tunnel_port``,
        ``open``, ``total``, ``refused`` (connections) and ``problem`` (empty: none).
        """
        return dict(self._call("info", stay=stay))

    def add(self, intercept: Intercept) -> InterceptStatus:
        """Create an intercept of this session. ``session`` and ``tunnel_port`` are filled in by the daemon.

        When this is interrupted before the answer, the daemon removes it again. Raises what the agent raises,
        ``Conflict`` for a name that the session has already.
        """
        return decode(InterceptStatus, self._call("add", _ADD_SECONDS, intercept=encode(intercept)))

    def follow(self, namespace: str) -> None:
        """Serve this user's intercepts in ``namespace`` that name no session, and stay until ``quit``.

        Raises ``InvalidInput`` for a session without a cluster.
        """
        self._call("follow", namespace=namespace)

    def remove(self, name: str) -> dict[str, Any]:
        """Remove an intercept. Returns ``draining``, ``last`` and ``told``.

        ``draining`` connections are still open, and end in their own time; with ``last`` the daemon ends after them.
        ``told`` is false where no agent answers: what it may have of the intercept ends when it answers again, or
        with the lease. Raises ``NotThere`` when the session has no intercept of that name.
        """
        return dict(self._call("remove", _REMOVE_SECONDS, name=name))

    def quit(self) -> dict[str, Any]:
        """End the session and the daemon, and wait until it has gone. Open connections have ``END_SECONDS`` to end.

        Returns ``behind``, the intercepts that could not be removed, each with the reason (they go when the session's
        lease ends), and ``cut``, how many connections were still open.
        """
        answer = self._call("quit")
        with locked(self.paths.lock, _CALL_SECONDS, "The session daemon does not end."):
            return {"behind": dict(answer.get("behind") or {}), "cut": int(answer.get("cut") or 0)}

    def _call(self, name: str, seconds: float = _CALL_SECONDS, /, **args: object) -> Any:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(seconds)
            try:
                connection.connect(str(self.paths.socket))
            except PermissionError as error:
                raise Refused(
                    f"The session of {self.user} is not yours to ask.", "Use its own account."
                ) from error
            except OSError as error:
                raise NotThere(f"{self.user} has no session on this computer.") from error
            answer = b""
            try:
                connection.sendall(encode_call(name, args))
                while not answer.endswith(b"\n") and len(answer) < MAX_LINE:
                    chunk = connection.recv(1 << 16)
                    if not chunk:
                        raise ConnectionResetError("it closed the connection")
                    answer += chunk
            except OSError as error:
                raise NotThere(
                    f"The session daemon went away, or did not answer within {seconds:.0f} s ({error}).",
                    f"See {self.paths.log}",
                ) from error
        return decode_answer(answer)


def ensure_session(
    run_dir: Path, user: str, *, name: str | None = None, cluster: ClusterOptions | None = None
) -> SessionClient:
    """The user's session daemon, for this machine's agent or for a cluster, started if it does not run.

    ``name`` is the session's, by default user@host. The daemon belongs to no terminal, and stays until its
    last intercept is removed. Blocks until it is ready (half a second), and raises what keeps it from it:
    ``NotThere`` without an agent, ``DeviceError`` without a tunnel, and ``Conflict`` when it runs under
    another session name.
    """
    client = SessionClient(run_dir, user, cluster)
    client.paths.make_folder()
    with locked(client.paths.start, _START_SECONDS, f"Somebody else is starting the session of {user}."):
        try:
            running = client.info(stay=True)["session"]
        except NotThere:
            _start(client.paths, run_dir, user, name, cluster)
        else:
            if name is not None and running != name:
                raise Conflict(
                    f"{user} has a session {running} on this computer already.",
                    "One at a time: leave its intercepts first.",
                )
    return client


def _start(paths: Paths, run_dir: Path, user: str, name: str | None, cluster: ClusterOptions | None) -> None:
    ready, tell = os.pipe2(os.O_CLOEXEC)
    try:
        command = [
            # setsid --fork: a session of its own, and no child of ours that somebody must wait for.
            *("setsid", "--fork", sys.executable, "-m", "tpnet.session.daemon"),
            *("--run-dir", str(run_dir), "--user", user, "--ready-fd", str(tell)),
            *(("--name", name) if name is not None else ()),
            *(("--cluster", cluster.to_json()) if cluster is not None else ()),
        ]
        with os.fdopen(files.open_own(paths.log, os.O_WRONLY | os.O_APPEND), "ab", buffering=0) as log:
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(tell,),
                cwd="/",
                check=True,
            )
        os.close(tell)
        tell = -1
        answer = _wait_for_line(ready)
    except subprocess.CalledProcessError as error:
        raise TpnetError("The session daemon could not be started.", f"See {paths.log}") from error
    finally:
        os.close(ready)
        if tell >= 0:
            os.close(tell)
    if not answer.endswith(b"\n"):
        raise TpnetError("The session daemon ended before it was ready.", f"See {paths.log}")
    decode_answer(answer)


def _wait_for_line(ready: int) -> bytes:
    answer = b""
    deadline = time.monotonic() + _START_SECONDS
    poll = select.poll()
    poll.register(ready, select.POLLIN)
    while not answer.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            break
        chunk = os.read(ready, 1 << 16)
        if not chunk:
            break
        answer += chunk
    return answer
