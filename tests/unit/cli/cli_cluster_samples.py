"""A cluster that is only prepared answers: what the commands ask of it, and the objects that it has."""

import asyncio
import dataclasses
import time

import cli_samples as samples

from tpnet.model import (
    AgentStatus,
    ExplainStep,
    Explanation,
    InterceptStatus,
    NotThere,
    PathKind,
    PathRule,
    Status,
    TargetInfo,
    TargetStatus,
)
from tpnet.rules.sealed import sealed

AGENT = AgentStatus("0.1.0", 0, "", "2 nodes", "ebpf", "", "")


def intercept(name, user, **changes):
    fields = {"session": f"{user}-0a1b2c3d", "target": "svc/orders", "targets": ("shop/svc/orders",)}
    return samples.intercept(f"shop/{name}", user, **{**fields, **changes})


BOB = InterceptStatus(
    intercept("orders-bob", "bob@example.org", path=PathRule(PathKind.PREFIX, "/api")),
    3, 3, True, True, hits=1204, last_hit=samples.NOW - 2,
)  # fmt: skip
ALICE = InterceptStatus(
    intercept("orders-all", "alice", headers=(), handler="127.0.0.1:9000", serial=2),
    3, 3, True, True, hits=88, last_hit=samples.NOW - 60,
)  # fmt: skip
CART = InterceptStatus(
    intercept(
        "cart-bob", "bob@example.org", target="deploy/cart", targets=("shop/deploy/cart",), port=9000, serial=3,
        headers=(sealed(samples.ID, "bob@example.org"),), handler="127.0.0.1:8081",
    ),
    1, 2, True, True, problems=("node n2: pod cart-7d9f: nothing listens on port 9000",),
)  # fmt: skip
NEW = InterceptStatus(
    intercept("new-carol", "carol", target="pod/new-0", targets=("shop/pod/new-0",), port=0, serial=4),
    handler_up=True, session_up=True, problems=("no agent has said anything yet",),
)  # fmt: skip
PODS = (
    TargetStatus("shop/orders-79b9 on n1", 8080, True, addresses=("10.1.0.4",)),
    TargetStatus("shop/orders-8c2d on n2", 8080, True, addresses=("10.1.1.7",)),
    TargetStatus(
        "shop/cart-7d9f on n2", 9000, False, "nothing listens on port 9000", addresses=("10.1.1.9",)
    ),
)
STATUS = Status(AGENT, PODS, (BOB, ALICE, CART, NEW))
SESSION = {
    "session": "bob-example-org-0a1b2c3d",
    "user": "bob@example.org",
    "started": samples.NOW - 2880,
    "up": False,
    "address": "fd5c:9f37:ec0d::b0b",
    "endpoint": "10.0.3.7:21820",
    "draining": 0,
    "agents": [
        {"node": "n1", "address": "fd5c::1", "endpoint": "10.0.3.7:21820", "up": True, "rtt_ms": 4.2, "mtu": 1232},
        {"node": "n2", "address": "fd5c::2", "endpoint": "", "up": False, "rtt_ms": 0.0, "mtu": 1280},
    ],
    "intercepts": [
        {
            "name": f"shop/{name}", "handler": handler, "handler_up": up, "tunnel_port": 20000,
            "handler_problem": "" if up else f"nothing listens on {handler}",
            "open": 2, "total": 1204, "refused": 0, "problem": "",
        }
        for name, handler, up in (("orders-bob", "127.0.0.1:8080", True), ("cart-bob", "127.0.0.1:8081", False))
    ],
}  # fmt: skip
INFO = TargetInfo("shop/svc/orders", (80, 9090), ("orders.shop",), port_names=("http", "metrics"))
ONE_PORT = dataclasses.replace(INFO, listening=(80,), port_names=("",))


class FakeCluster:
    """``ClusterControl`` with prepared answers. ``options`` are those it was last connected with."""

    user, server = "bob@example.org", "https://cluster"

    def __init__(self):
        self.current = Status(AGENT)
        self.info_of_target = ONE_PORT
        self.options = None
        self.away = None
        self.deleted = []
        self.calls = []
        self.explanation = Explanation(
            (ExplainStep("shop/orders-bob", "bob", (("header Coder = Bob", True),), True, True, "this one"),),
            "bob",
            "127.0.0.1:8080",
        )

    def connect(self, options):
        self.options = options
        if self.away:
            raise self.away
        self.namespace = options.namespace or "default"
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def close(self):
        pass

    def info(self):
        return self.current.agent

    def status(self):
        if isinstance(self.current, Exception):
            raise self.current
        return self.current

    def resolve(self, target):
        self.calls.append(("resolve", target))
        return [self.info_of_target]

    def explain(self, *args):
        self.calls.append(args)
        return self.explanation

    def delete_intercept(self, name, user, force=False):
        self.deleted.append(name)
        return {"draining": 0}

    def complete(self, kind, target=""):
        self.calls.append((kind, target, self.namespace))
        found = {"services": ["cart", "orders"], "ports": ["80", "9090"], "intercepts": ["orders-bob"]}
        return found.get(kind, ["default", "shop"])

    def call(self, make):
        return asyncio.run(make(self))


class FakeDaemon:
    """The session daemon of this computer."""

    def __init__(self):
        self.there = False
        self.options = None
        self.added, self.removed, self.quitted = [], [], False
        self.told = True
        self.behind = {}
        self.agents = [dict(SESSION["agents"][0])]
        self.handler_up = True
        self.failure = None

    def client(self, run_dir, user, cluster=None):
        self.options = cluster
        return self

    def ensure(self, run_dir, user, *, cluster=None):
        self.there = True
        return self.client(run_dir, user, cluster)

    def info(self):
        if not self.there:
            raise NotThere("bob has no session on this computer.")
        return {**SESSION, "started": time.time(), "agents": self.agents}

    def add(self, draft):
        if self.failure:
            raise self.failure
        self.added.append(draft)
        target = draft.target if "/" in draft.target else f"svc/{draft.target}"
        stood = dataclasses.replace(draft, session="bob-0a1b2c3d", target=target, tunnel_port=20000)
        problem = "" if self.handler_up else f"nothing listens on {draft.handler}"
        return InterceptStatus(stood, 2, 2, self.handler_up, True, handler_problem=problem)

    def remove(self, name):
        if name not in {entry["name"] for entry in self.info()["intercepts"]}:
            raise NotThere(f"This session has no intercept {name}.")
        self.removed.append(name)
        return {"draining": 0, "last": False, "told": self.told}

    def quit(self):
        self.quitted = True
        return {"behind": self.behind, "cut": 0}
