"""The answering end of the control socket, inside the agent's event loop.

``tpnet.agent.supervisor`` starts it with what carries the calls out. It must never answer anybody but root,
nor let one call's failure end another's connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import TYPE_CHECKING, Any, Protocol

from tpnet.control.local.protocol import MAX_LINE, SOCKET_NAME, decode_call, encode_error, encode_ok
from tpnet.kernel import files
from tpnet.kernel.peercred import peer_credentials
from tpnet.model import Conflict, Intercept, InvalidInput, Refused, Session, TpnetError
from tpnet.model.codec import decode, encode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tpnet.model import AgentStatus, Explanation, InterceptStatus, SessionGrant, Status, TargetInfo

_log = logging.getLogger(__name__)
_BACKLOG = 64


class Backend(Protocol):
    """What carries calls out: ``tpnet.control.Control``, as coroutines.

    Raises ``TpnetError`` for the caller.
    """

    async def info(self) -> AgentStatus:
        """See ``Control``."""

    async def resolve(self, target: str) -> list[TargetInfo]:
        """See ``Control``."""

    async def register_session(self, session: Session) -> SessionGrant:
        """See ``Control``."""

    async def renew_session(self, name: str, handlers: Mapping[str, bool]) -> float:
        """See ``Control``."""

    async def end_session(self, name: str) -> None:
        """See ``Control``."""

    async def create_intercept(self, intercept: Intercept) -> InterceptStatus:
        """See ``Control``."""

    async def delete_intercept(self, name: str, user: str, force: bool) -> dict[str, int]:
        """See ``Control``."""

    async def status(self) -> Status:
        """See ``Control``."""

    async def explain(
        self, target: str, port: int | None, method: str, path: str, headers: Sequence[tuple[str, str]]
    ) -> Explanation:
        """See ``Control``."""


class ControlServer:
    """Serves ``backend`` at ``run_dir / SOCKET_NAME`` from ``start`` to ``close``."""

    def __init__(self, run_dir: Path, backend: Backend) -> None:
        self.path = run_dir / SOCKET_NAME
        self._backend = backend
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen, mode 0600.

        Raises ``Conflict`` when another agent answers there, ``TpnetError`` when the socket cannot be made.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._look_for_another()
            files.bind(listener, self.path)
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            raise TpnetError(
                f"The control socket {self.path} cannot be made: {error.strerror or error}.",
                "Name a folder that root can write, with a short path: TPNET_RUN_DIR=/run/tpnet",
            ) from error
        except TpnetError:
            listener.close()
            raise
        self._server = await asyncio.start_unix_server(self._connected, sock=listener, limit=MAX_LINE)

    async def close(self) -> None:
        """Stop listening, end every connection, remove the socket."""
        if self._server is None:
            return
        self._server.close()
        self.path.unlink(missing_ok=True)
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _look_for_another(self) -> None:
        """Raises ``Conflict``. The socket that a killed agent left is replaced."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            probe.connect(str(self.path))
            raise Conflict(
                f"Another agent answers at {self.path}.",
                "Stop it, or give this one a run directory of its own: TPNET_RUN_DIR",
            )

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if peer(writer.get_extra_info("socket"))[1] != 0:
                writer.write(
                    encode_error(Refused("Only root may speak to the agent.", "Run the command as root."))
                )
                await writer.drain()
                return
            while line := await reader.readline():
                writer.write(await self._answer(line))
                await writer.drain()
        except (OSError, ValueError):
            pass  # the other end went away, or sent a line without end: its loss
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> bytes:
        name = "?"
        try:
            name, args = decode_call(line)
            return encode_ok(await self._call(name, args))
        except TpnetError as error:
            return encode_error(error)
        except Exception:  # noqa: BLE001 - a fault of ours must not end the agent, nor what others asked of it
            _log.exception("the call %s failed", name)
            return encode_error(TpnetError(f"The agent failed at {name}.", "Its own output says where."))

    async def _call(self, name: str, args: dict[str, Any]) -> Any:
        backend = self._backend
        match name:
            case "info":
                return encode(await backend.info())
            case "resolve":
                return [encode(info) for info in await backend.resolve(_take(args, "target", str))]
            case "register_session":
                session = decode(Session, _take(args, "session", dict))
                return encode(await backend.register_session(session))
            case "renew_session":
                handlers = {str(key): value is True for key, value in _take(args, "handlers", dict).items()}
                return await backend.renew_session(_take(args, "name", str), handlers)
            case "end_session":
                return await backend.end_session(_take(args, "name", str))
            case "create_intercept":
                intercept = decode(Intercept, _take(args, "intercept", dict))
                return encode(await backend.create_intercept(intercept))
            case "delete_intercept":
                return await backend.delete_intercept(
                    _take(args, "name", str), _take(args, "user", str), _take(args, "force", bool)
                )
            case "status":
                return encode(await backend.status())
            case "explain":
                return encode(
                    await backend.explain(
                        _take(args, "target", str),
                        None if args.get("port") is None else _take(args, "port", int),
                        _take(args, "method", str),
                        _take(args, "path", str),
                        _pairs(args),
                    )
                )
        raise InvalidInput(f"The agent knows no call {name[:64]!r}.", "Is the command newer than the agent?")


def _take(args: dict[str, Any], name: str, kind: type[Any]) -> Any:
    value = args.get(name)
    if not isinstance(value, kind):
        raise InvalidInput(f"The call's argument {name} is missing or not of type {kind.__name__}.")
    return value


def _pairs(args: dict[str, Any]) -> list[tuple[str, str]]:
    match args.get("headers"):
        case list(items) if all(
            isinstance(item, list) and len(item) == 2 and all(isinstance(part, str) for part in item)
            for item in items
        ):
            return [(name, value) for name, value in items]
    raise InvalidInput("The call's argument headers is not a list of names with values.")


def peer(sock: socket.socket) -> tuple[int, int]:
    """Process id and user id at the other end of a Unix socket, as when it connected or listened."""
    pid, uid, _ = peer_credentials(sock)
    return pid, uid
