"""A steady load on a service, and a ledger of who answered each request.

Tests start one while they break things. A third of the requests carry each developer's header, the rest carry
none; half of them go over connections of their own, half over kept ones. Every request is asked once: what a
client sees is what the ledger says. A kept connection that ends between two requests is told apart: servers do that,
and clients ask again.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass

TIMEOUT = 10.0
"""Seconds after which a request counts as hanging, which is never right."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One request: when it was sent (monotonic), whose header it carried, who answered, or what went wrong."""

    at: float
    seconds: float
    header: str
    answered: str
    kept: bool
    error: str = ""


class Ledger:
    """``rate`` requests a second to ``address``, from inside ``netns`` (a ``tpnet.datapath.netns.NetNs``).

    ``developers`` are the values of the header ``Coder`` to send. An answer is the developer's name when it comes
    from a handler (``developer``'s body begins with it), else ``app:POD``.
    """

    def __init__(self, netns, address, developers=(), *, rate=100, host="orders", header="Coder"):
        self.entries: list[Entry] = []
        self._netns, self._address, self._host, self._header = netns, address, host, header
        self._kinds = ["", *developers]
        self._stop = threading.Event()
        self._lock = threading.Lock()
        threads = 10
        self._pause = threads / rate
        self._threads = [
            threading.Thread(target=self._run, args=(number, number % 2 == 0), daemon=True)
            for number in range(threads)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """End the load, and give the entries."""
        self._stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT + 5)
            assert not thread.is_alive(), "a request hangs"
        return self.entries

    # What the ledger says.

    def errors(self, since=0.0):
        """The requests that failed; not those on a kept connection that was closed meanwhile."""
        return [
            one
            for one in self.entries
            if one.error and not one.error.startswith("closed") and one.at >= since
        ]

    def check(self):
        """None got another's answer, and none failed."""
        wrong = [*self.strays(), *self.errors()]
        began = self.entries[0].at if self.entries else 0.0
        assert not wrong, "\n".join(
            f"after {one.at - began:.2f} s for {one.seconds * 1000:.0f} ms, {one.header or 'no header'}, "
            f"{'kept' if one.kept else 'its own'}: {one.error or one.answered}"
            for one in wrong
        )

    def closed(self, since=0.0):
        """The requests that found their kept connection closed or reset."""
        return [one for one in self.entries if one.error.startswith("closed") and one.at >= since]

    def strays(self):
        """The requests that a developer got whose header they did not carry."""
        return [
            entry
            for entry in self.entries
            if not entry.error and not entry.answered.startswith("app:") and entry.answered != entry.header
        ]

    def answered(self, since=0.0, until=float("inf")):
        """How often who answered whose: ``{(header, "bob" or "app" or "error"): times}``."""
        count = Counter()
        for entry in self.entries:
            if since <= entry.at < until:
                who = "error" if entry.error else entry.answered.partition(":")[0]
                count[entry.header, who] += 1
        return count

    def wait_for(self, header, who, seconds=10.0, times=10):
        """Wait until the last ``times`` requests with this header were all answered by ``who`` (or ``app``).

        Those over connections of their own: a kept one that was opened while nobody redirected stays with the app.
        """
        deadline = time.monotonic() + seconds
        while True:
            with self._lock:
                last = [one for one in self.entries if one.header == header and not one.kept][-times:]
            if len(last) == times and all(one.answered.partition(":")[0] == who for one in last):
                return last[0].at
            assert time.monotonic() < deadline, f"{header!r} is not answered by {who}: {last[-5:]}"
            time.sleep(0.02)

    # The load.

    def _run(self, number, kept):
        connection = None
        turn = number
        while not self._stop.is_set():
            header = self._kinds[turn % len(self._kinds)]
            turn += 1
            began = time.monotonic()
            answered = error = ""
            used = connection is not None
            try:
                if connection is None:
                    connection = Connection(self._netns, self._address)
                answered = self._ask(connection, header, kept)
            except (OSError, http.client.HTTPException, ValueError) as failure:
                error = f"{type(failure).__name__}: {failure}"
                if used and isinstance(failure, ConnectionError):  # http.client's RemoteDisconnected is one
                    error = f"closed: {error}"
            if connection is not None and (error or not kept or connection.sock is None):
                connection.close()
                connection = None
            with self._lock:
                self.entries.append(Entry(began, time.monotonic() - began, header, answered, kept, error))
            self._stop.wait(max(0.0, self._pause - (time.monotonic() - began)))
        if connection is not None:
            connection.close()

    def _ask(self, connection, header, kept):
        headers = {"Host": self._host, **({} if kept else {"Connection": "close"})}
        if header:
            headers[self._header] = header
        connection.request("GET", "/api/ledger", headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise ValueError(f"status {answer.status}")
        with contextlib.suppress(ValueError):
            return f"app:{json.loads(body)['pod']}"
        return body.split(b"'", 1)[0].decode()


class Connection(http.client.HTTPConnection):
    """A connection made inside a namespace."""

    def __init__(self, netns, address):
        super().__init__(address[0], address[1], timeout=TIMEOUT)
        self._netns = netns

    def connect(self):
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self.sock = self._netns.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect((self.host, self.port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
