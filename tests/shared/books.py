"""What app and handlers saw of a ledger's requests, and the judge who compares both.

A request that was answered was carried out once, by the right side, byte for byte as it was sent; one that was not
sent is known to nobody; one whose outcome is unknown was carried out at most once, unless it may be asked again
(RFC 9110 section 9.2.2). The judge must never find nothing wrong where nothing was asked.
"""

from __future__ import annotations

import re
import threading
import time
from collections import defaultdict
from typing import NamedTuple

from ledger import Outcome, digest, noise

REPLY = 2000
"""Bytes of noise in a response."""


class Record(NamedTuple):
    """A request that a side has read whole."""

    id: str
    side: str
    head: str
    body: str
    connection: str
    number: int


class Books:
    """``server(side)`` is what such a server does with a connection; ``records`` is what all have seen, in order."""

    def __init__(self):
        self.records: list[Record] = []
        self._lock = threading.Lock()

    def server(self, side):
        def serve(sock):
            buffer = bytearray()
            while True:
                while (end := buffer.find(b"\r\n\r\n")) < 0:
                    if not (data := sock.recv(65536)):
                        sock.close()
                        return
                    buffer += data
                head = bytes(buffer[: end + 4])
                fields = {
                    name.lower(): value for name, value in re.findall(rb"\r\n([^:\r]+): *([^\r]*)", head)
                }
                size = end + 4 + int(fields.get(b"content-length", 0))
                while len(buffer) < size:
                    if not (data := sock.recv(65536)):
                        sock.close()
                        return
                    buffer += data
                body = bytes(buffer[end + 4 : size])
                del buffer[:size]
                self._answer(sock, side, head, body, fields)
                if fields.get(b"connection", b"").lower() == b"close":
                    sock.close()
                    return

        return serve

    def _answer(self, sock, side, head, body, fields):
        if (
            b"x-ledger" not in fields
        ):  # a test's own: answered with the side's name, and no matter of the ledger's
            sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(side), side.encode()))
            return
        request_id = fields[b"x-ledger"].decode()
        connection, _, number = fields[b"x-ledger-connection"].decode().partition(" ")
        record = Record(request_id, side, digest(head), digest(body), connection, int(number))
        with self._lock:
            self.records.append(record)
        reply = f"{side} {request_id} {record.head} {record.body}\n".encode() + noise(
            f"{side} {request_id}", REPLY
        )
        last = b"connection: close\r\n" if fields.get(b"connection", b"").lower() == b"close" else b""
        response = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n%s\r\n%s" % (len(reply), last, reply)
        if slow := float(fields.get(b"x-ledger-slow", 0)):
            half = len(response) // 2
            sock.sendall(response[:half])
            time.sleep(slow)
            response = response[half:]
        sock.sendall(response)


def reads(body, request_id):
    """Who answered. Raises ``ValueError`` when the body is not whole, or another request's."""
    line, _, rest = body.partition(b"\n")
    side, answers, *_ = line.decode().split(" ")
    if answers != request_id:
        raise ValueError(f"it is the response to {answers}")
    if rest != noise(f"{side} {request_id}", REPLY):
        raise ValueError("the response's bytes differ")
    return side


def judge(ledger, books, *, replays=False):
    """Everything that is wrong, a line each.

    A developer's request may always be the app's (that is what happens while he is away). With ``replays``, one whose
    method is idempotent may be seen by both, since it is asked again at the app when the way to the developer dies.
    """
    wrong: list[str] = []
    seen: dict[str, list[Record]] = defaultdict(list)
    for record in books.records:
        seen[record.id].append(record)
    asked = {entry.id for entry in ledger.entries}
    wrong += [f"nobody has asked {name}" for name in seen.keys() - asked]
    for entry in ledger.entries:
        records = seen[entry.id]
        sides = [record.side for record in records]
        stray = set(sides) - {"app", entry.header}
        if stray:
            wrong.append(f"{entry}: {stray} saw it")
        if any((record.head, record.body) != (entry.head, entry.body) for record in records):
            wrong.append(f"{entry}: its bytes differ at {sides}")
        both = replays and entry.method == "GET" and entry.header
        most = 0 if entry.outcome is Outcome.REFUSED else 2 if both else 1
        if len(records) > most or len(set(sides)) != len(sides):
            wrong.append(f"{entry}: it was carried out by {sides}")
        if entry.outcome is Outcome.OK and entry.answered not in sides:
            wrong.append(f"{entry}: {entry.answered} did not carry it out")
        if entry.outcome is Outcome.OK and entry.answered not in {"app", entry.header}:
            wrong.append(f"{entry}: it is not {entry.answered}'s")
    last: dict[tuple[str, str], int] = {}
    for record in books.records:
        place = record.side, record.connection
        if record.number <= last.get(place, 0):
            wrong.append(f"{record.id} came to {record.side} after a later one of its connection")
        last[place] = record.number
    if not any(entry.outcome is Outcome.OK for entry in ledger.entries):
        wrong.append("nothing was answered")
    return wrong
