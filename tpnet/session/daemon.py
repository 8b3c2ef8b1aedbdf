"""The session daemon's process: one per user and computer, from the first intercept to the last.

``tpnet.session.client`` starts it: ``python -m tpnet.session.daemon --run-dir D --user U [--name N]``. It
listens on a Unix socket that is its user's alone. It must never outlive its intercepts, nor leave one
behind that it no longer serves.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpnet.control.kubernetes.options import ClusterOptions
from tpnet.control.local.client import LocalControl
from tpnet.control.local.protocol import decode_call, encode_error, encode_ok
from tpnet.kernel import files
from tpnet.kernel.limits import raise_file_limit
from tpnet.kernel.peercred import peer_credentials
from tpnet.log import to_stderr
from tpnet.model import Intercept, InvalidInput, TpnetError
from tpnet.model.codec import decode, encode
from tpnet.session.paths import Paths, locked
from tpnet.session.presence import Presence
from tpnet.session.wishes import Wishes

if TYPE_CHECKING:
    from collections.abc import Callable

    from tpnet.control.base import Control
    from tpnet.session.wishes import AnyPresence

_MAX_CALL = 1 << 20
_LOG_BYTES = 1 << 20
_PREDECESSOR_SECONDS = 12.0
_QUIT_SECONDS = 3.0
"""Seconds that who ends the session waits to hear what could not be removed."""
_LAST_SECONDS = 12.0
_IDLE_LOOK = 0.1

log = logging.getLogger(__name__)


class Daemon:
    """The socket's calls, and the process's life."""

    def __init__(self, paths: Paths, wishes: Wishes) -> None:
        self._paths = paths
        self._wishes = wishes
        self._quit = asyncio.Event()
        self._calls: set[asyncio.Task[None]] = set()

    async def run(self, starter: Starter) -> None:
        """Serve until nothing is left to serve. Raises ``TpnetError`` when the session cannot be opened."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._quit.set)
        await self._wishes.open()
        try:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            files.bind(listener, self._paths.socket)
            server = await asyncio.start_unix_server(self._serve, sock=listener, limit=_MAX_CALL)
            try:
                starter.tell(encode_ok(self._info()))
                await self._live()
            finally:
                # From here on a client starts another daemon, which waits for this one's lock.
                server.close()
                self._paths.socket.unlink(missing_ok=True)
                for call in self._calls:
                    call.cancel()
                await asyncio.gather(*self._calls, return_exceptions=True)
        finally:
            try:
                async with asyncio.timeout(_LAST_SECONDS):
                    await self._wishes.close()
            except (TpnetError, TimeoutError) as error:
                log.warning("the session's end could not be told to the agent: %s", error or "no answer")

    async def _live(self) -> None:
        keeper = asyncio.create_task(self._wishes.run())
        try:
            while not self._quit.is_set() and not keeper.done():
                if self._wishes.idle and not self._calls:
                    log.info("no intercept is left")
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_IDLE_LOOK):
                        await self._quit.wait()
        finally:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a connection is served by a task"
        self._calls.add(task)
        try:
            if _peer_uid(writer) not in {0, os.geteuid()}:
                return
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while line := await _line(reader):
                    writer.write(await self._answer(line, reader))
                    await writer.drain()
        finally:
            self._calls.discard(task)
            writer.close()

    async def _answer(self, line: bytes, reader: asyncio.StreamReader) -> bytes:
        try:
            name, args = decode_call(line)
            call = {
                "info": self._call_info,
                "add": self._call_add,
                "follow": self._call_follow,
                "remove": self._call_remove,
                "quit": self._call_quit,
            }
            if name not in call:
                raise InvalidInput(f"The session daemon has no call {name!r}.")
            return encode_ok(await call[name](args, reader))
        except TpnetError as error:
            return encode_error(error)

    async def _call_info(self, args: dict[str, Any], reader: asyncio.StreamReader) -> dict[str, Any]:
        del reader
        if args.get("stay") is True:
            self._wishes.stay()
        return self._info()

    async def _call_add(self, args: dict[str, Any], reader: asyncio.StreamReader) -> dict[str, Any]:
        draft = decode(Intercept, args.get("intercept"))
        status = await self._wishes.add(draft)
        if reader.at_eof():
            log.info("whoever asked for %s has gone; removing it", draft.name)
            with contextlib.suppress(TpnetError):
                await self._wishes.remove(draft.name)
        return encode(status)

    async def _call_follow(self, args: dict[str, Any], reader: asyncio.StreamReader) -> dict[str, Any]:
        del reader
        await self._wishes.follow(str(args.get("namespace")))
        return {}

    async def _call_remove(self, args: dict[str, Any], reader: asyncio.StreamReader) -> dict[str, Any]:
        del reader
        return await self._wishes.remove(str(args.get("name")))

    async def _call_quit(self, args: dict[str, Any], reader: asyncio.StreamReader) -> dict[str, Any]:
        del args, reader
        behind: dict[str, str] = {}
        cut = 0
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_QUIT_SECONDS):
                    behind = await self._wishes.withdraw()
            cut = await self._wishes.finish()
        finally:
            asyncio.get_running_loop().call_later(0.01, self._quit.set)
        return {"behind": behind, "cut": cut}

    def _info(self) -> dict[str, Any]:
        return {**self._wishes.info(), "pid": os.getpid(), "log": str(self._paths.log)}


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError as error:  # longer than the reader's limit
        raise ConnectionError("a call without end") from error


def _peer_uid(writer: asyncio.StreamWriter) -> int:
    """The user id of whoever is at the other end."""
    return peer_credentials(writer.get_extra_info("socket")).uid


class Starter:
    """Whoever started this, and waits at the other end of a pipe; ``None``: nobody does."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        if fd is not None:
            os.set_inheritable(fd, False)

    def tell(self, line: bytes) -> None:
        """Say that it is ready, or why it will not be; once. They may have gone."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.write(self._fd, line)
            os.close(self._fd)
            self._fd = None


def _trim_log() -> None:
    """Begin the log anew when it has grown large: one daemon after the other appends to it."""
    with contextlib.suppress(OSError):
        if stat.S_ISREG(os.fstat(2).st_mode) and os.fstat(2).st_size > _LOG_BYTES:
            os.ftruncate(2, 0)


def main(argv: list[str] | None = None) -> int:
    """Run a daemon to its end. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="tpnet.session.daemon")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--user", required=True)
    parser.add_argument("--name")
    parser.add_argument("--cluster", help="of what cluster, as JSON; without it: of this machine's agent")
    parser.add_argument("--ready-fd", type=int)
    args = parser.parse_args(argv)
    _trim_log()
    with to_stderr():
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    raise_file_limit()  # every relay takes two descriptors
    os.umask(0o077)
    starter = Starter(args.ready_fd)
    try:
        options = ClusterOptions.from_json(args.cluster) if args.cluster else None
        paths = Paths.of(args.run_dir, args.user, options)
        with locked(paths.lock, _PREDECESSOR_SECONDS, f"A session daemon of {args.user} runs already."):
            if options is not None:
                from tpnet.control.kubernetes.client import connect
                from tpnet.session.cluster import ClusterPresence

                with connect(options) as cluster:
                    asyncio.run(_main(paths, cluster, functools.partial(ClusterPresence, cluster), starter))
            else:
                name = args.name or f"{args.user}@{socket.gethostname()}"
                with LocalControl(args.run_dir) as control:
                    make = functools.partial(Presence, control, name, args.user)
                    asyncio.run(_main(paths, control, make, starter))
    except TpnetError as error:
        log.error("%s %s", error, error.hint)  # noqa: TRY400 - it is a sentence, the trace would say less
        starter.tell(encode_error(error))
        return error.exit_code
    log.info("ended")
    return 0


async def _main(
    paths: Paths, control: Control, make_presence: Callable[..., AnyPresence], starter: Starter
) -> None:
    log.info("begins: process %d", os.getpid())
    await Daemon(paths, Wishes(control, make_presence)).run(starter)


if __name__ == "__main__":
    raise SystemExit(main())
