"""The worker process: started, spoken to, watched, and started again. One at a time.

The supervisor makes one ``Workers`` in its event loop. It must never block on a worker that does not read,
nor start one that dies in a tight loop, nor keep one that hangs: meanwhile all traffic is the app's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from tpnet.agent.relay import Relay
from tpnet.kernel import uids as users
from tpnet.kernel.namespaces import child_apart as apart
from tpnet.kernel.signs import WORKER, WORKER_SECONDS
from tpnet.model import TpnetError
from tpnet.proxy import channel, testimony

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from tpnet.kernel.signs import Signs
    from tpnet.proxy.channel import Message

_log = logging.getLogger(__name__)

READY_SECONDS = 10.0
"""Seconds that a worker has to become ready before it is killed."""
STABLE_SECONDS = 10.0
"""Seconds of life after which a worker's death is not held against the next one."""
HUNG_SECONDS = 2.0
"""Seconds without a sign of life after which a worker that serves is killed, and another started."""
STARVED_SECONDS = 10.0
"""The same for one that wants to run and does not get to: to kill it would reset what it yet holds."""
LONGEST_PAUSE = 5.0
"""Seconds between two starts, at most."""
_END_SECONDS = 2.0
_MAX_QUEUED = 10_000
_MOST_COUNTED = (
    0.3  # seconds of silence that one look may find; a longer pause between two was this process's own
)
_RAN_SECONDS = 0.5
_HANDED_ON = ("PYTHON", "PATH", "LANG", "LC_", "TZ")
"""Beginnings of the names of environment variables that a worker gets: no others, some of which may be secrets."""
_BURST, _BURST_SECONDS = 64, 0.01
"""Messages taken at once, and seconds in which another is: a worker that says much does not keep the loop."""


class Watched(NamedTuple):
    """What was seen of the worker's signs: the last one, when that was looked at, and for how long it has not changed.

    ``cpu``: seconds of processor time that the worker had used when it fell silent.
    """

    last: float
    now: float
    silent: float
    cpu: float


def _process_state(pid: int) -> tuple[str, float]:
    """A process's state as a letter, and the processor time that it has used in seconds (proc(5), stat)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return "", 0.0
    return fields[0], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pause_before(failures: int) -> float:
    """Seconds to wait before another start, after so many early deaths in a row: 0, 0, 0.2, 0.4, …."""
    return 0.0 if failures < 2 else min(0.1 * 2 ** (failures - 1), LONGEST_PAUSE)


def command(channel_fd: int, uid: int) -> list[str]:
    """What starts a worker; the descriptor is its end of the channel."""
    worker = [sys.executable, "-m", "tpnet.proxy.worker"]
    return [*worker, "--channel", str(channel_fd), "--uid", str(uid)]


class Workers:
    """The worker of the moment.

    ``on_ready()`` is called when it serves, ``on_lost(pause)`` as soon as it is gone (the next one starts in
    ``pause`` seconds), ``on_message(message)`` for what it says, which may raise ``LieError``: who lies is replaced.
    ``restarts`` counts workers that died. ``signs`` are the signs of life that it gives; ``watch`` looks at them.
    ``uids``: users, of which each worker becomes one.
    """

    def __init__(
        self,
        uids: range,
        signs: Signs,
        on_ready: Callable[[], None],
        on_lost: Callable[[float], None],
        on_message: Callable[[Message], None],
    ) -> None:
        self._uids = uids
        self._signs = signs
        self._watched = Watched(0.0, 0.0, 0.0, 0.0)
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._on_message = on_message
        self._process: subprocess.Popen[bytes] | None = None
        self._relay: Relay | None = None
        self._pidfd = -1
        self._end: socket.socket | None = None
        self._queue: deque[tuple[Message, list[int]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._started = 0.0
        self._failures = 0
        self._pause = 0.0
        self._lost = False
        self._closing = False
        self._serving = asyncio.Event()
        self._ended = asyncio.Event()
        self.restarts = 0

    @property
    def ready(self) -> bool:
        """Whether a worker serves at this moment."""
        return self._serving.is_set()

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of living workers."""
        return () if self._process is None else (self._process.pid,)

    @property
    def silent(self) -> float:
        """Seconds since the last sign of life of a worker that should serve and does not; 0 while it does.

        So long as this is not 0 the kernel passes new connections to the apps.
        """
        if not self.ready:
            return 0.0
        silent = time.monotonic() - self._signs.last(WORKER)
        return silent if silent > WORKER_SECONDS else 0.0

    def watch(self) -> None:
        """Kill a worker that hangs. Several times a second.

        Only time in which this process itself was on time counts: after a pause of both, nobody hung.
        """
        now, last = time.monotonic(), self._signs.last(WORKER)
        seen = self._watched
        if not self.ready or last != seen.last:
            self._watched = Watched(last, now, 0.0, 0.0)
            return
        silent = seen.silent + min(now - seen.now, _MOST_COUNTED)
        self._watched = Watched(last, now, silent, seen.cpu or self._cpu())
        if silent >= HUNG_SECONDS and (silent >= STARVED_SECONDS or not self._starves(seen.cpu)):
            self._kill(f"it gave no sign of life for {silent:.1f} s")
            self._lose()

    async def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait until a worker serves. Raises ``TpnetError`` when none does in time."""
        try:
            async with asyncio.timeout(seconds):
                await self._serving.wait()
        except TimeoutError:
            raise TpnetError(
                f"No worker became ready within {seconds:g} s; all traffic goes to the apps meanwhile.",
                "The agent's output says why workers end.",
            ) from None

    def start(self) -> None:
        """Start a worker; it says by itself when it serves."""
        loop = asyncio.get_running_loop()
        self._lost = False
        self._started = time.monotonic()
        with contextlib.ExitStack() as ours_for_now:
            try:
                self._launch(ours_for_now)
            except OSError as error:
                _log.error("no worker could be started: %s", error.strerror)
                if self._process is not None:
                    self._process.kill()
                self._gone()
                return
        assert self._end is not None, "it has been started"
        self._ended.clear()
        loop.add_reader(self._pidfd, self._gone)
        loop.add_reader(self._end.fileno(), self._read)
        self._timer = loop.call_later(READY_SECONDS, self._too_late)

    def _launch(self, childs: contextlib.ExitStack) -> None:
        """Start the process. ``childs`` closes what is the child's alone. Raises ``OSError``."""
        self._end, theirs = channel.pair()
        childs.callback(theirs.close)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        childs.callback(os.close, null)
        words, voice = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        childs.callback(os.close, voice)
        os.set_blocking(voice, True)
        self._relay = Relay(words)
        # From the main thread: the worker is to die with the thread that started it.
        with apart():
            self._process = subprocess.Popen(
                command(theirs.fileno(), self._user()),
                stdin=null,
                stdout=null,
                stderr=voice,
                pass_fds=[theirs.fileno()],
                cwd="/",
                env={name: text for name, text in os.environ.items() if name.startswith(_HANDED_ON)},
            )
        self._pidfd = os.pidfd_open(self._process.pid)

    def _user(self) -> int:
        """The user that the next worker becomes."""
        if (user := users.unused(self._uids)) is not None:
            return user
        _log.warning("every user from %s to %s is a process's of this node", self._uids[0], self._uids[-1])
        return self._uids[0]

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Tell the worker something, in order; without a worker that serves it is lost.

        ``fds`` stay the caller's.
        """
        if not self.ready or self._end is None:
            return
        if not self._queue and self._sent(message, fds):
            return
        try:
            self._queue.append((message, [os.dup(fd) for fd in fds]))
        except OSError:
            self._kill("it could not be told something: descriptors ran out")
            return
        if len(self._queue) > _MAX_QUEUED:
            self._kill("it does not read what it is told")
            return
        asyncio.get_running_loop().add_writer(self._end.fileno(), self._flush)

    def offer(self, message: Message, fds: Sequence[int]) -> bool:
        """Like ``send``, but only if the worker reads at once; whether it did."""
        return self.ready and not self._queue and self._sent(message, fds)

    async def close(self) -> None:
        """End the worker: by the end of its channel, after two seconds by force."""
        self._closing = True
        self._serving.clear()
        process = self._process
        if self._timer is not None:
            self._timer.cancel()
        if process is None:
            return
        self._hang_up()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await self._ended.wait()
        except TimeoutError:
            process.kill()
            self._forget()

    def _sent(self, message: Message, fds: Sequence[int]) -> bool:
        """Send now. False: it does not read at this moment."""
        assert self._end is not None, "there is a worker"
        try:
            channel.send(self._end, message, list(fds))
        except BlockingIOError:
            return False
        except OSError as error:
            # A worker that is gone is noticed by its pidfd; anything else leaves it without what it must
            # know.
            if not isinstance(error, BrokenPipeError | ConnectionError):
                self._kill(f"it could not be told something: {error.strerror}")
        return True

    def _flush(self) -> None:
        while self._queue:
            message, fds = self._queue[0]
            if not self._sent(message, fds):
                return
            self._drop_first()
        if self._end is not None:
            asyncio.get_running_loop().remove_writer(self._end.fileno())

    def _drop_first(self) -> None:
        for fd in self._queue.popleft()[1]:
            os.close(fd)

    def _read(self) -> None:
        end = time.monotonic() + _BURST_SECONDS
        for _ in range(_BURST):
            if self._end is None or time.monotonic() > end:
                return
            try:
                message = testimony.receive(self._end)
            except BlockingIOError:
                return
            except testimony.LieError as error:
                self._replace(error)
                return
            except OSError:
                message = None
            if message is None:  # it is dying, or has hung up, which must be the end of it too
                if self._process is not None:
                    self._process.kill()
                self._lose()
                return
            try:
                self._take(message)
            except testimony.LieError as error:
                self._replace(error)

    def _take(self, message: Message) -> None:
        """Believe it. Raises ``LieError`` where it contradicts what was said before."""
        if not isinstance(message, channel.Ready):
            self._on_message(message)
        elif self.ready:
            raise testimony.LieError("it is ready a second time")
        else:
            self._became_ready()

    def _replace(self, lie: testimony.LieError) -> None:
        self._kill(f"no worker of ours says that: {lie}")
        self._lose()

    def _became_ready(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._signs.withdraw(withdrawn=False)
        self._signs.beat(WORKER)  # it has just spoken
        _log.info("worker %d serves after %.2f s", self.pids[0], time.monotonic() - self._started)
        self._serving.set()
        self.send(channel.TakeSigns(), [self._signs.fd])
        self._on_ready()

    def _too_late(self) -> None:
        self._kill(f"it was not ready after {READY_SECONDS:g} s")

    def _kill(self, why: str) -> None:
        if self._process is not None:
            _log.error("killing worker %d: %s", self._process.pid, why)
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)

    def _starves(self, cpu: float) -> bool:
        """Whether it would run, but had hardly any time on a processor since it had used ``cpu`` seconds of it."""
        state, used = _process_state(self.pids[0] if self.pids else 0)
        return state in {"R", "D"} and used - cpu < _RAN_SECONDS

    def _cpu(self) -> float:
        return _process_state(self.pids[0] if self.pids else 0)[1]

    def _hang_up(self) -> None:
        if self._end is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._end.fileno())
            loop.remove_writer(self._end.fileno())
            self._end.close()
            self._end = None

    def _lose(self) -> None:
        """It serves no more. Said at the first sign, and once: the targets go back to their apps now."""
        if self._lost:
            return
        self._lost = True
        self._signs.silence(WORKER)
        self._serving.clear()
        self._hang_up()
        if self._closing:
            return
        young = time.monotonic() - self._started < STABLE_SECONDS
        self._failures = self._failures + 1 if young else 1
        self._pause = pause_before(self._failures)
        self.restarts += 1
        self._on_lost(self._pause)

    def _gone(self) -> None:
        """The process has ended."""
        self._lose()
        status = self._forget()
        if self._closing:
            return
        pause = f" in {self._pause:g} s" if self._pause else ""
        _log.warning("the worker ended (%s); another starts%s", status, pause)
        self._timer = asyncio.get_running_loop().call_later(self._pause, self.start)

    def _forget(self) -> str:
        """Let go of everything of the worker; how it ended."""
        self._hang_up()
        if self._timer is not None:
            self._timer.cancel()
        while self._queue:
            self._drop_first()
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        if self._relay is not None:
            self._relay.close()
            self._relay = None
        process, self._process = self._process, None
        self._ended.set()
        if process is None:
            return "not started"
        code = process.wait()
        return f"signal {-code}" if code < 0 else f"status {code}"
