"""What a worker writes to its standard error, passed on to the log: a little at a time, a line each.

A worker has a pipe for it, and nothing of the supervisor's: neither its log file nor its terminal. Must never pass on a
control character, nor more than a log can bear: whoever took the worker over chooses the words.
"""

from __future__ import annotations

import asyncio
import logging
import os

_log = logging.getLogger(__name__)

_AT_ONCE = 4096
_EVERY = 0.1
"""Seconds between two reads: what comes faster waits in the pipe, and then in the worker."""
_LONGEST = 1024
_LAST = 1 << 16  # bytes that a pipe holds


class Relay:
    """Reads ``pipe``, a descriptor that it owns and that never blocks, until ``close``."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._begun = b""
        self._timer: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        """Pass on the last words, and let go of the pipe."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
        loop.remove_reader(self._pipe)
        if data := self._taken(_LAST):
            self._pass_on(data)
        if self._begun:
            self._pass_on(b"\n")
        os.close(self._pipe)

    def _listen(self) -> None:
        asyncio.get_running_loop().add_reader(self._pipe, self._read)

    def _read(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._pipe)
        if data := self._taken(_AT_ONCE):
            self._pass_on(data)
            self._timer = loop.call_later(_EVERY, self._listen)

    def _taken(self, most: int) -> bytes | None:
        try:
            return os.read(self._pipe, most)
        except BlockingIOError:
            return None

    def _pass_on(self, data: bytes) -> None:
        *lines, self._begun = (self._begun + data).split(b"\n")
        for line in lines:
            _log.warning("%s", plain(line))
        if len(self._begun) > _LONGEST:
            _log.warning("%s", plain(self._begun))
            self._begun = b""


def plain(line: bytes) -> str:
    """Text in which every character can be seen, and none moves a cursor or ends a line."""
    return line.decode(errors="backslashreplace").encode("unicode_escape").decode("ascii")
