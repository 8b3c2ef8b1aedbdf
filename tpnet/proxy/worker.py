"""The worker process: ``python -m tpnet.proxy.worker --channel FD --uid N``. Started by the supervisor alone.

It imports what it needs, confines itself (``tpnet.proxy.confinement``), says ``Ready`` and serves what the supervisor
hands it, until the channel ends. After that it can open no file, socket or process, and must never need to.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import os
import socket
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from tpnet.kernel.libc import die_with_parent
from tpnet.kernel.limits import memory_limit, raise_file_limit
from tpnet.kernel.signs import WORKER, Level, Signs
from tpnet.log import Outlet, to_stderr
from tpnet.model import TpnetError
from tpnet.proxy import channel
from tpnet.proxy.channel import (
    AddTarget,
    DropSession,
    Finish,
    Message,
    NotTaken,
    Purpose,
    Ready,
    RemoveTarget,
    SetNode,
    SetRules,
    SetSession,
    Sockets,
    TakeSigns,
)
from tpnet.proxy.confinement import confine
from tpnet.proxy.context import Context
from tpnet.proxy.loop import IN
from tpnet.proxy.sessions import SessionState
from tpnet.proxy.target import Target
from tpnet.proxy.transport import Socket

if TYPE_CHECKING:
    from collections.abc import Callable

COUNT_EVERY = 1.0
"""Seconds between two messages with counters."""
_QUEUED_MOST = 10_000
SOCKET_BYTES = 32 << 10
"""Memory that a socket is reckoned at, where memory is limited: with what Python and the kernel keep for it."""
LEAST_SOCKETS = 1024
_PLENTY = 1 << 62


class Worker:
    """Obeys the supervisor's messages."""

    def __init__(self, end: socket.socket, file_limit: int) -> None:
        self._end = end
        self._queued: deque[Message] = deque()
        self.context = Context(self.tell, file_limit)
        self._targets: dict[int, Target] = {}
        self._count_at = 0.0
        self._acts: dict[type[Any], Callable[[Any, list[int]], None]] = {
            TakeSigns: self._take_signs,
            AddTarget: self._add_target,
            SetRules: self._set_rules,
            SetNode: self._set_node,
            SetSession: self._set_session,
            DropSession: self._drop_session,
            Sockets: self._sockets,
            RemoveTarget: self._remove_target,
            Finish: self._finish,
        }
        self.context.loop.add(end.fileno(), IN, self._on_channel)
        self.context.loop.ticks.append(self._tick)

    def run(self) -> None:
        """Serve until the channel ends."""
        self.context.loop.run()

    def tell(self, message: Message) -> None:
        """Send to the supervisor, in order; kept for a while if it does not read."""
        if not self._queued:
            try:
                channel.send(self._end, message)
            except BlockingIOError:
                pass
            except OSError:
                self.context.loop.stop()
                return
            else:
                return
        if len(self._queued) >= _QUEUED_MOST:
            self.context.loop.stop()  # it has not read for ages
            return
        self._queued.append(message)

    def _tick(self, now: float) -> None:
        queued, self._queued = self._queued, deque()
        for message in queued:
            self.tell(message)
        if now < self._count_at:
            return
        self._count_at = now + COUNT_EVERY
        if self.context.sessions:
            self.context.session_pool.tick()
        for target in list(self._targets.values()):
            target.tick(now)
        self.context.look_for_room()
        for number in self.context.removed:
            self._targets.pop(number, None)
            self.context.book.targets.pop(number, None)
        self.context.removed.clear()
        serving = {name: len(state.upstreams) for name, state in self.context.sessions.items()}
        for counters in self.context.book.changed(serving):
            self.tell(counters)

    def _on_channel(self, _events: int) -> None:
        while True:
            try:
                received = channel.receive(self._end)
            except BlockingIOError:
                return
            except channel.CutShortError as cut:
                if not isinstance(cut.message, AddTarget):
                    raise
                self._not_taken(cut.message)
                continue
            except (OSError, ValueError):
                received = None
            if received is None:
                self.context.loop.stop()
                return
            self._obey(*received)

    def _not_taken(self, message: AddTarget) -> None:
        if message.place and self.context.signs is not None:
            self.context.signs.set_levels(message.place, Level.AWAY)
        self.tell(NotTaken(message.target))

    def _obey(self, message: Message, fds: list[int]) -> None:
        """Do as the message says. What an act leaves of ``fds`` is closed."""
        act = self._acts.get(type(message))
        try:
            if act is not None:
                act(message, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _take_signs(self, _message: TakeSigns, fds: list[int]) -> None:
        self.context.signs = signs = Signs(fds.pop())
        self.context.loop.give_signs(lambda: signs.beat(WORKER))

    def _add_target(self, message: AddTarget, fds: list[int]) -> None:
        listener, *rest = fds
        fds.clear()
        bypass = rest[0] if rest else None
        known = self._targets.get(message.target)
        if known is None:
            self._targets[message.target] = Target(self.context, message, Socket(fileno=listener), bypass)
        else:
            known.take_up(message, Socket(fileno=listener), bypass)

    def _set_rules(self, message: SetRules, _fds: list[int]) -> None:
        target = self._targets.get(message.target)
        if target is not None:
            target.set_rules(
                [channel.intercept_of(one) for one in message.intercepts],
                [channel.probe_of(one) for one in message.probes],
            )
            self.context.book.keep_only(
                {name for one in self._targets.values() for name in one.router.intercepts}
            )

    def _set_node(self, message: SetNode, _fds: list[int]) -> None:
        self.context.node = frozenset(message.addresses)

    def _sockets(self, message: Sockets, fds: list[int]) -> None:
        purpose = Purpose(message.purpose)
        family = socket.AF_INET if purpose is Purpose.APP4 else socket.AF_INET6
        target = self._targets.get(message.target)
        if purpose is not Purpose.SESSION and target is None:
            return
        socks = [Socket(family, socket.SOCK_STREAM, 0, fd) for fd in fds]
        fds.clear()
        if target is None:
            self.context.session_pool.add(socks)
        else:
            target.dialler.add_sockets(purpose, socks)

    def _set_session(self, message: SetSession, _fds: list[int]) -> None:
        state = self.context.sessions.get(message.name)
        if state is None:
            state = SessionState(message.address, message.up, frozenset(message.ports), set(), message.quiet)
            self.context.sessions[message.name] = state
            self.context.session_pool.refill()
            return
        if not message.up or message.address != state.address:
            self._lose(message.name)
        state.address, state.up, state.ports = message.address, message.up, frozenset(message.ports)
        state.quiet = message.quiet
        if not message.quiet:
            state.silent = False
            return
        for upstream in list(state.upstreams):
            upstream.session_quiet()

    def _drop_session(self, message: DropSession, _fds: list[int]) -> None:
        self._lose(message.name)
        self.context.sessions.pop(message.name, None)

    def _remove_target(self, message: RemoveTarget, _fds: list[int]) -> None:
        target = self._targets.get(message.target)
        if target is not None:
            target.remove(message.times, gone=message.gone)

    def _finish(self, message: Finish, _fds: list[int]) -> None:
        for target in self._targets.values():
            target.finish(message.seconds, mark=message.mark)

    def _lose(self, name: str) -> None:
        state = self.context.sessions.get(name)
        if state is not None:
            state.up = False
            for upstream in list(state.upstreams):
                upstream.session_lost()


def warm_up() -> None:
    """Read what is otherwise read at its first use, when files are out of reach: a module, the local time's zone."""
    importlib.import_module("encodings.idna")
    time.localtime()


def main(argv: list[str] | None = None) -> int:
    """Run a worker. Returns its exit code."""
    parser = argparse.ArgumentParser(prog="tpnet-worker", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--channel", type=int, required=True, help="descriptor of the channel to the supervisor"
    )
    parser.add_argument("--uid", type=int, required=True, help="user and group to become")
    options = parser.parse_args(argv)
    with to_stderr() as outlet:
        return _run(options.channel, options.uid, outlet)


def _run(channel_fd: int, uid: int, outlet: Outlet) -> int:
    die_with_parent()
    warm_up()
    end = socket.socket(fileno=channel_fd)
    end.setblocking(False)
    end.set_inheritable(False)
    sockets = (memory_limit() or _PLENTY) // SOCKET_BYTES
    worker = Worker(end, min(raise_file_limit(), max(sockets, LEAST_SOCKETS)))
    try:
        confine(uid, outlet.begin)
    except TpnetError as error:
        print(f"tpnet worker: {error.message} {error.hint}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    gc.collect()
    gc.freeze()
    # Connections free themselves by reference counts; the collector is for what errors leave behind.
    gc.set_threshold(50_000, 20, 100)
    worker.tell(Ready(os.getpid()))
    with contextlib.suppress(KeyboardInterrupt):
        worker.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
