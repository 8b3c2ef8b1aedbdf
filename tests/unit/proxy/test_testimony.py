"""What a worker may say: everything of an honest one, and of a liar nothing that hurts who listens.

``TPNET_FUZZ_MESSAGES=1000000 pytest tests/unit/proxy/test_testimony.py`` tries so many.
"""

import array
import copy
import json
import math
import os
import random
import socket
from dataclasses import asdict
from pathlib import Path

import pytest

from tpnet.agent.cluster.facts import time_text
from tpnet.agent.status import Ledger
from tpnet.model import Intercept
from tpnet.proxy import channel, testimony
from tpnet.proxy.channel import AppRefused, Counters, Drained, Full, NeedSockets, NotTaken, Purpose, Ready
from tpnet.proxy.counters import AT_ONCE, InterceptCount, TargetCount
from tpnet.proxy.testimony import LieError

MESSAGES = int(os.environ.get("TPNET_FUZZ_MESSAGES", "10000"))


def counters(size=2):
    count, hits = TargetCount(), InterceptCount()
    count.verdicts["A"] += 3
    count.reasons["descriptors ran out"] += 1
    count.unmatched = 7
    hits.hit()
    hits.reasons["the session is not there"] += 1
    return Counters(
        {str(number): count.as_data() for number in range(1, size + 1)},
        {f"shop/orders-{'x' * 200}-{number}#{number}": hits.as_data() for number in range(size)},
        {f"session-{number}": number for number in range(size)},
        more=True,
    )


HONEST = [
    Ready(1),
    NeedSockets(Purpose.APP6, 512, 3),
    NeedSockets(Purpose.SESSION, 8),
    AppRefused(3),
    Full(full=True),
    NotTaken(5),
    Drained(5, 2),
    Counters(),
    counters(),
]


def wire(message):
    return b"J" + json.dumps([type(message).__name__, asdict(message)]).encode()


@pytest.fixture
def ends():
    ours, theirs = channel.pair()
    with ours, theirs:
        yield ours, theirs


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("message", [*HONEST, counters(AT_ONCE)], ids=lambda one: type(one).__name__)
def test_what_an_honest_worker_says_is_believed(ends, message):
    ours, theirs = ends
    channel.send(theirs, message)
    assert testimony.receive(ours) == message


def test_the_largest_of_an_honest_worker_s_messages_needs_no_file(ends):
    assert len(wire(counters(AT_ONCE))) < channel.INLINE


SUPERVISORS = [channel.TakeSigns(), channel.SetRules(1), channel.RemoveTarget(1, 1), channel.Finish(1.0)]


@pytest.mark.parametrize("message", SUPERVISORS, ids=lambda one: type(one).__name__)
def test_what_only_a_supervisor_says_is_a_lie(message):
    with pytest.raises(LieError, match="none of a worker's"):
        testimony.message_of(wire(message))


LIES = {
    "brackets": b"J" + b"[" * 55_000,
    "braces": b"J" + b'{"a":' * 11_000,
    "pairs of brackets": b"J[" + b"[]," * 15_000 + b"[]]",
    "infinite": wire(Counters({}, {"i#1": {"hits": 1, "last_hit": math.inf, "reasons": {}}})),
    "beyond floats": b'J["Counters",{"targets":{},"sessions":{},"more":false,"intercepts":'
    b'{"i":{"hits":1,"last_hit":1e999,"reasons":{}}}}]',
    "no number": wire(Counters({}, {"i#1": {"hits": 1, "last_hit": math.nan, "reasons": {}}})),
    "a huge number": wire(Counters({}, {"i#1": {"hits": 1, "last_hit": 10**400, "reasons": {}}})),
    "many digits": b'J["AppRefused",{"target":' + b"9" * 50_000 + b"}]",
    "below zero": wire(AppRefused(-1)),
    "true for one": wire(AppRefused(True)),
    "a fraction": wire(AppRefused(1.5)),
    "text for a number": wire(AppRefused("1")),
    "one for true": wire(Full(1)),
    "another purpose": wire(NeedSockets("files", 1, 1)),
    "a million sockets": wire(NeedSockets(Purpose.APP4, 1_000_000, 1)),
    "a missing field": b'J["Drained",{"target":1}]',
    "another field": b'J["AppRefused",{"target":1,"more":1}]',
    "a list for fields": b'J["AppRefused",[1]]',
    "another kind": b'J["__class__",{}]',
    "a kind that is a list": b'J[["Ready"],{"pid":1}]',
    "half a surrogate": wire(Counters({}, {}, {"\ud800": 1})),
    "an empty name": wire(Counters({}, {}, {"": 1})),
    "a long name": wire(Counters({}, {}, {"x" * 2000: 1})),
    "a target that is a name": wire(Counters({"x": TargetCount().as_data()})),
    "a target in other digits": wire(Counters({"\u0663": TargetCount().as_data()})),
    "a target twice": wire(Counters({"01": TargetCount().as_data()})),
    "a list of totals": wire(Counters({"1": [1]})),
    "many entries": wire(Counters({}, {}, {str(number): 1 for number in range(AT_ONCE + 1)})),
    "many reasons": wire(
        Counters({"1": {**TargetCount().as_data(), "reasons": {str(number): 1 for number in range(1000)}}})
    ),
    "not text": b"J\xff\xfe",
    "a file": b"M",
    "nothing known": b"X",
    "only the beginning": b"J",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_none_of_its_words_believed(ends, lie):
    ours, theirs = ends
    theirs.send(LIES[lie])
    with pytest.raises(LieError):
        testimony.receive(ours)


@pytest.mark.parametrize("count", [1, 3, 250])
def test_descriptors_are_a_lie_and_never_taken(ends, count):
    ours, theirs = ends
    memfd = os.memfd_create("lie")
    os.ftruncate(memfd, 4 << 30)
    before = descriptors()
    for first in (b"M", wire(AppRefused(1))):
        socket.send_fds(theirs, [first], [memfd] * count)
        with pytest.raises(LieError, match="descriptors"):
            testimony.receive(ours)
    assert descriptors() == before
    os.close(memfd)


def test_a_long_message_is_a_lie(ends):
    ours, theirs = ends
    for size in (channel.INLINE + 2, channel.INLINE + 100_000):
        theirs.send(b"J" + b" " * (size - 1))
        with pytest.raises(LieError, match="too long"):
            testimony.receive(ours)


def test_the_channel_s_end_is_none(ends):
    ours, theirs = ends
    with pytest.raises(BlockingIOError):
        testimony.receive(ours)
    theirs.close()
    assert testimony.receive(ours) is None


def test_counters_without_an_end_are_a_lie():
    ledger = Ledger()
    for _ in range(3):
        ledger.take(counters())
    ledger.take(Counters(more=False))

    def tell():
        while True:
            ledger.take(Counters(more=True))

    with pytest.raises(LieError, match="no end"):
        tell()
    ledger.worker_lost()
    ledger.take(Counters(more=True))


# The fuzz.

ODD = [
    *(None, True, False, 0, 1, -1, 1 << 53, (1 << 53) + 1, 1 << 63, 10**30, 0.5, -0.0, 1e308, "Infinity", "NaN"),
    *("", "x", "x" * 2000, "\0", "\x1b[2J", "\ud800", "app4", "session", [], {}, [[]], [None] * 50, {"": {}}),
]  # fmt: skip
TOKENS = [
    *(b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b"\\ud800", b"\\u0000", b"1e999", b"Infinity", b"-Infinity"),
    *(b"NaN", b"-", b"9" * 400, b"null", b"true", b"\0", b"\xff", b"\xc3\x28", b"[" * 300, b'{"a":' * 100),
]  # fmt: skip
KINDS = ["Ready", "NeedSockets", "AppRefused", "Full", "NotTaken", "Drained", "Counters", "SetRules", "x", ""]


def places(value, path=()):
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from places(one, (*path, index))


def changed(said, rng):
    """An honest message with one to three things put elsewhere, renamed, left out or replaced."""
    said = copy.deepcopy(said)
    for _ in range(rng.randint(1, 3)):
        *to, last = rng.choice([path for path in places(said) if path] or [(0,)])
        at = said
        for step in to:
            at = at[step]
        if isinstance(at, dict) and rng.random() < 0.4:
            if rng.random() < 0.5:
                del at[last]
            else:
                at[rng.choice([one for one in ODD if isinstance(one, str)])] = at.get(last)
        else:
            at[last] = rng.choice(KINDS) if rng.random() < 0.1 else copy.deepcopy(rng.choice(ODD))
        if not isinstance(said, list) or not said:
            break
    return b"J" + json.dumps(said).encode("utf-8", "surrogatepass")


def spoilt(data, rng):
    """Bytes of an honest message, some of them others, more or fewer."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0:
                data[at:at] = rng.choice(TOKENS)
            case 1:
                del data[at : at + rng.randint(1, 20)]
            case 2:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case _:
                data[at:at] = data[max(0, at - rng.randint(1, 200)) : at]
    return bytes(data[:70_000])


def harmless(message):
    """What the rest of the supervisor stands on, told anew and not by the module's own checks."""
    text = json.dumps(asdict(message), allow_nan=False)
    assert len(text) < 400_000
    ledger = Ledger()
    if isinstance(message, Counters):
        for _ in range(2):
            ledger.worker_lost()
            ledger.take(message)
            if message.more:
                ledger.take(Counters())
        ledger.worker_lost()
        for number in message.targets:
            total = ledger.target(int(number))
            assert 0 <= total["requests"] < 1 << 62
        for name, one in message.intercepts.items():
            assert time_text(one["last_hit"]) >= ""
            label, _, serial = name.rpartition("#")
            if serial.isdecimal() and serial.isascii() and str(int(serial)) == serial:
                assert (
                    ledger.intercept(Intercept(label, "u", "s", "t", ("t",), 80, serial=int(serial)))["hits"]
                    >= 0
                )
    elif isinstance(message, NeedSockets):
        assert 0 <= message.count <= 1 << 16
        Purpose(message.purpose)


@pytest.mark.timeout(60 + MESSAGES // 500)
def test_whatever_is_said_is_a_lie_or_harmless(ends):
    ours, theirs = ends
    rng = random.Random(os.environ.get("TPNET_FUZZ_SEED", "1"))
    honest = [json.loads(wire(one)[1:]) for one in HONEST]
    null = os.open(os.devnull, os.O_RDONLY)
    before = descriptors()
    believed = 0
    for number in range(MESSAGES):
        said = rng.choice(honest)
        how = rng.random()
        data = changed(said, rng) if how < 0.5 else spoilt(b"J" + json.dumps(said).encode(), rng)
        if how > 0.99:
            fds = array.array("i", [null] * rng.randint(1, 250))
            theirs.sendmsg([data or b"J"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        else:
            theirs.send(data or b"J")
        try:
            message = testimony.receive(ours)
        except LieError:
            continue
        assert how <= 0.99
        believed += 1
        harmless(message)
        if number % 1000 == 0:
            assert descriptors() == before
    assert descriptors() == before
    os.close(null)
    assert believed > MESSAGES / 100, "some of it is honest still"
