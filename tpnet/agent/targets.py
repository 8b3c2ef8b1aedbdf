"""The node's targets as they are: namespaces entered, redirects attached, listeners handed to the worker.

The supervisor keeps one ``Targets`` in its event loop and runs ``reconcile`` whenever something may have
changed. It must never leave a target's new connections at a listener that no worker accepts from, nor keep a
namespace alive that its owner has deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tpnet.agent import reconcile
from tpnet.agent.namespace import Door, LiveNamespace, open_namespace, probe, prove, resolve
from tpnet.agent.status import counted_name
from tpnet.model import NotThere, TpnetError
from tpnet.model.codec import encode
from tpnet.proxy.channel import AddTarget, Finish, RemoveTarget, SetNode, SetRules

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from tpnet.agent.book import Book
    from tpnet.agent.reconcile import Wanted
    from tpnet.agent.state import StateFile
    from tpnet.agent.workers import Workers
    from tpnet.control.local.store import TargetKey
    from tpnet.datapath.netns import NetNs
    from tpnet.datapath.program import Program
    from tpnet.kernel.signs import Signs

_log = logging.getLogger(__name__)

LATE = 3.0
"""Seconds after those for open connections until a worker that has not ended them is not waited for any more."""
AGAIN = 1.0
"""Seconds until a target that the worker had no room for is handed to it again."""
LINGER = 1.0
"""Seconds between the end of the redirect and of accepting: handshakes that began in time may take that."""


class Targets:
    """Actual state.

    ``failures`` has the error of each wanted target that could not be raised at the last try. ``program`` must be
    there before the first target is raised.
    """

    def __init__(self, signs: Signs, workers: Workers, state: StateFile, book: Book) -> None:
        self.program: Program | None = None
        self._signs = signs
        self._book = book
        self._node: tuple[str, ...] = ()
        self._workers = workers
        self._state = state
        self._numbers = itertools.count(1)
        self._lock = asyncio.Lock()
        self._namespaces: dict[str, LiveNamespace] = {}
        self._leaving: set[LiveNamespace] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.failures: dict[TargetKey, TpnetError] = {}
        self._full = False
        self._not_taken: set[int] = set()
        self._ending = False

    # What is there.

    def doors(self) -> list[Door]:
        """Every target that is raised."""
        return [door for namespace in self._namespaces.values() for door in namespace.doors.values()]

    def left(self) -> list[Door]:
        """Every target that nobody wants any more, and whose connections have yet to end."""
        return [
            door
            for namespace in (*self._namespaces.values(), *self._leaving)
            for door in namespace.left.values()
        ]

    def door(self, key: TargetKey) -> Door | None:
        """A target that is raised."""
        namespace = self._namespaces.get(key[0])
        return None if namespace is None else namespace.doors.get(key[1])

    def name_of(self, netns_key: tuple[int, int]) -> str | None:
        """The name under which a namespace is known here, if it is: two names may stand for one namespace."""
        for name, namespace in self._namespaces.items():
            if namespace.netns.key == netns_key:
                return name
        return None

    def place_of(self, number: int) -> tuple[NetNs, int] | None:
        """Namespace and port of a target that the worker knows by number, be it one that was left."""
        for door in (*self.doors(), *self.left()):
            if door.number == number:
                return door.namespace.netns, door.port
        return None

    def check(self, keys: Iterable[TargetKey]) -> None:
        """Raise why one of these could not be raised at the last try, if so it was."""
        for key in keys:
            if error := self.failures.get(key):
                raise error

    # Desired to actual.

    async def reconcile(self, desired: Callable[[], Mapping[TargetKey, Wanted]]) -> None:
        """Make it so, as far as it goes; what fails is noted in ``failures``. One at a time.

        It is carried to its end even if the caller does not wait for that: nothing is left half open.
        """
        await asyncio.shield(self._keep(self._reconcile(desired)))

    async def _reconcile(self, desired: Callable[[], Mapping[TargetKey, Wanted]]) -> None:
        async with self._lock:
            if self._ending:
                return
            wanted = desired()
            actual = {door.key: door.rules for door in self.doors()}
            self.failures = {key: error for key, error in self.failures.items() if key in wanted}
            for step in reconcile.plan(wanted, actual):
                match step:
                    case reconcile.Lower(key):
                        self._lower(key)
                    case reconcile.Raise(key):
                        await self._try_to_raise(key)
                    case reconcile.SetRules(key, rules):
                        self._set_rules(key, rules)
            await self._release_empty()

    async def _try_to_raise(self, key: TargetKey) -> None:
        try:
            await self._raise(key)
        except TpnetError as error:
            if str(self.failures.get(key)) != error.message:
                level = logging.INFO if isinstance(error, NotThere) else logging.WARNING  # pods come and go
                _log.log(level, "%s:%d is not redirected: %s", *key, error.message)
            self.failures[key] = error
        else:
            self.failures.pop(key, None)
            _log.info("%s:%d is redirected", *key)

    async def _raise(self, key: TargetKey) -> None:
        """Redirect a port. One that was left, and has connections yet, is taken up again as the same target."""
        name, port = key
        namespace = await self._enter(name)
        door = _still_left(namespace, port)
        if door is not None and door.accepts:
            door.take_up(door.listener)
        else:
            listener = await asyncio.to_thread(namespace.redirect.add, port)
            try:
                await asyncio.to_thread(probe, namespace, port, listener)
            except BaseException:
                namespace.redirect.remove(port)
                raise
            door = _still_left(namespace, port)  # its last connection may have ended meanwhile
            if door is None:
                door = Door(next(self._numbers), key, namespace, listener)
            else:
                door.take_up(listener)
            self._hand_over(door)
        namespace.left.pop(port, None)
        namespace.doors[port] = door
        self._mirror(namespace)

    async def _enter(self, name: str) -> LiveNamespace:
        """The namespace of that name, which may be here already, under this name or another."""
        addresses = self._book.addresses(name)
        namespace = self._namespaces.get(name)
        if namespace is not None:
            await asyncio.to_thread(prove, name, namespace.netns, addresses)
            return namespace
        target = await asyncio.to_thread(resolve, name)
        try:
            await asyncio.to_thread(prove, name, target.netns, addresses)
        except BaseException:
            target.close()
            raise
        for one in self._leaving:
            if one.netns.key == target.netns.key:
                self._leaving.discard(one)
                one.rename(target)
                namespace = one
                break
        else:
            assert self.program is not None, "the agent has started"
            namespace = await asyncio.to_thread(
                open_namespace, target, self.program, self._signs, self._state
            )
        self._namespaces[name] = namespace
        return namespace

    def _set_rules(self, key: TargetKey, rules: Wanted) -> None:
        door = self.door(key)
        if door is not None:
            door.rules = rules
            self._tell_rules(door)

    def _tell_rules(self, door: Door) -> None:
        rules = [encode(replace(intercept, name=counted_name(intercept))) for intercept in door.rules]
        self._workers.send(SetRules(door.number, rules, list(self._book.probes(door.key))))

    def _keep(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that is referred to until it is done."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Back to the app.

    def _lower(self, key: TargetKey) -> None:
        """New connections reach the app from here on; open ones go on to the app, for as long as they live."""
        namespace = self._namespaces[key[0]]
        self._leave(namespace, namespace.doors[key[1]])
        _log.info("%s:%d is back with its app", *key)

    def _leave(self, namespace: LiveNamespace, door: Door, *, gone: bool = False) -> None:
        """The worker keeps the rules when the agent ends: what is matched goes to its session, as long as it can."""
        del namespace.doors[door.port]
        namespace.left[door.port] = door
        door.leave()
        if not self._ending:
            self._workers.send(SetRules(door.number, []))
        if not self._workers.ready:
            door.over.set()
        door.seen_out = self._keep(self._see_out(namespace, door, gone=gone))

    async def _see_out(self, namespace: LiveNamespace, door: Door, *, gone: bool) -> None:
        """Wait until the last connection of a target has ended. Cancelled when it is taken up again."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.0 if gone else LINGER):  # the worker may die meanwhile
                await door.over.wait()
        door.accepts = False
        namespace.redirect.remove(door.port)
        self._workers.send(RemoveTarget(door.number, door.times, gone))
        await door.over.wait()
        del namespace.left[door.port]
        async with self._lock:
            await self._release_empty()

    def drained(self, number: int, times: int) -> None:
        """The worker has no connection any more of a target that was left so many times."""
        for door in self.left():
            if door.number == number and door.times == times:
                door.over.set()

    async def _release_empty(self) -> None:
        """Undo what was changed in namespaces that nothing is left in. Under the lock."""
        for name, namespace in list(self._namespaces.items()):
            if namespace.empty:
                del self._namespaces[name]
                await asyncio.to_thread(namespace.close, self._state)
        for namespace in list(self._leaving):
            if namespace.empty:
                self._leaving.discard(namespace)
                await asyncio.to_thread(namespace.close, self._state)

    async def withdraw(self, seconds: float, *, mark: bool) -> None:
        """The agent ends: new connections reach the apps from this moment on, and another agent may redirect.

        Open ones end at their next message's end, all within ``seconds``; with ``mark`` their clients are told before.
        """
        self._ending = True
        for door in self.doors():
            door.disable("the agent ends")
        self._workers.send(Finish(seconds, mark))
        async with self._lock:
            for namespace in list(self._namespaces.values()):
                for door in list(namespace.doors.values()):
                    self._leave(namespace, door)
            for namespace in (*self._namespaces.values(), *self._leaving):
                try:
                    await asyncio.to_thread(namespace.withdraw)
                except TpnetError as error:
                    _log.warning("%s", error.message)
            await self._release_empty()

    async def close(self, seconds: float) -> None:
        """Wait for the last connections, for ``seconds`` and a little longer; then undo every change."""
        if not self._ending:
            await self.withdraw(seconds, mark=False)
        leaving = [door.seen_out for door in self.left() if door.seen_out is not None]
        if leaving:
            await asyncio.wait(leaving, timeout=seconds + LATE)
        for door in self.left():
            _log.warning("the worker has not let go of %s:%d", *door.key)
            door.over.set()
        await asyncio.gather(*leaving)
        async with self._lock:
            await self._release_empty()

    # The worker comes and goes.

    def worker_lost(self, pause: float) -> None:
        """New connections go to the apps from this moment on, until there is a worker again.

        What waits at the listeners waits for the next worker, or is reset when that takes long.
        """
        self._full = False
        for door in self.doors():
            door.disable("the worker is being restarted")
        for door in self.left():
            door.over.set()
        if pause > LINGER / 2:
            for door in self.doors():
                door.turn_away()

    def worker_ready(self) -> None:
        """Hand everything to a new worker, and redirect again."""
        self._workers.send(SetNode(list(self._node)))
        for door in self.doors():
            self._hand_over(door)
        self.mirror()

    def not_taken(self, number: int) -> None:
        """The worker had no room for a target's descriptors: its clients are the app's until it has."""
        if number in self._not_taken or not any(door.number == number for door in self.doors()):
            return
        self._not_taken.add(number)
        _log.warning("the worker has no file descriptors for another target: it is asked again")
        asyncio.get_running_loop().call_later(AGAIN, self._hand_over_again, number)

    def _hand_over_again(self, number: int) -> None:
        self._not_taken.discard(number)
        for door in self.doors():
            if door.number == number:
                self._hand_over(door)

    def set_node(self, addresses: Iterable[str]) -> None:
        """The addresses of the node itself, from which its kubelet probes."""
        if (node := tuple(addresses)) != self._node:
            self._node = node
            self._workers.send(SetNode(list(node)))

    def worker_full(self, *, full: bool) -> None:
        """The worker has no file descriptors left for more clients: they go to the apps until it has again."""
        _log.log(
            logging.WARNING if full else logging.INFO,
            "the worker is out of file descriptors: new connections go to the apps"
            if full
            else "the worker has file descriptors again",
        )
        self._full = full
        self.mirror()

    def _hand_over(self, door: Door) -> None:
        redirect = door.namespace.redirect
        message = AddTarget(door.number, door.name, door.port, place=redirect.entrust(door.port))
        self._workers.send(message, [door.listener.fileno(), redirect.bypass_fd])
        self._tell_rules(door)

    # What happens in the namespaces.

    def mirror(self) -> None:
        """Redirect each target exactly where its app listens at this moment; several times a second."""
        for namespace in self._namespaces.values():
            self._mirror(namespace)

    def mirror_of(self, number: int) -> None:
        """The same, at once, for a target whose app has just refused a connection."""
        for namespace in self._namespaces.values():
            if namespace.has(number):
                self._mirror(namespace)

    async def look_for_changes(self) -> None:
        """See whether somebody in a namespace has undone what a redirect needs there: its clients are the app's then."""
        for name in list(self._namespaces):
            if self._lock.locked():
                return  # it is about to be opened or closed: look again in a moment
            async with self._lock:
                namespace = self._namespaces.get(name)
                if namespace is not None and namespace.to_look_at:
                    await asyncio.to_thread(namespace.look)

    def _mirror(self, namespace: LiveNamespace) -> None:
        if why := self._why_not() or namespace.undone:
            for door in namespace.doors.values():
                door.disable(why)
            return
        try:
            ports = namespace.table.read()
        except TpnetError as error:
            if namespace.trouble != error.message:
                namespace.trouble = error.message
                _log.warning("%s", error.message)
            return
        namespace.trouble = ""
        for door in namespace.doors.values():
            door.follow(ports.get(door.port, frozenset()))

    def _why_not(self) -> str:
        """Why the worker can take nobody at this moment; empty when it can."""
        if not self._workers.ready:
            return "no worker is ready"
        if self._workers.silent:
            return "the worker does not respond: new connections go to the app"
        return "the worker is out of file descriptors" if self._full else ""

    def look_for_the_vanished(self) -> None:
        """Let go of namespaces whose name stands for them no longer; once a second."""
        if self._lock.locked():
            return  # one of them may be about to get another port: look again in a second
        for name, namespace in list(self._namespaces.items()):
            if namespace.target.alive():
                continue
            _log.info("%s is gone", name)
            del self._namespaces[name]
            self._leaving.add(namespace)
            for door in list(namespace.doors.values()):
                self.failures[door.key] = NotThere(f"{name} is gone.")
                self._leave(namespace, door, gone=True)


def _still_left(namespace: LiveNamespace, port: int) -> Door | None:
    """The target of a port that was left, if the worker may have a connection of it; what has ended is tidied away."""
    door = namespace.left.get(port)
    if door is None or not door.over.is_set():
        return door
    del namespace.left[port]
    if door.seen_out is not None:
        door.seen_out.cancel()
    if door.accepts:
        namespace.redirect.remove(port)
    return None
