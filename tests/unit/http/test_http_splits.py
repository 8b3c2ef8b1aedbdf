"""However bytes are cut on the way, the same comes of them: for good conversations, and for bytes gone wrong."""

from __future__ import annotations

from dataclasses import dataclass

from http_wire import APP, CLOSE_CLIENT, DEV, HOST, NEXT, RESET, TO_APP, TO_DEV, Wire, chunked, post, request
from hypothesis import given, settings
from hypothesis import strategies as st

SETTINGS = settings(max_examples=300, deadline=None)
TOKEN = st.text("abcXYZ09-_.!~", min_size=1, max_size=8).map(str.encode)
VALUE = st.binary(max_size=12).map(lambda raw: bytes(byte for byte in raw if byte >= 0x20 and byte != 0x7F))
BODY = st.binary(max_size=40)


@st.composite
def chunks(draw):
    body = b""
    for data in draw(st.lists(st.binary(min_size=1, max_size=20), max_size=3)):
        size = draw(st.sampled_from([b"%x", b"%X", b"0000%x"])) % len(data)
        extension = draw(st.sampled_from([b"", b";a", b';a="b;c"', b" ; q=1"]))
        body += size + extension + b"\r\n" + data + b"\r\n"
    trailers = b"".join(
        b"x-%s: %s\r\n" % pair for pair in draw(st.lists(st.tuples(TOKEN, VALUE), max_size=2))
    )
    return body + draw(st.sampled_from([b"0", b"000", b"0;end"])) + b"\r\n" + trailers + b"\r\n"


@dataclass(frozen=True)
class Exchange:
    side: str | None
    asked: bytes
    told: bytes
    ends: bool


@st.composite
def exchanges(draw):
    side = draw(st.sampled_from([APP, DEV]))
    method = draw(st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS", b"x-odd"]))
    blank = b"\r\n" * draw(st.integers(0, 2))
    fields = b"".join(b"X-%s:%s\r\n" % pair for pair in draw(st.lists(st.tuples(TOKEN, VALUE), max_size=3)))
    framing, body = draw(
        st.one_of(
            st.just((b"", b"")),
            BODY.map(lambda body: (b"content-length: %d\r\n" % len(body), body)),
            chunks().map(lambda body: (b"Transfer-Encoding: chunked\r\n", body)),
            chunks().map(lambda body: (b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", body)),
        )
    )
    ends = draw(st.integers(0, 9)) == 0
    close = b"Connection: close\r\n" if ends else b""
    path = b"/dev" if side == DEV else b"/app"
    asked = blank + method + b" " + path + b" HTTP/1.1\r\n" + HOST + fields + framing + close + b"\r\n" + body
    interim = draw(
        st.sampled_from(
            [b"", b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"]
        )
    )
    status, framing, body = draw(
        st.one_of(
            st.just((b"204 No Content", b"", b"")),
            st.just((b"304 Not Modified", b"Content-Length: 7\r\n", b"")),
            BODY.map(lambda body: (b"200 OK", b"Content-Length:%d\r\n" % len(body), body)),
            chunks().map(lambda body: (b"200 OK", b"transfer-encoding:Chunked\r\n", body)),
        )
    )
    told = (
        interim + b"HTTP/1.1 " + status + b"\r\n" + framing + b"\r\n" + (b"" if method == b"HEAD" else body)
    )
    return Exchange(side, asked, told, ends)


def cutter(draw_cuts):
    """A function that cuts bytes at drawn places, the same for the same bytes."""

    def cut(data):
        places = sorted({place % (len(data) + 1) for place in draw_cuts})
        return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True) if a < b]

    return cut


CUTS = st.lists(st.integers(0, 5000), max_size=12).map(cutter)


def by_path(head):
    return TO_DEV if head.path == b"/dev" else TO_APP


@SETTINGS
@given(st.lists(exchanges(), min_size=1, max_size=6), CUTS, CUTS)
def test_good_conversations_arrive_whole_and_in_order(conversation, cut_asked, cut_told):
    scripts = {
        side: [(one.asked, one.told) for one in conversation if one.side == side] for side in (APP, DEV)
    }
    wire = Wire(by_path, scripts, cut=cut_told).write(*cut_asked(b"".join(one.asked for one in conversation)))
    last = next((at for at, one in enumerate(conversation) if one.ends), len(conversation) - 1)
    served = conversation[: last + 1]
    for side in (APP, DEV):
        assert wire.received[side] == b"".join(one.asked for one in served if one.side == side)
    assert wire.client == b"".join(one.told for one in served)
    assert wire.log == ([(CLOSE_CLIENT,)] if served[-1].ends else [])
    assert wire.letters == ["F"] * len(served)


ALPHABET = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\x00",
    b" ",
    b"\t",
    b":",
    b";",
    b"0",
    b"5",
    b"\x0b",
    b"\xff",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b" x",
    b"Connection: close\r\n",
    b"HTTP/1.0",
    b"Expect: 100-continue\r\n",
    b"Upgrade: x\r\n",
]
SEEDS = [
    NEXT,
    post(b"Content-Length: 5", body=b"hello"),
    chunked(b"5\r\nhello\r\n0\r\nX: y\r\n\r\n"),
    b"\r\n" + NEXT,
    request(b"GET http://b.test/x HTTP/1.1", b"X: a\r\n b"),
    request(b"CONNECT a.test:1 HTTP/1.1"),
]


@st.composite
def gone_wrong(draw):
    data = b"".join(draw(st.lists(st.sampled_from(SEEDS), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(0, 4))):
        at, length = draw(st.integers(0, len(data))), draw(st.sampled_from([0, 0, 1, 2, 5]))
        data = data[:at] + draw(st.sampled_from(ALPHABET) | st.binary(max_size=3)) + data[at + length :]
    return data


@settings(max_examples=1500, deadline=None)
@given(
    gone_wrong(), CUTS, st.sampled_from([lambda _head: TO_APP, lambda _head: TO_DEV, by_path]), st.booleans()
)
def test_bytes_gone_wrong_get_the_same_however_cut(data, cut, route, ends):
    if not data:
        return
    outcomes = []
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))], cut(data)):
        wire = Wire(route).write(*pieces)
        if ends and wire.conversation.reading_client:
            wire.do(wire.conversation.client_eof())
        outcomes.append(wire.outcome())
        assert len(wire.app) + len(wire.dev) <= len(data)
        assert data.startswith(wire.app) or wire.dev
    assert outcomes[0] == outcomes[1] == outcomes[2]


@settings(max_examples=500, deadline=None)
@given(gone_wrong(), CUTS)
def test_what_a_session_answers_never_makes_more_than_the_answers_that_are_owed(data, cut):
    """Whatever a session says, the client sees a beginning of it, or that and our own 502."""
    outcomes = []
    told = data.replace(b"GET /next HTTP/1.1", b"HTTP/1.1 200 OK").replace(
        b"POST /x HTTP/1.1", b"HTTP/1.1 200 OK"
    )
    for pieces in ([told], cut(told)):
        wire = Wire(lambda _head: TO_DEV).write(NEXT).say(DEV, *pieces)
        seen = bytes(wire.client)
        assert told.startswith(seen) or seen.partition(b"HTTP/1.1 502 Bad Gateway\r\n")[1]
        outcomes.append((seen, wire.log))
    assert outcomes[0] == outcomes[1]


class Disturbed(Wire):
    """Before each piece of a session's response, the next of ``goes`` happens to the app."""

    goes = iter(())

    def tell(self, side, piece):
        if side == DEV and (go := next(self.goes, None)):
            self.do(go(self.conversation))
        super().tell(side, piece)


APP_GOES = [
    lambda conversation: conversation.upstream_eof(APP),
    lambda conversation: conversation.upstream_data(APP, b"HTTP/1.1 408 Request Timeout\r\n\r\n"),
    lambda conversation: conversation.upstream_failed(APP, "reset", delivered=True),
]


@SETTINGS
@given(st.lists(exchanges(), min_size=1, max_size=5), CUTS, st.lists(st.sampled_from([None, *APP_GOES])))
def test_an_app_that_owes_nothing_may_go_at_any_time_while_a_session_owes(conversation, cut_told, goes):
    """What an app does that has nothing to do changes nothing for the client, and it is dialled again when needed."""
    scripts = {
        side: [(one.asked, one.told) for one in conversation if one.side == side] for side in (APP, DEV)
    }
    seen = []
    for disturbance in ([], goes):
        wire = Disturbed(by_path, scripts, cut=cut_told)
        wire.goes = iter(disturbance)
        wire.write(*(one.asked for one in conversation))
        ends = [command for command in wire.log if command != (RESET, APP)]
        seen.append((wire.app, wire.dev, bytes(wire.client), wire.letters, ends))
    assert seen[0] == seen[1]
