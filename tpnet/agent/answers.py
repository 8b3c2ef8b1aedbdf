"""Answers what people and sessions ask about the agent: what is there, how it fares, where a request would go.

``tpnet.control.local.server`` calls it in the supervisor's event loop, by way of ``tpnet.agent.calls`` or of the
cluster's controller. It must never change what is wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import tpnet
from tpnet.agent.namespace import addresses_of
from tpnet.agent.status import intercept_status, memory_kib, target_statuses
from tpnet.datapath.listening import listening, reachable
from tpnet.datapath.target import resolve_targets
from tpnet.http.h1.head import RequestHead, read_request
from tpnet.model import AgentStatus, Explanation, InvalidInput, NotThere, Status, TargetInfo
from tpnet.rules import RuleSet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tpnet.agent.book import Book
    from tpnet.agent.sessions import Sessions
    from tpnet.agent.status import Ledger
    from tpnet.agent.targets import Targets
    from tpnet.agent.workers import Workers
    from tpnet.datapath.target import Target
    from tpnet.model import Intercept, InterceptStatus

T = TypeVar("T")
NetNsKey = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Parts:
    """What the supervisor is made of, as far as calls need it.

    ``redirect``: the kind in use, and why that one.
    """

    book: Book
    targets: Targets
    workers: Workers
    sessions: Sessions
    ledger: Ledger
    redirect: tuple[str, str]
    started: float


class Answers:
    """The reading half of ``tpnet.control.local.server.Backend``; see ``tpnet.control.Control`` for each call."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def info(self) -> AgentStatus:
        """See ``Control``."""
        parts = self._parts
        return AgentStatus(
            version=tpnet.__version__,
            pid=os.getpid(),
            kernel=os.uname().release,
            node=socket.gethostname(),
            redirect=parts.redirect[0],
            redirect_reason=parts.redirect[1],
            wireguard=parts.sessions.wireguard,
            worker_pids=parts.workers.pids,
            worker_restarts=parts.workers.restarts,
            worker_silent=round(parts.workers.silent, 1),
            memory_kib=memory_kib((os.getpid(), *parts.workers.pids)),
            started=parts.started,
        )

    async def resolve(self, target: str) -> list[TargetInfo]:
        """See ``Control``."""
        found = await asyncio.to_thread(with_targets, target, _describe)
        return [replace(info, name=self.known_name(info.name, key)) for info, key in found]

    async def status(self) -> Status:
        """See ``Control``."""
        parts = self._parts
        agent = await self.info()
        sessions = await parts.sessions.statuses()
        return Status(
            agent=agent,
            targets=target_statuses(parts.targets, parts.ledger),
            intercepts=tuple(self.status_of(entry.intercept) for entry in parts.book.intercepts.values()),
            sessions=sessions,
        )

    async def explain(
        self, target: str, port: int | None, method: str, path: str, headers: Sequence[tuple[str, str]]
    ) -> Explanation:
        """See ``Control``."""
        head = request_head(method, path, headers)
        infos = await self.resolve(target)
        names = {info.name for info in infos}
        intercepts = [
            entry.intercept
            for entry in self._parts.book.intercepts.values()
            if entry.active and names & set(entry.intercept.targets)
        ]
        number = port or one_port(target, {one.port for one in intercepts}, infos)
        ports = {port for info in infos for port in (*info.listening, *info.loopback)}
        if number not in ports | {one.port for one in intercepts}:
            raise NotThere(f"Nothing listens on port {number} of {target}.", what_listens(ports))
        here = RuleSet([one for one in intercepts if one.port == number])
        steps = tuple(here.explain(head))
        if head.reason:
            steps = tuple(replace(step, chosen=False, note="not asked") for step in steps)
            return Explanation(steps, reason=head.reason)
        chosen = here.decide(head)
        if chosen is None:
            return Explanation(steps, reason="" if steps else f"no intercept stands on port {number}")
        if reason := self._why_not(chosen):
            way = "to the app" if chosen.on_failure == "app" else "answered with 502"
            return Explanation(steps, chosen.session, chosen.handler, f"{reason}: for now {way}")
        return Explanation(steps, chosen.session, chosen.handler)

    async def reconcile(self) -> None:
        """Make the targets what the book says."""
        await self._parts.targets.reconcile(self._parts.book.desired)
        targets = self._parts.targets
        self._parts.ledger.keep_only(
            (door.number for door in (*targets.doors(), *targets.left())),
            (entry.intercept for entry in self._parts.book.intercepts.values()),
        )

    def _why_not(self, intercept: Intercept) -> str:
        if not self._parts.sessions.up(intercept.session):
            return f"session {intercept.session} does not answer"
        if not self._parts.book.handler_up(intercept):
            return f"no handler answers at {intercept.handler}"
        return ""

    def status_of(self, intercept: Intercept) -> InterceptStatus:
        """One intercept as it fares now."""
        parts = self._parts
        return intercept_status(intercept, parts.book, parts.targets, parts.sessions, parts.ledger)

    def known_name(self, name: str, key: NetNsKey) -> str:
        """The name that a namespace goes by here: the one under which it is redirected already, if it is."""
        return self._parts.targets.name_of(key) or name


def what_listens(ports: set[int]) -> str:
    """A hint for somebody who has named a port on which nothing listens."""
    if not ports:
        return "Nothing listens there at all; start the app first."
    return f"Listening there: {', '.join(str(port) for port in sorted(ports)[:10])}."


def with_targets(text: str, func: Callable[[Target], T]) -> list[T]:
    """What ``func`` makes of each target that ``text`` stands for; they are closed again. Blocks."""
    with contextlib.ExitStack() as stack:
        targets = resolve_targets(text)
        for target in targets:
            stack.callback(target.close)
        return [func(target) for target in targets]


def _describe(target: Target) -> tuple[TargetInfo, NetNsKey]:
    others: dict[bool, list[int]] = {True: [], False: []}
    for port, addresses in sorted(listening(target.netns).items()):
        others[reachable(addresses)].append(port)
    info = TargetInfo(target.name, tuple(others[True]), addresses_of(target.netns), tuple(others[False]))
    return info, target.netns.key


def one_port(target: str, intercepted: set[int], infos: Sequence[TargetInfo]) -> int:
    """The port that is meant when none is named: the one intercepted, or the only one that listens.

    Raises ``NotThere`` when nothing listens, ``InvalidInput`` when it is not plain.
    """
    ports = intercepted or {port for info in infos for port in info.listening}
    if len(ports) == 1:
        return ports.pop()
    if not ports:
        local = {port for info in infos for port in info.loopback}
        raise NotThere(
            f"Nothing that others can reach listens in {target}."
            if local
            else f"Nothing listens in {target}.",
            f"{what_listens(local)} Name it with --port." if local else "Start the app first.",
        )
    some = ", ".join(str(port) for port in sorted(ports)[:10])
    what = "intercepted" if intercepted else "listening"
    raise InvalidInput(f"Which port of {target} is meant? These are {what}: {some}.", "Name it with --port.")


def request_head(method: str, path: str, headers: Sequence[tuple[str, str]]) -> RequestHead:
    """The head of a request that nobody sent. Raises ``InvalidInput`` when it could not be one."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    if any("\r" in line or "\n" in line for line in lines):
        raise InvalidInput("A request's method, path and headers have no line breaks.")
    try:
        read = read_request("\r\n".join([*lines, "", ""]).encode())
    except UnicodeEncodeError as error:
        raise InvalidInput("A request's method, path and headers are UTF-8.") from error
    if not isinstance(read, RequestHead):
        reason = getattr(read, "reason", "its first line is not one of HTTP/1")
        raise InvalidInput(f"No HTTP/1 request is like that: {reason}.", "Check method, path and headers.")
    return read
