"""Objects that the views are tried with, and the comparison with what they are known to look like."""

import io
import os
import time
from pathlib import Path

from tpnet.model import (
    AgentStatus,
    ExplainStep,
    Explanation,
    HeaderRule,
    Intercept,
    InterceptStatus,
    OnFailure,
    PathKind,
    PathRule,
    SessionStatus,
    Status,
    TargetInfo,
    TargetStatus,
)
from tpnet.rules.sealed import mark_of, sealed
from tpnet_cli.terminal import make_console, rendered

SNAPSHOTS = Path(__file__).parent / "snapshots"
UPDATE = "TPNET_UPDATE_SNAPSHOTS"
NOW = time.mktime((2026, 3, 9, 10, 0, 0, 0, 0, -1))
SHOPS = ("netns/lab-shop-1", "netns/lab-shop-2")

AGENT = AgentStatus(
    version="0.1.0",
    pid=4120,
    kernel="6.1.0-50-amd64",
    node="n1",
    redirect="ebpf",
    redirect_reason="It passed its self-test on this kernel.",
    wireguard="wireguard-go",
    worker_pids=(4121,),
    memory_kib=38912,
    started=NOW - 2880,
)


ID = HeaderRule("x-tpnet-intercept-id", "6f1c0a9be44d4a7f8f0f5f3a1b2c3d4e")
"""Bob's own: what his computer keeps; intercepts have its digest."""
ID_MARK = f"#{mark_of(ID)}"


def intercept(name="shop-bob", user="bob", **changes):
    fields = {
        "session": user,
        "target": "lab-shop-*",
        "targets": SHOPS,
        "port": 80,
        "headers": (HeaderRule("Coder", "Bob"),),
        "handler": "127.0.0.1:8080",
        "tunnel_port": 20000,
        "created": NOW - 2880,
        "serial": 1,
    }
    return Intercept(name, user, **{**fields, **changes})


BOB = InterceptStatus(
    intercept(path=PathRule(PathKind.PREFIX, "/api")), 2, 2, True, True, hits=1204, last_hit=NOW - 2
)
ALICE = InterceptStatus(
    intercept("shop-all", "alice", headers=(), handler="127.0.0.1:9000", serial=2),
    2,
    2,
    True,
    True,
    hits=88,
    last_hit=NOW - 60,
)
BROKEN = InterceptStatus(
    intercept(
        "cart-bob",
        target="container/1f2e3d4c5b6a",
        targets=("container/1f2e3d4c5b6a",),
        port=9000,
        headers=(sealed(ID, "bob"),),
        handler="127.0.0.1:8081",
        serial=3,
    ),
    0,
    1,
    False,
    True,
    handler_problem="nothing listens on 127.0.0.1:8081",
    reasons={"handler": 12, "tunnel": 3},
    problems=("container/1f2e3d4c5b6a: nothing listens on port 9000 (since 40 s)",),
)
DEAD = InterceptStatus(
    intercept("pay-carol", "carol", on_failure=OnFailure.ERROR, serial=4),
    2,
    2,
    True,
    False,
    hits=3,
    last_hit=NOW - 7200,
)
LONG = InterceptStatus(
    intercept(
        "checkout-of-the-whole-shop-with-a-very-long-name-bartholomew",
        "bartholomew-the-third",
        headers=(
            HeaderRule("X-Feature-Branch", "bartholomew/checkout-rewrite-with-everything"),
            HeaderRule("Coder", "B.*", regex=True),
        ),
        path=PathRule(PathKind.REGEX, "/api/v[0-9]+/checkout/.*"),
        handler="192.168.178.21:18080",
        serial=5,
    ),
    2,
    2,
    True,
    True,
    hits=1234567,
    last_hit=NOW - 90000,
)
TARGETS = tuple(
    TargetStatus(
        name,
        80,
        True,
        redirect="ebpf",
        addresses=("10.77.1.11",),
        open=41,
        requests=16000,
        app_requests=15935,
        verdicts={"F": 600, "F:app": 15935, "P": 3, "R": 1},
        since=NOW - 2880,
    )
    for name in SHOPS
)
UNREADY = TargetStatus(
    "container/1f2e3d4c5b6a", 9000, False, reason="nothing listens on port 9000 (since 40 s)"
)
SESSIONS = (
    SessionStatus(
        "bob",
        "bob",
        "5Qabcdefghijklmnopqrstuvwxyz0123456789ABCDE=",
        "fd5c:9f37:ec0d::b0b",
        True,
        endpoint="10.77.0.21:51820",
        lease_left=27,
        last_seen=NOW,
        rtt_ms=4.2,
        since=NOW - 2880,
        mtu=1420,
    ),
    SessionStatus(
        "carol", "carol", "x" * 43 + "=", "fd5c:9f37:ec0d::ca", False, lease_left=3, since=NOW - 90000
    ),
)
STATUS = Status(AGENT, (*TARGETS, UNREADY), (BOB, ALICE, BROKEN, DEAD), SESSIONS)
EMPTY = Status(AGENT)
INFOS = tuple(TargetInfo(name, (80,), (f"10.77.1.1{number}",)) for number, name in enumerate(SHOPS, 1))
EXPLANATION = Explanation(
    (
        ExplainStep(
            "shop-bob",
            "bob",
            (("header Coder = #cd9fb1e1", True), ("path starts with /api", True)),
            True,
            True,
            "this one",
        ),
        ExplainStep(
            "shop-all", "alice", (("takes everything", True),), True, False, "not asked: 1 is personal"
        ),
    ),
    to="bob",
    handler="127.0.0.1:8080",
)
TO_THE_APP = Explanation(
    (
        ExplainStep(
            "shop-bob",
            "bob",
            (("header Coder = #cd9fb1e1", False), ("path starts with /api", True)),
            False,
            False,
            "there is no header Coder",
        ),
    ),
    reason="no intercept takes it",
)


class Tty(io.StringIO):
    """Text that a terminal would get."""

    def isatty(self):
        return True


def text_of(view, width, *, tty=False):
    """What is printed of a view, on a terminal or into a pipe."""
    return rendered(view, make_console(Tty() if tty else io.StringIO(), width))


def check_snapshot(name, text):
    """Compare with the file of that name; with TPNET_UPDATE_SNAPSHOTS=1 write it."""
    path = SNAPSHOTS / f"{name}.txt"
    if os.environ.get(UPDATE):
        path.write_text(text)
    assert path.exists(), f"no snapshot {path.name}: run with {UPDATE}=1 and look at it"
    assert text == path.read_text()
