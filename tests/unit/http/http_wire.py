"""A client, an app and sessions around one Conversation, all in memory, and the ways to cut what they say."""

from __future__ import annotations

from collections import deque

from tpnet.http.conversation import (
    APP,
    CLOSE_CLIENT,
    PIN,
    RESET,
    RESET_CLIENT,
    SEND,
    SEND_CLIENT,
    SHUT,
    SHUT_CLIENT,
)
from tpnet.http.h1.conversation import Conversation
from tpnet.http.verdict import TO_APP, Outcome, Verdict

HOST = b"Host: a.test\r\n"
NEXT = b"GET /next HTTP/1.1\r\n" + HOST + b"\r\n"
DEV = "dev"
TO_DEV = Verdict(Outcome.FORWARD, DEV, intercept="one")


def request(line: bytes, *fields: bytes, body: bytes = b"", host: bytes = HOST) -> bytes:
    return line + b"\r\n" + host + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


def post(*fields: bytes, body: bytes = b"") -> bytes:
    return request(b"POST /x HTTP/1.1", *fields, body=body)


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


def answer(text: bytes, *fields: bytes, status: bytes = b"200 OK") -> bytes:
    lines = b"".join(field + b"\r\n" for field in fields)
    return b"HTTP/1.1 " + status + b"\r\n" + lines + b"Content-Length: %d\r\n\r\n" % len(text) + text


class Record:
    """What an observer is told: (letter or fate, verdict, reason)."""

    def __init__(self):
        self.events = []
        self.guarding = True

    def on_verdict(self, verdict):
        self.events.append((verdict.outcome.value, verdict, verdict.reason))

    def on_fallback(self, verdict, reason):
        self.events.append(("fallback", verdict, reason))

    def on_failed(self, verdict, reason):
        self.events.append(("failed", verdict, reason))


class Wire:
    """Carries commands out. ``scripts``: per side, what it will have received and then answers, in order."""

    kind = Conversation

    def __init__(self, decide=lambda _head: TO_APP, scripts=None, cut=lambda data: [data]):
        self.record = Record()
        self.events = self.record.events
        self.conversation = self.kind(decide, self.record)
        self.scripts = {side: deque(script) for side, script in (scripts or {}).items()}
        self.cut = cut
        self.received = {APP: bytearray(), DEV: bytearray()}
        self.client = bytearray()
        self.log = []
        self._owed = dict.fromkeys(self.scripts, 0)
        self._unread = deque()
        self._answers = deque()

    def write(self, *pieces):
        self._unread.extend(pieces)
        self._pump()
        return self

    def say(self, side, *pieces):
        for piece in pieces:
            self.do(self.conversation.upstream_data(side, piece))
        self._pump()
        return self

    def tell(self, side, piece):
        """A piece of a scripted response arrives."""
        self.do(self.conversation.upstream_data(side, piece))

    def _pump(self):
        while True:
            if self._answers:
                side, piece = self._answers.popleft()
                if not self.conversation.over:
                    self.tell(side, piece)
            elif self._unread and self.conversation.reading_client:
                self.do(self.conversation.client_data(self._unread.popleft()))
            else:
                return

    def do(self, commands):
        for command in commands:
            assert not self.over, f"{command} after the end"
            what = command[0]
            if what == SEND:
                side, data = command[1:]
                assert type(data) is bytes
                assert data
                self.received.setdefault(side, bytearray()).extend(data)
                self._react(side)
            elif what == SEND_CLIENT:
                assert type(command[1]) is bytes
                assert command[1]
                self.client += command[1]
            else:
                self.log.append(command)
        return self

    def _react(self, side):
        script = self.scripts.get(side)
        while script and len(self.received[side]) >= self._owed[side] + len(script[0][0]):
            asked, told = script.popleft()
            self._owed[side] += len(asked)
            self._answers.extend((side, piece) for piece in self.cut(told) if piece)

    @property
    def over(self):
        return bool(self.log) and self.log[-1][0] in {CLOSE_CLIENT, RESET_CLIENT}

    @property
    def app(self):
        return bytes(self.received[APP])

    @property
    def dev(self):
        return bytes(self.received[DEV])

    @property
    def letters(self):
        return [letter for letter, _, _ in self.events]

    def outcome(self):
        """Everything that can be seen from outside."""
        ends = [command for command in self.log if command[0] != SHUT_CLIENT]
        return self.app, self.dev, bytes(self.client), ends, self.letters, self.conversation.pinned


def byte_by_byte(data):
    return [data[at : at + 1] for at in range(len(data))]


def all_cuts(data, *, longest=1200):
    """One write; single bytes; in two at every offset (of a long one: of its first and last bytes)."""
    yield "whole", [data]
    yield "bytes", byte_by_byte(data)
    offsets = range(1, len(data))
    if len(data) > longest:
        offsets = sorted({*range(1, min(200, len(data)), 7), *range(max(1, len(data) - 200), len(data), 7)})
    for at in offsets:
        yield f"cut at {at}", [data[:at], data[at:]]


__all__ = [
    "APP",
    "CLOSE_CLIENT",
    "DEV",
    "HOST",
    "NEXT",
    "PIN",
    "RESET",
    "RESET_CLIENT",
    "SEND",
    "SEND_CLIENT",
    "SHUT",
    "SHUT_CLIENT",
    "TO_APP",
    "TO_DEV",
    "Conversation",
    "Outcome",
    "Record",
    "Verdict",
    "Wire",
    "all_cuts",
    "answer",
    "byte_by_byte",
    "chunked",
    "post",
    "request",
]


GET_APP = request(b"GET /app HTTP/1.1")
GET_DEV = request(b"GET /dev HTTP/1.1")
HELLO = b"5\r\nhello\r\n0\r\n\r\n"
EOF_ANSWER = b"HTTP/1.1 200 OK\r\n\r\n"
WEBSOCKET = request(b"GET /dev HTTP/1.1", b"Connection: keep-alive, Upgrade", b"Upgrade: websocket")
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n"


def by_path(head):
    """The developer's are those of /dev."""
    return TO_DEV if head.path.startswith(b"/dev") else TO_APP


def always(_head):
    """All are the developer's."""
    return TO_DEV


def to(side):
    """Routing that sends everything to a side."""
    return always if side == DEV else lambda _head: TO_APP


def failed(wire, *, delivered):
    wire.do(wire.conversation.upstream_failed(DEV, "lost", delivered=delivered))
    wire._pump()
    return wire


def assert_502(wire, before=b""):
    assert wire.client.startswith(before + b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"\r\nConnection: close\r\n" in wire.client[len(before) :]
    assert wire.log[-1] == (CLOSE_CLIENT,)
    assert wire.letters[-1] == "failed"
