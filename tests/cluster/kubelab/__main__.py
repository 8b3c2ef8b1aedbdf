"""The lab's command line, for the Makefile: ``python -m kubelab build|up|down|list``; ``reap`` is the reaper's own."""

from __future__ import annotations

import argparse
import sys
import time

from kubelab import build, runs
from kubelab.cluster import AGENT_IMAGE, Cluster
from kubelab.images import Images
from kubelab.tools import REPOSITORY, RUNS, LabError


def main() -> int:
    """Do what the command line says; the exit code."""
    parser = argparse.ArgumentParser(prog="kubelab")
    calls = parser.add_subparsers(dest="call", required=True)
    calls.add_parser("build", help="build what the cluster is made of, unless it is in the cache")
    up = calls.add_parser("up", help="bring a cluster up that stands until `down`")
    up.add_argument("--laptops", type=int, default=2)
    up.add_argument("--dual", action="store_true", help="IPv6 beside IPv4")
    up.add_argument("--agent", action="store_true", help="with the agents' image on its nodes")
    up.add_argument("--user", nargs="*", default=[], metavar="NAME[:NAMESPACE]", help="who gets a kubeconfig")
    down = calls.add_parser("down", help="take clusters down: those of this checkout, or the one named")
    down.add_argument("lab", nargs="?")
    calls.add_parser("list", help="the clusters that stand")
    reap = calls.add_parser("reap")
    reap.add_argument("lab")
    args = parser.parse_args()
    try:
        {"build": make, "up": bring_up, "down": take_down, "list": show, "reap": watch}[args.call](args)
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def make(_args) -> None:
    """The programs, and the images that any cluster needs."""
    images = Images(build.programs())
    images.small()
    images.agent()


def bring_up(args) -> None:
    """Bring a cluster up and say how to use it."""
    began = time.monotonic()
    cluster = Cluster.up(laptops=args.laptops, dual=args.dual)
    runs.disown(cluster.folder)
    if args.agent:
        cluster.load_agent_image()
    kube = cluster.programs / "kube"
    print(
        f"cluster {cluster.id} is up after {time.monotonic() - began:.0f} s; it stands until `make cluster-down`"
    )
    print(f"  export KUBECONFIG={cluster.admin}")
    print(f"  {kube} kubectl get nodes")
    for machine in (cluster.control, *cluster.nodes, *cluster.laptops):
        print(
            f"  {cluster.address(machine):14} {machine.name:8} {' '.join(machine.enter('env', f'HOME={machine.home}', 'bash'))}"
        )
    if args.agent:
        print(f"  {AGENT_IMAGE} is on its nodes")
    for who in args.user:
        user, _, namespace = who.partition(":")
        path = cluster.kubeconfig(user, namespace=namespace).rename(cluster.folder / f"{user}.conf")
        print(f"  {user}, on a laptop: export KUBECONFIG={path}")
    print(f"  tests use it with TPNET_CLUSTER={cluster.id} in the environment")


def take_down(args) -> None:
    """One cluster, or all of this checkout that have no living owner."""
    if args.lab:
        runs.read_run(RUNS / args.lab)
        runs.destroy(RUNS / args.lab)
        return
    runs.sweep()
    for folder in runs.runs():
        record = runs.read_run(folder)
        if record["owner"] is None and record["checkout"] == str(REPOSITORY):
            runs.destroy(folder)
            print(f"cluster {folder.name} is gone")


def show(_args) -> None:
    """A line for each cluster."""
    for folder in runs.runs():
        record = runs.read_run(folder)
        owner = f"of process {record['owner']['pid']}" if record["owner"] else "stands"
        print(f"{record['lab']}  {owner:20} {'dual' if record['dual'] else 'ipv4'}  {record['checkout']}")


def watch(args) -> None:
    """The reaper."""
    runs.reap(RUNS / args.lab)


if __name__ == "__main__":
    sys.exit(main())
