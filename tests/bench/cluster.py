"""Measure tpnet on a test cluster: how soon an intercept's first request arrives, how soon an agent is ready, memory.

``make bench-cluster`` calls this. It writes ``docs/benchmarks-cluster.md``, and says also where a goal is missed.
"""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import sys
import threading
import time
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Self

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
sys.path.insert(0, str(REPOSITORY / "tests" / "cluster"))

from agent_bed import Bed  # noqa: E402
from desk import Desk  # noqa: E402
from kubelab import Cluster  # noqa: E402
from kubelab.tools import wait_until  # noqa: E402
from ledger import Connection  # noqa: E402

from tpnet.datapath.netns import NetNs  # noqa: E402

WARM, COLD, STARTS, REPLICAS = 50, 10, 10, 6
PAUSE = 0.005
"""Seconds between two requests of the client that looks out for the first one to arrive."""
IDLE = 10.0
"""Seconds that an agent and a session are left alone before their memory is read."""
RULE = "--http-header=Coder=Bob"


class Lookout:
    """Sends Bob's requests to the service, one at a time, each on a connection of its own, and knows who answers."""

    def __init__(self, netns: NetNs, address: str) -> None:
        self._netns, self._address = netns, address
        self._over = threading.Event()
        self._answers: list[tuple[float, bool]] = []
        self.failures: list[str] = []
        self.slowest = 0.0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def first(self, since: float, *, mine: bool) -> float | None:
        """When the first request after ``since`` was answered by Bob's laptop, or else by a pod."""
        return next((at for at, his in list(self._answers) if at >= since and his is mine), None)

    def steady(self, *, mine: bool, times: int = 40) -> bool:
        """Whether all of the last so many requests were."""
        last = self._answers[-times:]
        return len(last) == times and all(his is mine for _, his in last)

    def _run(self) -> None:
        while not self._over.wait(PAUSE):
            began = time.monotonic()
            try:
                with contextlib.closing(Connection(self._netns, (self._address, 80))) as connection:
                    connection.request("GET", "/api", headers={"Coder": "Bob", "Connection": "close"})
                    body = connection.getresponse().read()
                self._answers.append((time.monotonic(), b"'s laptop" in body))
            except (OSError, HTTPException) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            self.slowest = max(self.slowest, time.monotonic() - began)


def until_first_request(desk: Desk, lookout: Lookout) -> float:
    """Seconds from the command's start until the first of its requests was answered by the laptop."""
    began = time.monotonic()
    desk.tpnet("intercept", "orders", RULE, "-n", desk.namespace)
    return wait_until(lambda: lookout.first(began, mine=True), 20, lambda: "the first request") - began


def leave(desk: Desk, lookout: Lookout) -> None:
    desk.tpnet("leave", "--all")
    wait_until(lambda: lookout.steady(mine=False), 10, lambda: "the pods answer again")


def pss(machine: object, pid: int) -> int:
    """Bytes of a process and all below it, shared pages counted in parts (proc(5), smaps_rollup)."""
    folder = machine.proc / str(pid)
    text = (folder / "smaps_rollup").read_text()
    total = int(next(line for line in text.splitlines() if line.startswith("Pss:")).split()[1]) * 1024
    children = [
        child for task in (folder / "task").iterdir() for child in (task / "children").read_text().split()
    ]
    return total + sum(pss(machine, int(child)) for child in children)


def percentile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def measure(cluster: Cluster) -> list[tuple[str, str, str, bool | None]]:
    """The rows: what, how much, the goal, whether it is reached."""
    rows: list[tuple[str, str, str, bool | None]] = []
    bed = Bed(cluster)
    try:
        node = cluster.nodes[0]
        bed.start()
        starts = []
        for _ in range(STARTS):
            bed.stop(node)
            starts.append(bed.start(node))
        median, worst = statistics.median(starts), max(starts)
        rows.append(("agent: start to ready, s, median of 10", f"{median:.2f}", "<= 3", median <= 3))
        rows.append(("agent: start to ready, s, slowest", f"{worst:.2f}", "", None))
        time.sleep(IDLE)
        memory = pss(node, bed.services[node.name].pid) / 1e6
        rows.append(("agent: PSS of all its processes, idle, MB", f"{memory:.0f}", "<= 100", memory <= 100))
        with cluster.namespace(wait=False) as namespace:
            cluster.run_shop(namespace, "orders", replicas=REPLICAS)
            rows += intercepts(cluster, namespace)
        with_targets = pss(node, bed.services[node.name].pid) / 1e6
        rows.append(("agent: PSS after all that, MB", f"{with_targets:.0f}", "", None))
    finally:
        bed.close()
    return rows


def intercepts(cluster: Cluster, namespace: str) -> list[tuple[str, str, str, bool | None]]:
    """The rows of ``tpnet intercept``."""
    rows: list[tuple[str, str, str, bool | None]] = []
    address = cluster.service_ip(namespace, "orders")
    with (
        Desk(cluster, namespace, "bob") as desk,
        NetNs.from_name(cluster.nodes[0].netns) as netns,
        Lookout(netns, address) as lookout,
    ):
        desk.grant()
        desk.serve(80)
        cold = []
        for _ in range(COLD):
            cold.append(until_first_request(desk, lookout))
            desk.tpnet("quit")
            wait_until(lambda: lookout.steady(mine=False), 10, lambda: "the pods answer again")
        desk.tpnet("connect", "-n", namespace)
        warm = []
        for _ in range(WARM):
            warm.append(until_first_request(desk, lookout))
            leave(desk, lookout)
        for name, values, goal in (("session stands already", warm, 1.0), ("first of a session", cold, None)):
            for part, said in ((0.5, "p50"), (0.95, "p95"), (1.0, "slowest")):
                value = percentile(values, part)
                aim = part == 0.95 and goal is not None
                what = (
                    f"tpnet intercept to its first request at the handler, s, {said} of {len(values)}, {name}"
                )
                rows.append((what, f"{value:.2f}", "<= 1" if aim else "", value <= 1 if aim else None))
        failures = lookout.failures
        rows.append(
            (
                "requests that failed meanwhile",
                " ".join([str(len(failures)), *failures[:3]]),
                "0",
                not failures,
            )
        )
        rows.append(("the slowest of these requests, s", f"{lookout.slowest:.2f}", "", None))
        time.sleep(IDLE)
        daemon = desk.data("status", "-n", namespace)["session"]["pid"]
        rows.append(
            (
                "session daemon: PSS of all its processes, MB",
                f"{pss(desk.machine, daemon) / 1e6:.0f}",
                "",
                None,
            )
        )
    return rows


TEXT = """# Benchmarks on a cluster

Made by `make bench-cluster` (some minutes, as root). The cluster is that of the tests: a real API server, two nodes with containerd,
a service of six replicas, a laptop, all on one machine and in namespaces of their own. A client on a node sends a request with
Bob's header every few milliseconds, each on a connection of its own; the time runs from the start of the command `tpnet intercept`
(the start of Python included) until the first of them is answered by Bob's laptop.

Machine: {cpus} CPUs, Linux {kernel}, Python {python}, {date}. All of the cluster, of tpnet and the client share these CPUs.

| what | measured | goal | reached |
|---|---|---|---|
{rows}
"""


def main() -> None:
    cluster = Cluster.up()
    try:
        rows = measure(cluster)
    finally:
        cluster.down()
    words = {True: "yes", False: "**no**", None: ""}
    lines = [f"| {what} | {value} | {goal} | {words[reached]} |" for what, value, goal, reached in rows]
    text = TEXT.format(
        cpus=os.cpu_count(), kernel=platform.release().split("-")[0], python=platform.python_version(),
        date=datetime.now(UTC).date(), rows="\n".join(lines),
    )  # fmt: skip
    (REPOSITORY / "docs" / "benchmarks-cluster.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
