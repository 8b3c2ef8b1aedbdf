"""Clients' and handlers' bytes."""

from __future__ import annotations

from http_wire import APP, DEV, NEXT, RESET, SEND, TO_APP, TO_DEV, Wire, by_path, chunked, post, request
from odd import Choices
from registry import target

from tpnet.http.h1.head import Bad, PartialHead, RequestHead, read_request
from tpnet.http.h1.response import read_response

WORDS = [
    b"\r\n", b"\n", b"\r\n\r\n", b"HTTP/1.1", b"HTTP/1.0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity", b"Connection: close\r\n", b"Connection: upgrade\r\n",
    b"Upgrade: websocket\r\n", b"Upgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"0\r\n\r\n", b"5\r\nhello\r\n", b';a="b"',
    b"CONNECT a:1 ", b"HEAD /dev ", b"GET http://b/ ", b"HTTP/1.1 101 ", b"HTTP/1.1 100 \r\n\r\n", b"HTTP/1.1 204 ", b"304",
    b"ffffffffffffffff", b"Host: a\r\n", b"\t", b" ", b":", b"\x00", b"\x80", b"\x0b",
]  # fmt: skip
GOOD = [
    NEXT, post(b"Content-Length: 5", body=b"hello"), chunked(b"5\r\nhello\r\n0\r\nX: y\r\n\r\n"), b"\r\n" + NEXT,
    request(b"GET /dev HTTP/1.1"), request(b"CONNECT a.test:1 HTTP/1.1"), request(b"GET http://b.test/x HTTP/1.1", b"X: a\r\n b"),
    request(b"GET /dev HTTP/1.1", b"Connection: upgrade", b"Upgrade: websocket"), NEXT + request(b"GET /dev HTTP/1.1") + NEXT,
]  # fmt: skip
ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", b"HTTP/1.0 304 \r\n\r\n",
]  # fmt: skip


@target(seeds=GOOD, words=WORDS)
def head(data: bytes) -> None:
    """A request's head: what it is does not depend on what follows it."""
    found = read_request(data)
    assert isinstance(found, (RequestHead, Bad, PartialHead))
    if isinstance(found, RequestHead):
        again = read_request(data + b"GET / HTTP/1.1\r\n")
        assert isinstance(again, RequestHead)
        assert again.path == found.path


@target(seeds=ANSWERS, words=WORDS)
def response(data: bytes) -> None:
    """A response's head, to a request of each kind."""
    for kind in range(3):
        assert isinstance(read_response(data, 0, kind), (tuple, PartialHead))


def routes(choices: Choices):
    return choices.pick([lambda _head: TO_APP, lambda _head: TO_DEV, by_path])


def pieces(data: bytes, choices: Choices) -> list[bytes]:
    cuts = sorted(choices.below(len(data) + 1) for _ in range(choices.below(6)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


@target(seeds=[bytes([2, 1, 0, 3, 9]) + one for one in GOOD], words=WORDS)
def requests_cut(data: bytes) -> None:
    """A client's bytes, however they are cut, get the same; no side gets what was not sent."""
    choices = Choices(data)
    route, ends, salt = routes(choices), choices.below(2), choices.bytes()[:16]
    said = choices.rest()
    if not said:
        return
    outcomes = []
    for cut in ([said], [said[at : at + 1] for at in range(len(said))], pieces(said, Choices(salt))):
        wire = Wire(route).write(*cut)
        if ends and wire.conversation.reading_client:
            wire.do(wire.conversation.client_eof())
        outcomes.append(wire.outcome())
        assert len(wire.app) + len(wire.dev) <= len(said)
        assert said.startswith(wire.app) or wire.dev
    assert outcomes[0] == outcomes[1] == outcomes[2]


@target(seeds=[bytes([2, 1, 3]) + one for one in ANSWERS], words=WORDS)
def answers_cut(data: bytes) -> None:
    """What a session answers, however it is cut: the client sees a beginning of it, or that and our own 502."""
    choices = Choices(data)
    salt, told = choices.bytes()[:16], choices.rest()
    if not told:
        return
    outcomes = []
    for cut in ([told], [told[at : at + 1] for at in range(len(told))], pieces(told, Choices(salt))):
        wire = Wire(lambda _head: TO_DEV).write(NEXT).say(DEV, *cut)
        seen = bytes(wire.client)
        assert told.startswith(seen) or seen.partition(b"HTTP/1.1 502 Bad Gateway\r\n")[1]
        outcomes.append((seen, wire.log))
    assert outcomes[0] == outcomes[1] == outcomes[2]


class Open(Wire):
    """Knows which sides were sent something, and are not broken off."""

    def __init__(self, decide) -> None:
        super().__init__(decide)
        self.open: set = set()

    def do(self, commands):
        for command in commands:
            if command[0] == SEND:
                self.open.add(command[1])
            elif command[0] == RESET:
                self.open.discard(command[1])
        return super().do(commands)


@target(
    seeds=[
        bytes([2, 0, len(one)]) + one + bytes([1, 1, len(ANSWERS[0])]) + ANSWERS[0] + bytes([5, 7])
        for one in GOOD
    ],
    words=WORDS,
)
def conversation(data: bytes) -> None:
    """Client, app and session say and do anything in any order: nothing raises, nothing follows the end."""
    choices = Choices(data)
    wire = Open(routes(choices))
    talk = wire.conversation
    ended: set = set()
    while choices.more and not wire.over:
        side = choices.pick([APP, DEV])
        is_open = side in wire.open and side not in ended
        match choices.below(10):
            case 0 | 1 if talk.reading_client and "client" not in ended and (piece := choices.bytes()):
                wire.do(talk.client_data(piece))
            case 2 if talk.reading_client and "client" not in ended:
                ended.add("client")
                wire.do(talk.client_eof())
            case 3 | 4 if is_open and (piece := choices.bytes()):
                wire.do(talk.upstream_data(side, piece))
            case 5 if is_open:
                ended.add(side)
                wire.do(talk.upstream_eof(side))
            case 6 if is_open:
                wire.open.discard(side)
                wire.do(
                    talk.upstream_failed(
                        side, "x", delivered=bool(choices.byte() % 2), again=bool(choices.byte() % 2)
                    )
                )
            case 7 if side == DEV and is_open:
                wire.do(talk.upstream_confirmed(side))
            case 8 if talk.undecided or talk.holding:
                wire.do(talk.undecided_timeout() if talk.undecided else talk.release_held())
            case 9:
                talk.finish(mark=bool(choices.byte() % 2))
