"""A steady load on a service, and a ledger of what became of each request, as the client saw it.

Tests start one while they break things. Each request carries an id; some carry a developer's header, the others carry
none; half of them go over connections of their own, half over kept ones. Every request is asked once. What a kept
connection that ends between two requests does to the next one is told apart: servers do that, and clients ask again.
``books`` has what app and handlers saw. Must never send to an address that the test did not give, nor more than ``rate``.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from enum import StrEnum
from uuid import uuid4

TIMEOUT = 10.0
"""Seconds after which a request counts as hanging, which is never right."""


class Outcome(StrEnum):
    """What a client knows of a request."""

    OK = "ok"
    """A whole response with 200."""
    FAILED = "failed"
    """A whole response with another status."""
    REFUSED = "refused"
    """It was not sent: there was no connection, or the kept one was seen to have ended."""
    UNKNOWN = "unknown"
    """It was sent, or a part of it, and no whole response came."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One request: when it was sent (monotonic), whose header it carried, who answered, or what went wrong.

    ``head`` and ``body`` are digests. ``connection`` and ``number`` say the how manieth of which connection it was.
    """

    at: float
    seconds: float
    header: str
    answered: str
    kept: bool
    error: str = ""
    outcome: Outcome = Outcome.OK
    id: str = ""
    method: str = "GET"
    head: str = ""
    body: str = ""
    connection: str = ""
    number: int = 0

    def __str__(self):
        return (
            f"{self.method} {self.id} for {self.seconds * 1000:.0f} ms, {self.header or 'no header'}, "
            f"{'kept' if self.kept else 'its own'} ({self.connection} {self.number}): "
            f"{self.outcome} {self.error or self.answered}"
        )


def digest(data):
    return hashlib.sha256(data).hexdigest()[:16]


def noise(name, size):
    """Bytes that both ends of a request know: of its id, or of its response's."""
    return hashlib.shake_128(name.encode()).digest(size)


def shop(body, request_id):
    """Who wrote the body: a cluster's shop says its pod in JSON, a developer's handler begins with his name."""
    del request_id
    with contextlib.suppress(ValueError):
        return f"app:{json.loads(body)['pod']}"
    return body.split(b"'", 1)[0].decode()


class Ledger:
    """``rate`` requests a second, ``limit`` at most, from inside ``netns`` (a ``tpnet.datapath.netns.NetNs``).

    ``addresses`` is one (host, port) or several, taken in turn. ``developers`` are the values of the header ``Coder``
    to send. With ``posts`` every third request has a body; ``slow`` more clients ask for responses that take
    ``slow_seconds``; with ``pipeline`` a kept connection has so many requests under way at once. ``reads(body, id)``
    says who answered, which is the developer's name when it was a handler, and else begins with ``app``.
    """

    def __init__(
        self,
        netns,
        addresses,
        developers=(),
        *,
        rate=100,
        limit=1_000_000,
        host="orders",
        header="Coder",
        threads=10,
        posts=False,
        slow=0,
        slow_seconds=10.0,
        pipeline=1,
        most=1_000_000,
        reads=shop,
    ):
        self.entries: list[Entry] = []
        self.reads, self.most = reads, most
        self.addresses = itertools.cycle([addresses] if isinstance(addresses[0], str) else addresses)
        self.netns, self._host, self._header, self._posts = netns, host, header, posts
        self._kinds = ["", *developers]
        self._limit = itertools.repeat(None, limit)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._run_id = uuid4().hex[:8]
        pause = threads / rate
        clients = [(number % 2 == 0, pause, 0.0, pipeline) for number in range(threads)]
        clients += [(number % 2 == 0, 0.1, slow_seconds, 1) for number in range(slow)]
        self._threads = [
            threading.Thread(target=self._run, args=(number, *one), daemon=True)
            for number, one in enumerate(clients)
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
            thread.join(3 * TIMEOUT)
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
        assert not wrong, "\n".join(f"after {one.at - began:.2f} s {one}" for one in wrong)

    def closed(self, since=0.0):
        """The requests that found their kept connection closed or reset."""
        return [one for one in self.entries if one.error.startswith("closed") and one.at >= since]

    def strays(self):
        """The requests that a developer got whose header they did not carry."""
        return [
            entry
            for entry in self.entries
            if not entry.error and not entry.answered.startswith("app") and entry.answered != entry.header
        ]

    def answered(self, since=0.0, until=float("inf")):
        """How often who answered whose: ``{(header, "bob" or "app" or "error"): times}``."""
        count = Counter()
        for entry in self.entries:
            if since <= entry.at < until:
                who = "error" if entry.error else entry.answered.partition(":")[0]
                count[entry.header, who] += 1
        return count

    def wait_for(self, header, who, seconds=30.0, times=10, *, kept=False, since=0.0):
        """Wait until the last ``times`` requests with this header, of those asked ``since``, were all ``who``'s.

        Those over connections of their own, unless ``kept`` ones are meant too: a kept one that was opened while
        nobody redirected stays with the app.
        """
        deadline = time.monotonic() + seconds
        while True:
            with self._lock:
                entries = [
                    one
                    for one in self.entries
                    if one.header == header and (kept or not one.kept) and one.at > since
                ]
            last = entries[-times:]
            if len(last) == times and all(one.answered.partition(":")[0] == who for one in last):
                return last[0].at
            assert time.monotonic() < deadline, f"{header!r} is not answered by {who}: {last[-5:]}"
            time.sleep(0.02)

    def wait(self, requests, seconds=60.0):
        """Let so many more requests be asked."""
        goal, deadline = len(self.entries) + requests, time.monotonic() + seconds
        while len(self.entries) < goal:
            assert time.monotonic() < deadline, f"{goal - len(self.entries)} requests were not asked in time"
            time.sleep(0.02)

    # The load.

    def _run(self, number, kept, pause, slow, pipeline):
        client = Client(self, f"{self._run_id}.{number}", kept)
        turn = number
        while not self._stop.is_set() and next(self._limit, self) is None:
            began = time.monotonic()
            batch = []
            for _ in range(pipeline if kept else 1):
                turn += 1
                method = "POST" if self._posts and turn % 3 == 0 and pipeline == 1 else "GET"
                batch.append((method, self._kinds[turn % len(self._kinds)], slow))
            entries = client.ask(batch)
            with self._lock:
                self.entries += entries
            self._stop.wait(max(0.0, pause * len(batch) - (time.monotonic() - began)))
        client.close()

    def request(self, request_id, connection, number, kept, method, header, slow):
        """Head and body."""
        lines = [f"{method} /api/ledger HTTP/1.1", f"Host: {self._host}", f"X-Ledger: {request_id}"]
        lines.append(f"X-Ledger-Connection: {connection} {number}")
        body = b""
        if method == "POST":
            body = noise(request_id, 100 + 37 * number % 5000)
            lines.append(f"Content-Length: {len(body)}")
        if header:
            lines.append(f"{self._header}: {header}")
        if slow:
            lines.append(f"X-Ledger-Slow: {slow}")
        if not kept:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""]).encode(), body


class Client:
    """One client of a ledger: a connection at a time, kept or not."""

    def __init__(self, ledger, name, kept):
        self._ledger, self._name, self._kept = ledger, name, kept
        self._made = 0
        self._number = 0
        self._addresses = ledger.addresses
        self._connection: Connection | None = None

    def close(self):
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def ask(self, batch):
        """Ask for a batch of (method, header, slow) at once, in order; an entry of each."""
        began = time.monotonic()
        error = self._ready()
        used = self._number > 0
        asked = [self._entry(began, *one) for one in batch]
        sent = not error
        if sent:
            try:
                self._connection.timeout(TIMEOUT + max(slow for _, _, slow in batch))
                self._connection.send(b"".join(data for _, data in asked))
            except OSError as failure:
                # What the other end has sent before it reset may be there, and is the response then.
                error = f"{type(failure).__name__}: {failure}"
        entries = []
        for entry, _ in asked:
            outcome, answered = Outcome.REFUSED, ""
            if sent:
                outcome, answered, error = self._response(entry.id, error)
            word = f"closed: {error}" if error and used and "Connection" in error else error
            took = time.monotonic() - began
            entries.append(replace(entry, seconds=took, answered=answered, error=word, outcome=outcome))
        if error or not self._kept or self._connection.last or self._number >= self._ledger.most:
            self.close()
        return entries

    def _ready(self):
        """See to it that there is a connection; what is wrong with it."""
        try:
            if self._connection is None:
                self._made, self._number = self._made + 1, 0
                self._connection = Connection(self._ledger.netns, next(self._addresses))
            elif self._connection.ended():
                return "ConnectionError: it had ended"
        except OSError as failure:
            return f"{type(failure).__name__}: {failure}"
        return ""

    def _entry(self, began, method, header, slow):
        """A request, not sent yet, and its bytes."""
        self._number += 1
        connection = f"{self._name}.{self._made}"
        name = f"{connection}.{self._number}"
        head, body = self._ledger.request(name, connection, self._number, self._kept, method, header, slow)
        entry = Entry(
            began, 0.0, header, "", self._kept, id=name, method=method, head=digest(head), body=digest(body),
            connection=connection, number=self._number,
        )  # fmt: skip
        return entry, head + body

    def _response(self, request_id, before):
        """Outcome, who answered, and what went wrong; ``before`` is what went wrong already."""
        if self._connection is None or self._connection.last:
            return Outcome.UNKNOWN, "", before or "the response before it was the last one"
        try:
            status, body = self._connection.response()
            if status != 200:
                return Outcome.FAILED, "", f"status {status}: {body[:100]!r}"
            return Outcome.OK, self._ledger.reads(body, request_id), ""
        except (OSError, ValueError) as failure:
            return Outcome.UNKNOWN, "", before or f"{type(failure).__name__}: {failure}"


class Connection:
    """A connection made inside a namespace; ``last`` when the other end has said that no more responses follow."""

    def __init__(self, netns, address):
        host, port = address
        self._socket = netns.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        self._buffer = bytearray()
        self.last = False
        self.timeout(TIMEOUT)
        try:
            self._socket.connect((host, port))
        except BaseException:
            self._socket.close()
            raise
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def timeout(self, seconds):
        self._socket.settimeout(seconds)

    def send(self, data):
        self._socket.sendall(data)

    def close(self):
        self._socket.close()

    def ended(self):
        """Whether the other end has ended it while nothing was asked."""
        self._socket.setblocking(False)
        try:
            return self._socket.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def response(self):
        """Status and body. Raises ``OSError`` when it does not come whole, ``ValueError`` when it is none."""
        while True:
            while (end := self._buffer.find(b"\r\n\r\n")) < 0:
                self._more("before the response" if not self._buffer else "in a head")
            head = bytes(self._buffer[:end]).lower()
            del self._buffer[: end + 4]
            status = int(head.split(b" ", 2)[1])
            if status >= 200:
                break
        self.last = bool(re.search(rb"\r\nconnection:[^\r]*close", head))
        if length := re.search(rb"\r\ncontent-length: *(\d+)", head):
            return status, self._take(int(length[1]))
        if b"\r\ntransfer-encoding: chunked" in head:
            return status, self._chunks()
        self.last = True
        with contextlib.suppress(ConnectionAbortedError):
            while True:
                self._more("at the end")
        return status, bytes(self._buffer)

    def _chunks(self):
        body = b""
        while True:
            while b"\r\n" not in self._buffer:
                self._more("in a body")
            line, _, _ = bytes(self._buffer).partition(b"\r\n")
            del self._buffer[: len(line) + 2]
            chunk = self._take(int(line.partition(b";")[0], 16) + 2)
            if len(chunk) == 2:
                return body
            body += chunk[:-2]

    def _take(self, size):
        while len(self._buffer) < size:
            self._more("in a body")
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _more(self, where):
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionAbortedError(f"closed {where}")
        self._buffer += data
