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
from tpnet.agent.namespace import Door, LiveNamespace, open_namespace, probe
from tpnet.agent.status import counted_name
from tpnet.model import NotThere, TpnetError
from tpnet.model.codec import encode
from tpnet.proxy.channel import AddTarget, RemoveTarget, SetRules

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from tpnet.agent.reconcile import Wanted
    from tpnet.agent.state import StateFile
    from tpnet.agent.workers import Workers
    from tpnet.control.local.store import TargetKey
    from tpnet.datapath.netns import NetNs
    from tpnet.datapath.program import Program
    from tpnet.kernel.signs import Signs

_log = logging.getLogger(__name__)

GRACE = 30.0
"""Seconds that a target's open connections have to finish once it is given back."""
LATE = 8.0
"""Seconds after the grace until a worker that has not reported the end is not waited for any more."""
AGAIN = 1.0
"""Seconds until a target that the worker had no room for is handed to it again."""
LINGER = 1.0
"""Seconds between the end of the redirect and of accepting: handshakes that began in time may take that."""


class Targets:
    """Actual state.

    ``failures`` has the error of each wanted target that could not be raised at the last try. ``program`` must be
    there before the first target is raised.
    """

    def __init__(self, signs: Signs, workers: Workers, state: StateFile) -> None:
        self.program: Program | None = None
        self._signs = signs
        self._workers = workers
        self._state = state
        self._numbers = itertools.count(1)
        self._lock = asyncio.Lock()
        self._namespaces: dict[str, LiveNamespace] = {}
        self._leaving: set[LiveNamespace] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._drains: set[asyncio.Task[None]] = set()
        self.grace = GRACE
        self.linger = LINGER
        self.failures: dict[TargetKey, TpnetError] = {}
        self._full = False

    # What is there.

    def doors(self) -> list[Door]:
        """Every target that is raised."""
        return [door for namespace in self._namespaces.values() for door in namespace.doors.values()]

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

    def netns_of(self, number: int) -> NetNs | None:
        """The namespace of a target that the worker knows by number, or that drains there."""
        for namespace in (*self._namespaces.values(), *self._leaving):
            if namespace.has(number):
                return namespace.netns
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
        name, port = key
        namespace = self._namespaces.get(name)
        if namespace is None:
            assert self.program is not None, "the agent has started"
            namespace = await asyncio.to_thread(open_namespace, name, self.program, self._signs, self._state)
            self._namespaces[name] = namespace
        listener = await asyncio.to_thread(namespace.redirect.add, port)
        try:
            await asyncio.to_thread(probe, namespace, port, listener)
        except BaseException:
            namespace.redirect.remove(port)
            raise
        door = Door(next(self._numbers), key, namespace, listener)
        namespace.doors[port] = door
        self._hand_over(door)
        self._mirror(namespace)

    def _set_rules(self, key: TargetKey, rules: Wanted) -> None:
        door = self.door(key)
        if door is not None:
            door.rules = rules
            self._tell_rules(door)

    def _tell_rules(self, door: Door) -> None:
        rules = [encode(replace(intercept, name=counted_name(intercept))) for intercept in door.rules]
        self._workers.send(SetRules(door.number, rules))

    def _keep(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that is referred to until it is done."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self._drains.discard)
        return task

    # Back to the app.

    def _lower(self, key: TargetKey) -> None:
        """New connections reach the app from here on; open ones end in their own time, in the background."""
        namespace = self._namespaces[key[0]]
        door = namespace.doors.pop(key[1])
        namespace.redirect.remove(door.port)
        self._workers.send(SetRules(door.number, []))
        self._drain(namespace, door, self.linger, self.grace)
        _log.info("%s:%d is back with its app", *key)

    def _drain(self, namespace: LiveNamespace, door: Door, linger: float, grace: float) -> None:
        drained = asyncio.Event()
        if not self._workers.ready:
            drained.set()
        namespace.draining[door.number] = drained
        self._drains.add(self._keep(self._see_out(namespace, door, linger, grace)))

    async def _see_out(self, namespace: LiveNamespace, door: Door, linger: float, grace: float) -> None:
        drained = namespace.draining[door.number]
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(linger):  # the worker may die meanwhile
                    await drained.wait()
            self._workers.send(RemoveTarget(door.number, grace))
            async with asyncio.timeout(grace + LATE):
                await drained.wait()
        except TimeoutError:
            _log.warning("the worker has not let go of %s:%d", *door.key)
        finally:
            namespace.draining.pop(door.number, None)
        async with self._lock:
            await self._release_empty()

    def drained(self, number: int) -> None:
        """The worker has no connection of that target any more."""
        for namespace in (*self._namespaces.values(), *self._leaving):
            if (event := namespace.draining.get(number)) is not None:
                event.set()

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

    async def close(self, seconds: float) -> None:
        """Give everything back, with ``seconds`` for open connections; then undo every change."""
        self.grace, self.linger = seconds, min(self.linger, seconds / 10)
        await self.reconcile(dict)
        if self._drains:
            await asyncio.wait(self._drains, timeout=seconds + 1.0)
        for task in list(self._drains):
            task.cancel()
        await asyncio.gather(*self._drains, return_exceptions=True)
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
        for namespace in (*self._namespaces.values(), *self._leaving):
            for event in namespace.draining.values():
                event.set()
        if pause > LINGER / 2:
            for door in self.doors():
                door.turn_away()

    def worker_ready(self) -> None:
        """Hand everything to a new worker, and redirect again."""
        for door in self.doors():
            self._hand_over(door)
        self.mirror()

    def not_taken(self, number: int) -> None:
        """The worker had no room for a target's descriptors: its clients are the app's until it has."""
        _log.warning("the worker has no file descriptors for another target: it is asked again")
        asyncio.get_running_loop().call_later(AGAIN, self._hand_over_again, number)

    def _hand_over_again(self, number: int) -> None:
        for door in self.doors():
            if door.number == number:
                self._hand_over(door)

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

    def _mirror(self, namespace: LiveNamespace) -> None:
        if why := self._why_not():
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
        for name, namespace in list(self._namespaces.items()):
            if namespace.target.alive():
                continue
            _log.info("%s is gone", name)
            del self._namespaces[name]
            self._leaving.add(namespace)
            for door in list(namespace.doors.values()):
                self.failures[door.key] = NotThere(f"{name} is gone.")
                namespace.redirect.remove(door.port)
                self._drain(namespace, door, 0.0, 0.0)
            namespace.doors.clear()
