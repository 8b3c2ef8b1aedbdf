"""Sockets, datagrams, files and flags of one machine."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import struct
import tempfile
from dataclasses import asdict
from ipaddress import IPv6Address
from pathlib import Path

from odd import Choices, gone_wrong
from registry import target

from tpnet.agent.relay import plain
from tpnet.agent.state import StateFile
from tpnet.control.local.protocol import decode_answer
from tpnet.control.local.server import ControlServer
from tpnet.datapath import cache
from tpnet.datapath.pods import POD_UID, pod_uids
from tpnet.datapath.target import container_ids
from tpnet.http.h1.head import RequestHead, read_request
from tpnet.kernel.uids import parse_range
from tpnet.model import Intercept, InvalidInput, Session, TpnetError
from tpnet.model.codec import encode
from tpnet.model.handler import parse_handler
from tpnet.proxy import channel, testimony
from tpnet.rules import RuleSet, parse_rules
from tpnet.text import clean, printable
from tpnet.tunnel import liveness
from tpnet.tunnel.wireguard_go import parse_peers, read_answer

DEEP = b"[" * 55_000
MESSAGES = [
    channel.Ready(1), channel.NeedSockets(channel.Purpose.APP4, 3, 1), channel.AppRefused(1), channel.Full(True), channel.NotTaken(1),
    channel.Drained(1, 2), channel.Counters({"1": {"open": 1, "verdicts": {"F": 1}}}, {"a": {"hits": 1, "last_hit": 1.0, "reasons": {"x": 1}}}, {"s": 1}),
]  # fmt: skip


def wire_form(message) -> bytes:
    ours, theirs = channel.pair()
    with ours, theirs:
        channel.send(ours, message)
        return theirs.recv(1 << 20)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@target(
    seeds=[bytes([0]) + wire_form(one) for one in MESSAGES]
    + [b"\x00J" + DEEP, b"\x01M", b"\x02M{}", b"\x04J{}", b"\x09M" + b"x" * 40],
    longest=60_000,
)
def worker_channel(data: bytes) -> None:
    """A worker that was taken over: what it says is of its form, or a lie; no descriptor stays."""
    before = descriptors()
    how, payload = data[:1] or b"\0", data[1:]
    ours, theirs = channel.pair()
    with ours, theirs:
        fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(how[0] % 4)]
        if how[0] & 8:
            fds.insert(0, os.memfd_create("x"))
            os.write(fds[0], payload[1:])
        try:
            socket.send_fds(ours, [payload or b"J"], fds)
        finally:
            for fd in fds:
                os.close(fd)
        try:
            found = testimony.receive(theirs)
        except testimony.LieError:
            found = None
        assert found is None or json.dumps(asdict(found))
    assert descriptors() == before


ASK = struct.pack("!2sHIH6x", b"tH", 7, 1, 1420)


@target(
    seeds=[ASK, b"tE" + ASK[2:], b"tG" + bytes(14), ASK.ljust(1372, b"\0"), ASK + bytes(3000)],
    words=[b"tH", b"tE", b"tG"],
    longest=4096,
)
def heartbeats(data: bytes) -> None:
    """Datagrams from laptop and agent: never answered with more than came, nobody is up who has not spoken."""
    known, unknown = IPv6Address("fd00::1"), IPv6Address("fd00::2")
    here = liveness.Liveness()
    here.expect(known)
    assert here.datagram(data, unknown, 1.0) == (None, False)
    echo, came_up = here.datagram(data, known, 1.0)
    assert echo is None or len(echo) <= len(data)
    assert came_up == here.get(known).up == (echo is not None)
    presence = here.get(known)
    assert presence.path == 0 or liveness.SMALLEST <= presence.path <= liveness.FULL
    assert 0 <= presence.rtt_ms <= 6553.5
    pulse = liveness.Pulse()
    assert not pulse.datagram(data, 1.0) or pulse.up
    assert not pulse.up, "nothing was asked"
    asked = pulse.ask(2.0)
    pulse.datagram(data, 2.1)
    assert not pulse.up or data[4:8] == asked[4:8]
    pulse.check(9.0)
    pulse.probes(9.0)
    assert not pulse.up


class Nothing:
    """A backend that does nothing: what is asked of it has the types that it says."""

    async def info(self):
        raise TpnetError("nothing")

    status = info

    async def resolve(self, target: str):
        assert isinstance(target, str)
        return []

    async def register_session(self, session):
        return session

    async def renew_session(self, name, handlers):
        assert all(isinstance(key, str) and isinstance(value, bool) for key, value in handlers.items())

    async def end_session(self, name):
        assert isinstance(name, str)

    async def create_intercept(self, intercept):
        RuleSet([intercept])
        raise TpnetError("nothing")

    async def delete_intercept(self, name, user, force):
        assert isinstance(force, bool)

    async def explain(self, target, port, method, path, headers):
        raise TpnetError("nothing")


INTERCEPT = encode(
    Intercept(
        name="a",
        user="bob",
        session="bob-1",
        target="netns/x",
        targets=("netns/x",),
        port=80,
        headers=(),
        path=None,
        tunnel_port=2,
        created=1.0,
    )
)
SESSION = encode(Session(name="bob-1", user="bob", public_key="QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="))
CALLS = [
    {"call": "info", "args": {}}, {"call": "resolve", "args": {"target": "x"}}, {"call": "register_session", "args": {"session": SESSION}},
    {"call": "renew_session", "args": {"name": "a", "handlers": {"b": True}}}, {"call": "create_intercept", "args": {"intercept": INTERCEPT}},
    {"call": "delete_intercept", "args": {"name": "a", "user": "b", "force": True}},
    {"call": "explain", "args": {"target": "x", "port": 80, "method": "GET", "path": "/", "headers": [["a", "b"]]}},
]  # fmt: skip
logging.disable()


def answered(line: bytes) -> None:
    server = ControlServer(Path("/nowhere"), Nothing())
    answer = asyncio.run(server._answer(line))
    assert b"The agent failed at" not in answer
    assert answer.endswith(b"\n")
    assert answer.count(b"\n") == 1
    assert set(json.loads(answer)) in ({"ok"}, {"error"})


@target(
    seeds=[b"\0", b"\1", b"{}", DEEP, b'{"call": "info", "args": ' + DEEP]
    + [json.dumps(one).encode() for one in CALLS],
    longest=60_000,
)
def control_lines(data: bytes) -> None:
    """Lines on the agent's control socket: an answer each, and it is never a fault of ours."""
    answered(data.replace(b"\n", b""))


@target(seeds=[bytes([at]) + bytes(range(at * 9, at * 9 + 20)) for at in range(len(CALLS))])
def control_calls(data: bytes) -> None:
    """Calls with arguments gone wrong."""
    choices = Choices(data)
    call = gone_wrong(choices.pick(CALLS), choices)
    answered(json.dumps(call).encode())


@target(
    seeds=[
        b"{}",
        b'{"ok": 1}',
        b'{"error": {"kind": "invalid", "message": "x"}}',
        b'{"error": 1}',
        DEEP,
        b"\xff",
    ],
    longest=60_000,
)
def control_answers(data: bytes) -> None:
    """What an agent, or whoever took its place, answers a command."""
    try:
        decode_answer(data)
    except TpnetError as error:
        json.dumps(error.to_json())


STATE = {
    "version": 1,
    "namespaces": {"4026531840": {"label": "x", "changes": {"net.ipv4.tcp_fwmark_accept": "0"}}},
}


@target(
    seeds=[
        json.dumps(STATE).encode(),
        b"",
        b"[]",
        DEEP,
        b"\xff\xfe",
        b'{"version": 1, "namespaces": []}',
        b"1e999",
    ],
    longest=60_000,
)
def state_file(data: bytes) -> None:
    """The agent's record of what it changed: read, or taken for empty; and it can be written to again."""
    with tempfile.TemporaryDirectory() as folder:
        state = StateFile(Path(folder))
        Path(folder, "state.json").write_bytes(data)
        for inode, changes in state.load().items():
            assert isinstance(inode, str)
            assert isinstance(changes, dict)
        with state.held():
            state.note(7, "label", {"a": "b"})
            assert state.load()["7"] == {"a": "b"}
            state.keep_only([7])
            assert set(state.load()) == {"7"}


@target(seeds=[b"{}", b"[]", DEEP, b"\xff", b'{"code": "00", "maps": [], "relocations": []}'], longest=60_000)
def kept_program(data: bytes) -> None:
    """What an earlier start compiled: taken as it was put there, or not at all."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "programs")
        place.mkdir(mode=0o700)
        (place / "k").write_bytes(data)
        assert cache.look_up(place, "k") is None
        (place / "k").write_bytes(cache._checksum("k", data).encode() + b"\n" + data)
        found = cache.look_up(place, "k")
        assert found is None or isinstance(found, dict)


@target(
    seeds=[
        b"errno=0\n\n",
        b"private_key=aa\nlisten_port=1\npublic_key="
        + b"ab" * 32
        + b"\nendpoint=[fd00::1]:2\nrx_bytes=1\nallowed_ip=fd00::1/128\nerrno=0\n\n",
    ],
    words=[
        b"public_key=",
        b"endpoint=",
        b"allowed_ip=",
        b"last_handshake_time_sec=",
        b"last_handshake_time_nsec=",
        b"tx_bytes=",
        b"errno=",
        b"\n",
    ],
)
def wireguard_answers(data: bytes) -> None:
    """What wireguard-go answers, which reads the network's bytes: understood, or an error that ends no supervisor."""
    try:
        pairs = read_answer(data)
    except OSError:
        return
    try:
        parse_peers(pairs)
    except ValueError:
        return


@target(
    seeds=[b"\x00\x06X=~a.*", b"\x01\x03a=b\x04/api", b"\x02auto", b"\x03\x01x\x05/a[b"],
    words=[b"=~", b"=", b": ", b"auto", b"all", b".*", b"(?i)", b"\\p{L}", b"{1000}", b"/"],
)
def rules(data: bytes) -> None:
    """Flags for rules: taken or refused; what is taken decides every request."""
    choices = Choices(data)
    paths = [[], [], []]
    headers = [choices.text() for _ in range(choices.below(3))]
    if choices.below(2):
        choices.pick(paths).append(choices.text())
    try:
        found = parse_rules(headers, *paths, "0" * 32)
    except InvalidInput as error:
        json.dumps(error.to_json()).encode()
        return
    whole = Intercept(
        name="a",
        user="bob",
        session="s",
        target="t",
        targets=("t",),
        port=80,
        headers=found.headers,
        path=found.path,
        tunnel_port=2,
        created=1.0,
    )
    head = read_request(b"GET /%s HTTP/1.1\r\nHost: a\r\nX: %s\r\n\r\n" % (choices.bytes(), choices.bytes()))
    if isinstance(head, RequestHead):
        here = RuleSet([whole])
        decided = here.decide(head)
        assert any(step.chosen for step in here.explain(head)) == (decided is not None)


@target(
    seeds=[b"localhost:3000", b"[::1]:80", b"3000", b":80", b"a" * 300 + b":1", b"7-9", b"\xff:1"],
    words=[b"::", b"]", b"[", b"%eth0", b":", b"-"],
)
def flags(data: bytes) -> None:
    """HOST:PORT and other words of the command line."""
    text = data.decode("utf-8", "surrogateescape")
    for read in (parse_handler, parse_range):
        try:
            found = read(text)
        except TpnetError as error:
            json.dumps(error.to_json()).encode()
        except ValueError as error:
            assert read is parse_range
            assert str(error).endswith(".")
        else:
            if read is parse_handler:
                assert 0 < found.port < 65536
                assert parse_handler(str(found)) == found


@target(
    seeds=[
        b"0::/kubepods/burstable/pod12345678-1234-1234-1234-123456789012/abc",
        b"0::/kubepods.slice/kubepods-pod" + b"a" * 32 + b".slice/cri-containerd-" + b"b" * 64 + b".scope",
    ],
    words=[b"pod", b"kubepods", b".slice", b".scope", b"docker-", b"/", b":", b"_", b"\n"],
)
def cgroups(data: bytes) -> None:
    """The names of cgroups: what is found there is a uid or an id, and nothing else."""
    text = data.decode(errors="replace")
    assert all(POD_UID.fullmatch(uid) for uid in pod_uids(text))
    assert all(len(one) == 64 and set(one) <= set("0123456789abcdef") for one in container_ids(text))


@target(
    seeds=[b"a\x1b[2J", "\u202e\u2028".encode(), b"\xff\n\r", b"\xed\xa0\x80"],
    words=[b"\x1b", b"\xc2\x9b", b"\n"],
)
def texts(data: bytes) -> None:
    """Words of others on their way to a terminal or a log."""
    for text in (
        data.decode(errors="replace"),
        data.decode("utf-8", "surrogateescape"),
        data.decode("latin-1"),
    ):
        found = clean(text)
        assert clean(found) == found
        assert not any(ord(one) < 32 and one != "\t" for one in found)
        found.encode()
        assert printable(text).isprintable()
    assert plain(data).isprintable()
