"""An agent's pod is replaced again and again under load, as an upgrade does it, and a ledger says who noticed.

``test_agent_restarts.py`` plays some of it; ``make soak-cluster`` all: ``python tests/cluster/restarts.py --restarts 20``. App and
handler are the books' own, in the pod's network and on the laptop; everything between is what an administrator installs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections import Counter
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("shared", "netns")]

from books import Books, judge, reads
from desk import admin
from faults import away, harmed
from kubelab import Cluster
from kubelab.tools import start_time, wait_until
from ledger import Ledger
from person import Person
from worker_lab import Server

from tpnet.datapath.netns import NetNs

AGENT = "app.kubernetes.io/name=tpnet-agent"
TICK = 1 / os.sysconf("SC_CLK_TCK")


def clock(ticks):
    """Ticks since boot, as /proc counts them, by the monotonic clock."""
    slept = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    return ticks * TICK - slept


class Upgraded:
    """A service of one pod, bob who intercepts it, and the load, which runs while the block does."""

    def __init__(self, cluster, namespace, **load):
        self.cluster, self.namespace = cluster, namespace
        self._load = load
        self._stack = contextlib.ExitStack()
        self.beyond = []

    def __enter__(self):
        try:
            self._begin()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_):
        self._stack.close()

    def _begin(self):
        keep, cluster = self._stack.enter_context, self.cluster
        # The kubelet asks the container; the service's port is the books'.
        ports = {"ports": (8081,), "service_ports": {80: 8080}}
        cluster.run_shop(self.namespace, "orders", replicas=1, wait=False, **ports)
        (pod,) = cluster.wait_ready(self.namespace, "app=orders", 1)
        self.node = next(node for node in cluster.nodes if node.name == pod["spec"]["nodeName"])
        self.books = Books()
        netns = keep(NetNs.from_path(self.node.proc / self._pid_of(pod) / "ns/net", "the pod"))
        self._serve(netns, self.books.server("app"), "::")
        cluster.wait_served(self.namespace, "orders")
        self.bob = Person(cluster, self.namespace, "bob")
        self._stack.callback(self.bob.close)
        self.bob.handler.terminate()
        self.bob.handler.wait(10)
        laptop = keep(NetNs.from_name(self.bob.machine.netns))
        self._serve(laptop, self.books.server("bob"), "::ffff:127.0.0.1")
        made = self.bob.intercept()
        assert "intercept" in made, made
        client = keep(NetNs.from_name(cluster.nodes[0].netns))
        address = cluster.service_ip(self.namespace, "orders"), 80
        self.load = keep(Ledger(client, address, ("bob",), posts=True, reads=reads, **self._load))
        self.settled()

    def _serve(self, netns, serve, address):
        self._stack.callback(Server(netns, 8080, serve, address).close)

    def _pid_of(self, pod):
        _, _, container = pod["status"]["containerStatuses"][0]["containerID"].partition("://")
        tasks = self.node.run("ctr", "-n", "k8s.io", "tasks", "ls").stdout.splitlines()
        return next(line.split()[1] for line in tasks if line.startswith(container))

    # What is done.

    def delete(self):
        """The agent's pod beside the app's is deleted."""
        before = self._pods()
        self.cluster.kubectl("-n", "tpnet", "delete", "pod", before[self.node.name], "--wait=false")
        self._replaced(before)

    def rollout(self):
        """All agents are restarted, a node at a time."""
        before = self._pods()
        self.cluster.kubectl("-n", "tpnet", "rollout", "restart", "daemonset/tpnet-agent")
        self._replaced(before)
        self.cluster.kubectl(
            "-n", "tpnet", "rollout", "status", "daemonset/tpnet-agent", "--timeout=180s", timeout=200
        )

    def _replaced(self, before):
        """Until the next agent's process is there, and bob is served again."""
        old = self._supervisor()
        new = wait_until(
            lambda: (seen := self._supervisor()) and seen != old and seen, 120, "the next agent", every=0.02
        )
        self.settled()
        started = clock(new)
        self.beyond.append(max((entry.at for entry in self._astray(started)), default=started) - started)
        wait_until(
            lambda: self._pods().get(self.node.name) not in {None, before[self.node.name]}, 60, "its pod"
        )

    def settled(self):
        """Until bob is served, over new connections that are made from now on."""
        self.load.wait_for("bob", "bob", 60, since=time.monotonic())

    def _astray(self, since):
        """Bob's requests over new connections that went to the app since then."""
        return [
            one
            for one in list(self.load.entries)
            if one.header == "bob" and not one.kept and one.answered == "app" and one.at > since
        ]

    def _pods(self):
        """The agents' pods that are not on their way out, by node."""
        return {pod["spec"]["nodeName"]: pod["metadata"]["name"] for pod in self.cluster.pods("tpnet", AGENT)}

    def _supervisor(self):
        """When the node's agent started, in ticks since boot; the later one's where there are two."""
        found = []
        for folder in self.node.proc.glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                if words[2:4] == [b"agent", b"run"] and (
                    start := start_time(int(folder.name), self.node.proc)
                ):
                    found.append(start)
        return max(found, default=None)

    # What became of it.

    def wrong(self):
        """Everything that is, a line each; once the load has ended."""
        lines = [f"failed: {entry}" for entry in harmed(self.load.entries)]
        return lines + judge(self.load, self.books)


@contextlib.contextmanager
def installed(cluster):
    """The agents, as an administrator installs them, from the image of this checkout."""
    cluster.load_agent_image()
    admin(cluster, "install", "--wait")
    try:
        yield
    finally:
        admin(cluster, "uninstall", "--yes")


def reach(cluster, namespace, *, restarts, requests, say=print, **load):
    """So many restarts, by deletion and by rollout in turn, within at least so many requests: what is wrong; the figures."""
    with Upgraded(cluster, namespace, **load) as stage:
        began = time.monotonic()
        for turn in range(restarts):
            stage.load.wait(max(50, requests * (turn + 1) // (restarts + 1) - len(stage.load.entries)), 600)
            at = time.monotonic()
            (stage.rollout if turn % 4 == 3 else stage.delete)()
            say(
                f"{at - began:7.1f} s  restart {turn + 1}: {time.monotonic() - at:.1f} s, "
                f"bob away {stage.beyond[-1]:.2f} s beyond the next agent's start"
            )
        stage.load.wait(max(50, requests - len(stage.load.entries)), 600)
        seconds = time.monotonic() - began
        stage.load.stop()
        wrong = stage.wrong()
        outcomes = Counter(f"{entry.outcome}" for entry in stage.load.entries)
        say(
            f"{len(stage.load.entries)} requests in {seconds:.0f} s: {dict(outcomes)}; "
            f"bob away {away(stage.load, 'bob'):.1f} s at most, {max(stage.beyond):.2f} s beyond the next agent's start"
        )
        return wrong, stage


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--requests", type=int, default=30_000, help="at least so many in all")
    parser.add_argument("--rate", type=int, default=500, help="requests a second")
    args = parser.parse_args()
    cluster = Cluster.up(laptops=1)
    try:
        with installed(cluster), cluster.namespace(wait=False) as namespace:
            more = {
                "rate": args.rate,
                "threads": max(10, args.rate // 20),
                "slow": 4,
                "slow_seconds": 10.0,
                "most": 100,
            }
            wrong, _ = reach(cluster, namespace, restarts=args.restarts, requests=args.requests, **more)
    finally:
        cluster.down()
    for line in wrong[:100]:
        print(line)
    print(f"{len(wrong)} things are wrong" if wrong else "nothing is wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
