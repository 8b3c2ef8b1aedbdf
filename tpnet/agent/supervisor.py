"""The supervisor's process: starts everything, looks after it, and puts everything back at the end.

``tpnet agent run`` calls ``run_agent``; ``python -m tpnet.agent.supervisor`` does so without a cluster. It must
never parse a byte of a client, and never end in an orderly way with anything of its own left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tpnet import log
from tpnet.agent.answers import Parts
from tpnet.agent.feed import Feed
from tpnet.agent.orders import LocalOrders
from tpnet.agent.sessions import Sessions
from tpnet.agent.state import StateFile
from tpnet.agent.status import Ledger
from tpnet.agent.targets import Targets
from tpnet.agent.workers import Workers
from tpnet.control.local.protocol import default_run_dir
from tpnet.control.local.server import ControlServer
from tpnet.datapath.hold import others_in
from tpnet.datapath.lock import take_lock
from tpnet.datapath.netns import all_namespaces
from tpnet.datapath.program import ready_program
from tpnet.datapath.redirect import make_signs, probe
from tpnet.datapath.source_address import sweep_all
from tpnet.datapath.sysctl import make_net_sysctls_writable
from tpnet.kernel import files
from tpnet.kernel.limits import raise_file_limit
from tpnet.kernel.lock import take_name
from tpnet.kernel.signs import SUPERVISOR
from tpnet.kernel.uids import WORKER_UIDS, apart, parse_range
from tpnet.model import AgentStatus, Refused, TpnetError
from tpnet.proxy.channel import AppRefused, Counters, Drained, Full, NeedSockets, NotTaken
from tpnet.tunnel import AGENT_UDP_PORT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tpnet.agent.orders import Orders
    from tpnet.proxy.channel import Message

_log = logging.getLogger(__name__)

LOCK_NAME = "tpnet-agent"
"""The abstract Unix socket in the node's namespace that says: an agent runs here.

It vanishes with its holder.
"""
MIRROR_EVERY = 0.2
"""Seconds between two looks at what listens in the targets' namespaces."""
BEAT_EVERY = 0.1
"""Seconds between two signs of life of the supervisor, and two looks at the worker's."""
LOOK_EVERY = 1.0
"""Seconds between two looks at everything else: leases, vanished targets, the tunnel's device."""
END_SECONDS = 30.0
"""Seconds that open connections have when the agent is told to end, unless it was told otherwise."""
LOCK_SECONDS, LOCK_PAUSE = 2.0, 0.02
"""Seconds that the node's lock may be an earlier agent's, which has been told to end, and between two tries."""


class Agent:
    """One agent's life: ``start``, then ``run`` until ``stop``, then ``close``."""

    def __init__(
        self,
        run_dir: Path,
        orders: Orders,
        *,
        udp_port: int,
        worker_uids: range,
        end_seconds: float,
        bytes_untouched: bool,
    ) -> None:
        self._run_dir = run_dir
        self._orders = orders
        self._end_seconds = end_seconds
        self._bytes_untouched = bytes_untouched
        self._udp_port = udp_port
        self._worker_uids = worker_uids
        self._undo = contextlib.AsyncExitStack()
        self._stopping = asyncio.Event()
        self.started = False

    async def start(self) -> AgentStatus:
        """Everything up to the control socket. Raises ``TpnetError``; ``close`` is needed all the same."""
        started = time.time()
        undo = self._undo
        self._lock = await lock_node_soon()
        undo.callback(self._lock.close)
        try:
            files.own_folder(self._run_dir)
        except OSError as error:
            raise TpnetError(
                f"The run directory {self._run_dir} cannot be used: {error.strerror}.",
                "Choose another: TPNET_RUN_DIR=/run/tpnet",
            ) from error
        raise_file_limit()
        if make_net_sysctls_writable():
            _log.info("the networks' sysctls were read-only in this container; they are writable in it now")
        state = StateFile(self._run_dir)
        self._signs = signs = make_signs()
        undo.callback(signs.close)

        orders = self._orders
        undo.push_async_callback(orders.end)
        uids, others = apart(self._worker_uids)
        self._workers = workers = Workers(
            uids, signs, self._worker_ready, self._worker_lost, self._worker_says
        )
        self._sessions = sessions = Sessions(
            orders.book, workers, self._udp_port, others, orders.session_changed
        )
        self._ledger = Ledger()
        self._targets = targets = Targets(signs, workers, state, orders.book)
        self._feed = Feed(workers, targets.place_of, lambda: sessions.namespace)
        undo.callback(sessions.close)
        undo.push_async_callback(workers.close)
        # All at once: each mostly waits for the kernel or for a child.
        workers.start()
        proving = asyncio.create_task(asyncio.to_thread(ready_program, probe))
        sweeping = asyncio.create_task(asyncio.to_thread(sweep, state))
        preparing = asyncio.create_task(orders.prepare())
        try:
            await sessions.start()
        except TpnetError:
            await proving  # if the kernel refuses the redirect too, that is the thing to say
            raise
        targets.program = await proving
        await sweeping
        await workers.wait_ready()
        undo.push_async_callback(targets.close, self._end_seconds)
        undo.push_async_callback(self._make_way)
        undo.push_async_callback(orders.stop)

        redirect = ("ebpf", "It passed its self-test on this kernel.")
        parts = Parts(orders.book, targets, workers, sessions, self._ledger, redirect, started)
        await preparing
        answers = await orders.begin(parts)
        server = ControlServer(self._run_dir, answers)
        undo.push_async_callback(server.close)
        await server.start()
        undo.push_async_callback(self._withdraw)
        _log.info("answering at %s", server.path)
        self.started = True
        return await answers.info()

    def stop(self) -> None:
        """End soon."""
        self._stopping.set()

    async def run(self) -> None:
        """Look after everything until ``stop``."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._every(BEAT_EVERY, self._beat, self._workers.watch))
            looks = (self._targets.look_for_changes, self._targets.mirror, self._orders.glance)
            group.create_task(self._every(MIRROR_EVERY, *looks))
            rare = (self._targets.look_for_the_vanished, self._orders.look, self._sessions.mend)
            group.create_task(self._every(LOOK_EVERY, *rare))

    async def _every(self, seconds: float, *looks: Callable[[], Awaitable[None] | None]) -> None:
        """Call each again and again. One that fails keeps neither the others nor the agent from going on."""
        while not self._stopping.is_set():
            for look in looks:
                try:
                    if (awaited := look()) is not None:
                        await awaited
                except TpnetError as error:
                    _log.warning("%s", error.message)
                except Exception:  # noqa: BLE001 - every target would be given back
                    _log.exception("a look of the agent's failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._stopping.wait()

    def _beat(self) -> None:
        self._signs.beat(SUPERVISOR)

    async def close(self) -> None:
        """Give every target back, let connections end for seconds, undo every change, end every process."""
        await self._undo.aclose()

    async def _withdraw(self) -> None:
        """First of all: new connections are the apps', and the sessions look out for the next agent."""
        await self._targets.withdraw(self._end_seconds, mark=not self._bytes_untouched)
        await self._sessions.goodbye(moves=self._orders.overlaps)

    async def _make_way(self) -> None:
        """Let the next agent start, while what is under way here ends."""
        if self._orders.overlaps:
            await self._sessions.make_way()
        self._lock.close()
        await self._sessions.goodbye()
        if left := sum(self._ledger.target(door.number).get("open", 0) for door in self._targets.left()):
            _log.info("waiting %g s at most for %d connections to end", self._end_seconds, left)

    def _worker_ready(self) -> None:
        self._sessions.worker_ready()
        self._targets.worker_ready()

    def _worker_lost(self, pause: float) -> None:
        self._targets.worker_lost(pause)
        self._ledger.worker_lost()

    def _worker_says(self, message: Message) -> None:
        match message:
            case NeedSockets():
                self._feed.need(message)
            case Counters():
                self._ledger.take(message)
            case Drained(number, times):
                self._targets.drained(number, times)
            case Full(full):
                self._targets.worker_full(full=full)
            case NotTaken(number):
                self._targets.not_taken(number)
            case AppRefused(number):
                self._targets.mirror_of(number)
            case _:
                _log.warning("the worker says what only a supervisor may: %s", type(message).__name__)


def lock_node() -> socket.socket:
    """Say that this process is the node's agent, for as long as the returned socket is open.

    Raises ``Conflict`` with the other one's process id.
    """
    return take_lock(
        LOCK_NAME,
        _stream_here,
        what="The node's lock",
        taken="Another agent runs on this node",
    )


def _stream_here() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)


async def lock_node_soon() -> socket.socket:
    """``lock_node``, which an agent that has just been told to end is about to give up. Raises ``Conflict``."""
    deadline = time.monotonic() + LOCK_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            return take_name(LOCK_NAME, _stream_here)
        await asyncio.sleep(LOCK_PAUSE)
    return lock_node()


def sweep(state: StateFile) -> None:
    """Undo what an agent that was killed has left in any namespace."""
    namespaces = all_namespaces()
    try:
        with state.held():
            recorded = state.load()
            for label in sweep_all(namespaces, recorded):
                _log.info("undid in %s what an earlier agent had left", label)
            noted = [netns for netns in namespaces if str(netns.inode) in recorded]
            state.keep_only([netns.inode for netns in noted if others_in(netns)])
    finally:
        for netns in namespaces:
            netns.close()


def run_agent(
    run_dir: Path | None = None,
    *,
    orders: Orders | None = None,
    udp_port: int = AGENT_UDP_PORT,
    worker_uids: range = WORKER_UIDS,
    end_seconds: float = END_SECONDS,
    bytes_untouched: bool = False,
    on_ready: Callable[[AgentStatus], None] | None = None,
) -> None:
    """Run an agent until SIGTERM or SIGINT; a second signal ends it at once. In the main thread.

    ``run_dir``: default ``default_run_dir()``. ``orders``: where intercepts come from; default: the control socket.
    ``udp_port``: WireGuard's, 0 for any free one. ``worker_uids``: users that workers may become.
    ``end_seconds``: what open connections have in the end. ``bytes_untouched``: not even then is a response marked as
    its connection's last. ``on_ready`` is called once orders are taken. Raises ``TpnetError`` when it cannot start:
    ``Refused`` without root or BPF, ``Conflict`` beside another agent.
    """
    if os.geteuid() != 0:
        raise Refused("The agent must run as root: it enters network namespaces.", "Use sudo.")
    agent = Agent(
        run_dir or default_run_dir(),
        orders or LocalOrders(),
        udp_port=udp_port,
        worker_uids=worker_uids,
        end_seconds=end_seconds,
        bytes_untouched=bytes_untouched,
    )
    asyncio.run(_live(agent, on_ready))


async def _live(agent: Agent, on_ready: Callable[[AgentStatus], None] | None) -> None:
    life = asyncio.create_task(_start_and_run(agent, on_ready))
    loop = asyncio.get_running_loop()

    def end() -> None:
        _log.info("ending")
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, os._exit, 1)
        if agent.started:
            agent.stop()
        else:
            life.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await life
    finally:
        await agent.close()
    _log.info("ended")


async def _start_and_run(agent: Agent, on_ready: Callable[[AgentStatus], None] | None) -> None:
    info = await agent.start()
    if on_ready is not None:
        on_ready(info)
    await agent.run()


def main(argv: list[str] | None = None) -> int:
    """Run an agent with its log on standard error. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="tpnet.agent.supervisor")
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--udp-port", type=int, default=AGENT_UDP_PORT)
    parser.add_argument("--worker-uids", type=parse_range, default=WORKER_UIDS)
    args = parser.parse_args(argv)
    with log.to_stderr():
        try:
            run_agent(args.run_dir, udp_port=args.udp_port, worker_uids=args.worker_uids)
        except TpnetError as error:
            _log.error("%s %s", error.message, error.hint)
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
