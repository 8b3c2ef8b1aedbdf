"""Where supervisor, worker and session daemon say what happens: lines to a descriptor, written by a thread of their own.

``to_stderr`` is called first thing in each of the three. It must never block or raise in who has something to say,
whatever is behind the descriptor: a pipe that nobody reads, a stopped terminal, a full disk, nothing at all. What
finds no room is dropped, and counted in a line of its own once there is room again. Nor must it write what a terminal
obeys, or a line that another's words have forged: names and messages are foreign text.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import logging
import os
import queue
import select
import sys
import threading
from typing import TYPE_CHECKING

from tpnet.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOM = 256 * 1024
"""Bytes of lines that may wait to be written."""
LONGEST = 16 * 1024
"""Bytes of one line; what is longer is cut."""
FLUSH_SECONDS = 0.5
"""Seconds that the end of a process waits for its last lines to be written."""
_FORMAT = "%(asctime)s %(levelname).1s %(message)s"


class Outlet:
    """Lines to a descriptor, which stays the caller's. The thread begins with the first line, or with ``begin``.

    So a process that gives up privileges after it has made one does so for the thread as well, which inherits them.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        # Reentrant (queue.SimpleQueue, RLock): a signal's handler may interrupt a ``write`` of its own thread.
        self._lines: queue.SimpleQueue[tuple[bytes, int] | threading.Event] = queue.SimpleQueue()
        self._lock = threading.RLock()
        self._waiting = 0  # bytes
        self._dropped = 0
        self._thread: threading.Thread | None = None

    def write(self, text: str) -> None:
        """Have whole lines written soon, or dropped. Returns at once; never raises."""
        for line in clean(text, lines=True).splitlines():
            data = line.encode(errors="backslashreplace")[:LONGEST] + b"\n"
            with self._lock:
                if self._waiting + len(data) > ROOM or not self._begun():
                    self._dropped += 1
                    continue
                self._tell_dropped()
                self._put(data, 1)

    def begin(self) -> None:
        """Start the thread now: later there may be no way to."""
        with self._lock:
            self._begun()

    def flush(self, seconds: float) -> bool:
        """Wait until what was said before is written, and what was dropped told, at most so long; whether it is."""
        if self._thread is None:
            return True
        reached = threading.Event()
        with self._lock:
            self._tell_dropped()
            self._lines.put(reached)
        return reached.wait(seconds)

    def _begun(self) -> bool:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="log", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads at this moment
                return False
            self._thread = thread
        return True

    def _put(self, data: bytes, lines: int) -> None:
        self._waiting += len(data)
        self._lines.put((data, lines))

    def _tell_dropped(self) -> None:
        """Under the lock: what was dropped is told where it is missing, in front of what comes next."""
        if self._dropped:
            what = "line was" if self._dropped == 1 else "lines were"
            self._put(f"{self._dropped} {what} dropped: nobody read them, or they could not be written\n".encode(),
                      self._dropped)  # fmt: skip
            self._dropped = 0

    def _run(self) -> None:
        while True:
            entry = self._lines.get()
            if isinstance(entry, threading.Event):
                entry.set()
                continue
            data, lines = entry
            written = self._written(data)
            with self._lock:
                self._waiting -= len(data)
                if not written:
                    self._dropped += lines
                elif not self._waiting:
                    self._tell_dropped()

    def _written(self, data: bytes) -> bool:
        """Write it all, however long that takes. False: it cannot be written."""
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    return False
                # Somebody who shares the descriptor has made it non-blocking.
                with contextlib.suppress(OSError):
                    select.select([], [self._fd], [])
        return True


class _Stream(io.TextIOBase):
    """In the place of ``sys.stderr``: whatever is written there, be it by Python itself, goes the same way."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._begun = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        whole, newline, self._begun = (self._begun + str(text))[-LONGEST:].rpartition("\n")
        if newline:
            self._outlet.write(whole)
        return len(text)


class _Formatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = clean(record.message)  # one record, one line; a traceback's own follow it
        return super().formatMessage(record)


class _Handler(logging.Handler):
    def __init__(self, outlet: Outlet) -> None:
        super().__init__()
        self._outlet = outlet

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._outlet.write(self.format(record))
        except Exception:  # noqa: BLE001 - a line that does not format is not worth more than a line
            self.handleError(record)


@contextlib.contextmanager
def to_stderr() -> Iterator[Outlet]:
    """While the block runs, log records and all that is written to ``sys.stderr`` go to descriptor 2 this way.

    The descriptor is taken as it is now: where the process was started without one, nothing is written. At the end
    what waits is written, or given up after ``FLUSH_SECONDS``.
    """
    fd = _duplicate()
    outlet = Outlet(fd)
    handler = _Handler(outlet)
    handler.setFormatter(_Formatter(_FORMAT))
    root = logging.getLogger()
    before = sys.stderr, root.level
    sys.stderr = _Stream(outlet)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield outlet
    finally:
        root.removeHandler(handler)
        sys.stderr = before[0]
        root.setLevel(before[1])
        if outlet.flush(FLUSH_SECONDS):
            os.close(fd)


def _duplicate() -> int:
    """Descriptor 2 under a number of its own, so that what is opened in its place later is not written to."""
    try:
        return fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, 3)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 2)  # nor is what is opened next to become the standard error of children
        if null != 2:
            os.close(null)
        return fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, 3)
