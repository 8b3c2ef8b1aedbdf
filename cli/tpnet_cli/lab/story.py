"""The story of the demonstration, scene by scene. ``tpnet_cli.lab.demo`` plays it on a ``Stage``.

Every scene is real commands, then real requests with what is expected of each.
"""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING

from tpnet.rules import AUTO_HEADER
from tpnet_cli.lab.network import has_ipv6
from tpnet_cli.lab.plan import HANDLER_PORT, SHOP_PORT, SHOPS
from tpnet_cli.lab.stage import Request, session_pid

if TYPE_CHECKING:
    from tpnet_cli.lab.stage import Stage

BOB = {"Coder": "Bob"}
ALICE = {"Coder": "Alice"}
FAIL_OPEN_SECONDS = 3.0
"""What the architecture promises: a dead laptop's requests are with the app again within this time."""
RETURN_SECONDS = 15.0
"""A laptop that is back on the network has its requests again within this time."""
_PORTS = f"{HANDLER_PORT}:{SHOP_PORT}"


def play(stage: Stage) -> None:
    """All scenes. What does not hold is counted on the stage; nothing is raised for it."""
    no_intercept(stage)
    global_intercept(stage)
    two_personal(stage)
    header_and_path(stage)
    automatic(stage)
    without_header(stage)
    laptop_killed(stage)
    everybody_leaves(stage)
    stage.end_scene()


def no_intercept(stage: Stage) -> None:
    """Scene 0."""
    stage.scene("No intercept: the shop answers everybody")
    stage.expect(Request("client-1", "shop-1"), by="shop-1")
    stage.expect(Request("client-2", "shop-2", "/api/cart", BOB), by="shop-2")
    if has_ipv6():
        stage.expect(Request("client-1", "shop-2", ipv6=True), by="shop-2")


def global_intercept(stage: Stage) -> None:
    """Scene 1."""
    stage.scene("Alice takes everything, on both replicas: a global intercept")
    _intercept(stage, "alice", "shop-all", "--http-header", "all")
    stage.expect(Request("client-1", "shop-1"), by="alice")
    stage.expect(Request("client-2", "shop-2", "/api/pay", method="POST"), by="alice")


def two_personal(stage: Stage) -> None:
    """Scene 2."""
    stage.scene("Two personal intercepts at once; they beat the global one")
    _intercept(stage, "bob", "shop-bob", "--http-header", "Coder=Bob")
    _intercept(stage, "alice", "shop-alice", "--http-header", "Coder=Alice")
    stage.expect(Request("client-1", "shop-1", "/api", BOB), by="bob")
    stage.expect(Request("client-1", "shop-2", "/api", ALICE), by="alice")
    stage.expect(Request("client-2", "shop-1", "/api"), by="alice")
    stage.tpnet("alice", "leave", "shop-all")
    stage.expect(Request("client-1", "shop-2", "/api", BOB), by="bob")
    stage.expect(Request("client-1", "shop-1", "/api", ALICE), by="alice")
    stage.expect(Request("client-2", "shop-1", "/api"), by="shop-1")


def header_and_path(stage: Stage) -> None:
    """Scene 3."""
    stage.scene("Header and path: bob takes only what is under /api/cart")
    stage.tpnet("bob", "leave", "shop-bob")
    _intercept(stage, "bob", "shop-cart", "--http-header", "Coder=Bob", "--http-path-prefix", "/api/cart")
    stage.expect(Request("client-1", "shop-1", "/api/cart/7", BOB), by="bob")
    stage.expect(Request("client-1", "shop-1", "/api/pay", BOB), by="shop-1")
    stage.expect(Request("client-1", "shop-1", "/api/cart/7"), by="shop-1")


def automatic(stage: Stage) -> None:
    """Scene 4."""
    stage.scene("auto: a header of bob's own, the same for all of his intercepts")
    _intercept(stage, "bob", "shop-auto", "--http-header", "auto")
    listed = json.loads(stage.tpnet("bob", "list", "-o", "json", quiet=True) or "[]")
    ids = [
        item["intercept"]["headers"][0]["value"]
        for item in listed
        if item["intercept"]["name"] == "shop-auto"
    ]
    own = {AUTO_HEADER: ids[0] if ids else ""}
    stage.expect(Request("client-1", "shop-2", "/", own), by="bob")
    stage.expect(Request("client-1", "shop-2", "/", {AUTO_HEADER: "0" * 32}), by="shop-2")
    if has_ipv6():
        stage.expect(Request("client-2", "shop-1", "/", own, ipv6=True), by="bob")


def without_header(stage: Stage) -> None:
    """Scene 5."""
    stage.scene("A client without the header notices nothing, and the shop sees the client's own address")
    for shop in SHOPS:
        stage.expect(Request("client-2", shop.name, "/api/cart"), by=shop.name)
    stage.expect(Request("client-2", "shop-1", "/api/pay", method="POST"), by="shop-1")
    if has_ipv6():
        stage.expect(Request("client-2", "shop-2", "/api/cart", ipv6=True), by="shop-2")


def laptop_killed(stage: Stage) -> None:
    """Scene 6: two ways to lose a laptop. Who asks before it is known waits; nobody gets an error."""
    stage.scene("Bob's session is killed (kill -9), and alice's laptop falls off the network")
    bobs = Request("client-1", "shop-1", "/api/cart/7", BOB)
    alices = Request("client-1", "shop-2", "/api", ALICE)
    stage.expect(bobs, by="bob")
    os.kill(session_pid(stage, "bob"), signal.SIGKILL)
    _back_at_the_shop(stage, "bob", bobs)
    stage.expect(alices, by="alice")
    stage.cable("alice", plugged=False)
    _back_at_the_shop(stage, "alice", alices)
    stage.expect(bobs, by="shop-1")
    stage.expect(alices, by="shop-2")
    stage.tpnet("alice", "list")
    stage.cable("alice", plugged=True)
    _back_at_the_laptop(stage, "alice", alices)


def _back_at_the_shop(stage: Stage, developer: str, request: Request) -> None:
    answers, seconds = stage.ask_until(request, request.shop, 4 * FAIL_OPEN_SECONDS)
    failed = [answer.by for answer in answers if answer.by not in {developer, request.shop}]
    good = answers[-1].by == request.shop and seconds <= FAIL_OPEN_SECONDS and not failed
    stage.say(
        f"{developer}'s requests: the shop answers after {_time(seconds)} "
        f"(promised: {FAIL_OPEN_SECONDS:.0f} s), {len(failed)} of {len(answers)} failed",
        good,
    )
    stage.check(
        good,
        f"{developer} gone: {request.shop} answered after {_time(seconds)}; failed: {failed}.",
    )


def _back_at_the_laptop(stage: Stage, developer: str, request: Request) -> None:
    answers, seconds = stage.ask_until(request, developer, RETURN_SECONDS)
    failed = [answer.by for answer in answers if answer.by not in {developer, request.shop}]
    good = answers[-1].by == developer and not failed
    stage.say(f"{developer}'s laptop is back on the network: it answers again after {_time(seconds)}", good)
    stage.check(
        good, f"{developer} back: after {_time(seconds)} {answers[-1].by} answers; {len(failed)} failed."
    )


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def everybody_leaves(stage: Stage) -> None:
    """Scene 7."""
    stage.scene("Everybody leaves: the shop is as it was")
    stage.tpnet("bob", "leave", "--all")
    stage.tpnet("alice", "leave", "--all")
    stage.expect(Request("client-1", "shop-1", "/api/cart/7", BOB), by="shop-1")
    stage.expect(Request("client-2", "shop-2", "/api", ALICE), by="shop-2")
    deadline = time.monotonic() + 5
    while (left := {shop.name: stage.listening(shop.name) - {SHOP_PORT} for shop in SHOPS}) and any(
        left.values()
    ):
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    clean = not any(left.values())
    stage.say(
        "nothing of ours listens in the shop's namespaces" if clean else f"listeners are left: {left}",
        good=clean,
    )
    stage.check(clean, f"Listeners are left in the shop's namespaces: {left}.")


def _intercept(stage: Stage, who: str, name: str, *flags: str) -> None:
    target = f"{stage.paths.name}-shop-*"
    stage.tpnet(who, "intercept", target, "--port", _PORTS, *flags, "--name", name)
