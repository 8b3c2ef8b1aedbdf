"""Measure tpnet beside HAProxy, nginx and the direct path, in one run, interleaved. ``make bench`` calls this.

Writes ``docs/benchmarks.md`` and ``results.json``. Judges nothing by seconds: what counts are the ratios of one run.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bed import APP, DIRECT, HAPROXY, MANY, NGINX, POD, Bed

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 5
SECONDS = 3
HERE = Path(__file__).parent
PATHS = {"tpnet": APP, "haproxy": HAPROXY, "nginx": NGINX, "direct": DIRECT}
LONG_HEAD = [
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-GB,en;q=0.9,de;q=0.8",
    "Cookie: session=" + "0123456789abcdef" * 20,
    "X-Request-Id: 7f8de2c0-6b3a-4f35-9a51-0e8d3fd7d6c1",
    "X-Forwarded-For: 203.0.113.7, 198.51.100.9",
    "Cache-Control: no-cache",
]


UNIQUE_HEADS = """
local count = 0
request = function()
  count = count + 1
  return "GET /orders/" .. count .. " HTTP/1.1\\r\\nHost: shop\\r\\nX-Request-Id: " .. count .. "\\r\\n\\r\\n"
end
"""
"""For wrk: no head is like another, so that nothing that a proxy remembers of heads helps it."""


@dataclass(frozen=True)
class Result:
    """One line of the table. ``goal`` is what the ratio ours/theirs, or the difference, should reach; None: no goal."""

    case: str
    ours: float
    peer: str
    theirs: float
    ratio: float
    goal: str | None
    reached: bool | None


def wrk(bed: Bed, port: int, connections: int, *headers: str, script: str = "") -> tuple[float, float]:
    """Requests a second, and the median latency in microseconds."""
    flags = [flag for header in headers for flag in ("-H", header)]
    if script:
        path = bed.folder / "wrk.lua"
        path.write_text(script)
        flags += ["-s", str(path)]
    text = bed.in_client(
        "wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency", *flags, f"http://{POD}:{port}/"
    )
    if re.search(r"Non-2xx|Socket errors", text):
        raise SystemExit(f"requests failed on port {port}:\n{text}")
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])
    value, unit = re.search(r"50%\s+([\d.]+)(us|ms|s)", text).groups()
    return rate, float(value) * {"us": 1, "ms": 1e3, "s": 1e6}[unit]


def body(bed: Bed, port: int) -> float:
    """MB/s of one answer of 1 GiB."""
    return float(bed.fetch(port, "-o", "/dev/null", "-w", "%{speed_download}", path="/big")) / 1e6


def interleaved(bed: Bed, measure: Callable[[int], float], paths: dict[str, int]) -> dict[str, float]:
    """The median of ``ROUNDS`` rounds; each round measures every path once, so that a slow moment hits all."""
    seen: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(ROUNDS):
        for name, port in paths.items():
            bed.keep_session()
            seen[name].append(measure(port))
    return {name: statistics.median(values) for name, values in seen.items()}


def compare(case: str, seen: dict[str, float], goals: dict[str, float]) -> list[Result]:
    """A line per peer; ``goals`` are the ratios to reach."""
    lines = []
    for peer, theirs in seen.items():
        if peer != "tpnet":
            ratio, goal = seen["tpnet"] / theirs, goals.get(peer)
            lines.append(
                Result(case, round(seen["tpnet"], 1), peer, round(theirs, 1), round(ratio, 3),
                       None if goal is None else f">= {goal}", None if goal is None else ratio >= goal)
            )  # fmt: skip
    return lines


def measure(bed: Bed) -> list[Result]:
    """Every case."""
    results: list[Result] = []
    say = lambda text: print(f"  {text}", file=sys.stderr, flush=True)  # noqa: E731
    bed.begin_session()
    bed.intercept(APP)
    say("requests a second, 32 connections")
    results += compare(
        "requests/s, 32 connections, small head",
        interleaved(bed, lambda port: wrk(bed, port, 32)[0], PATHS),
        {"haproxy": 1.0},
    )
    say("requests a second, 32 connections, head of 900 bytes")
    results += compare(
        "requests/s, 32 connections, 900-byte head",
        interleaved(bed, lambda port: wrk(bed, port, 32, *LONG_HEAD)[0], PATHS),
        {},
    )
    say("requests a second, 32 connections, no two heads alike")
    results += compare(
        "requests/s, 32 connections, no two heads alike",
        interleaved(bed, lambda port: wrk(bed, port, 32, script=UNIQUE_HEADS)[0], PATHS),
        {},
    )
    say("latency, one connection")
    seen = interleaved(bed, lambda port: wrk(bed, port, 1)[1], PATHS)
    for peer in ("direct", "haproxy", "nginx"):
        added = seen["tpnet"] - seen[peer]
        goal = "<= +40 us" if peer == "direct" else None
        results.append(
            Result("p50 in us, 1 connection", seen["tpnet"], peer, seen[peer], round(seen["tpnet"] / seen[peer], 3),
                   goal, None if goal is None else added <= 40)
        )  # fmt: skip
    say("new connections a second")
    results += compare(
        "new connections/s, 8 at once",
        interleaved(bed, lambda port: wrk(bed, port, 8, "Connection: close")[0], PATHS),
        {"haproxy": 0.7},
    )
    say("1 GiB answer")
    results += compare(
        "MB/s, 1 GiB answer", interleaved(bed, lambda port: body(bed, port), PATHS), {"direct": 0.7}
    )
    say("a thousand intercepts on the port")
    bed.intercept(MANY, 1000)
    seen = interleaved(bed, lambda port: wrk(bed, port, 32)[0], {"tpnet": MANY, "tpnet, one": APP})
    results += compare("requests/s, 32 connections, 1000 intercepts", seen, {"tpnet, one": 0.9})
    return results


def write(results: list[Result]) -> None:
    """The page for people and the file for machines."""
    (HERE / "results.json").write_text(json.dumps([asdict(line) for line in results], indent=1) + "\n")
    rows = [
        f"| {line.case} | {line.ours:g} | {line.peer} | {line.theirs:g} | {line.ratio:g} | {line.goal or ''} "
        f"| {'' if line.reached is None else 'yes' if line.reached else '**no**'} |"
        for line in results
    ]
    page = f"""# Benchmarks

Made by `make bench` (about ten minutes; it installs HAProxy, nginx and wrk from Debian when they are missing). Do not
compare figures of two runs or two machines: the columns of one run were measured interleaved, {ROUNDS} rounds of
{SECONDS} s each, and are medians.

The app is nginx in a network namespace of its own, reached over a veth pair. *direct* is the app untouched. *tpnet* is
the app with one personal intercept (`Coder: Bob`) that the requests do not match: the redirect, one worker, the
client's address kept. *haproxy* (one thread) and *nginx* (one worker) proxy to the same app, with the same rule on the
header; both pool their connections to the app, tpnet never does.

Machine: {os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()},
{datetime.now(tz=UTC):%Y-%m-%d}.

| case | tpnet | peer | peer's | ratio | goal | reached |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}

## What the figures are made of

- **Requests a second**: the worker makes the same four system calls a request as HAProxy; the rest is Python's time. What
  lines and blocks of fields say is remembered, so a head like one before is cheap; the row of unlike heads is without that.
- **New connections**: each client connection has a connection to the app of its own, bound to the client's address,
  with its entry in the bypass map, and a socket that was prepared by another process. The peers keep a pool.
- **1 GiB answer**: spliced, a megabyte at a time (smaller pieces are slower), so the bytes never enter Python, but they
  cross two sockets more than direct. The peers copy and are slower still.
- **A thousand intercepts**: two ports of the same app, one with a thousand intercepts and one with a single one, measured in turn.
- On two CPUs wrk, nginx, the worker and the supervisor share what a node has more of; the ratios of two runs differ by
  a quarter.
"""
    (HERE.parents[1] / "docs" / "benchmarks.md").write_text(page)
    print("\n".join(rows))


if __name__ == "__main__":
    with Bed() as the_bed:
        measured = measure(the_bed)
    write(measured)
