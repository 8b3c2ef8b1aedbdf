"""``tpnet lab up`` and ``down``: build the lab, and remove exactly what was built.

The commands, the demo and the tests call it. It must never touch what is not in its record or in its
namespaces, and what it leaves after a ``kill -9`` in the midst must be such that ``down`` removes it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tpnet.datapath.netns import NAMED, NetNs
from tpnet.model import Conflict, NotThere, Refused, TpnetError
from tpnet_cli.lab import processes
from tpnet_cli.lab.network import connect, make_namespace, remove_namespace
from tpnet_cli.lab.plan import HANDLER_PORT, LAPTOPS, NODE, PLACES, SHOP_PORT, SHOPS, LabPaths, hosts_text
from tpnet_cli.lab.record import Record, load
from tpnet_cli.lab.shop import find_nginx, prepare_shop

if TYPE_CHECKING:
    from collections.abc import Callable

    from tpnet_cli.lab.processes import Process

_SERVER_PATIENCE = 10.0
_AGENT_PATIENCE = 30.0
_GRACE = 8.0
"""Seconds that an agent or a session may take to leave in good order."""


def up(paths: LabPaths, said: Callable[[str, str], None] = lambda *_: None) -> Record:
    """Build a lab. ``said(name, text)`` is called as each part stands.

    Raises ``Refused`` without root, ``NotThere`` without nginx, ``Conflict`` when it or one of its names is
    there already, ``TpnetError`` when a part does not come up; what was built is removed before.
    """
    if os.geteuid() != 0:
        raise Refused("Only root may make network namespaces.", "Run it as root: sudo tpnet lab up")
    find_nginx()
    record = _begin(paths)
    try:
        _build(paths, record, said)
    except BaseException:
        down(paths)
        raise
    return record


def down(paths: LabPaths) -> None:
    """Remove a lab: its processes, its namespaces, its files. Raises ``NotThere`` when there is none."""
    record = load(paths)
    laptops = [paths.netns(place.name) for place in LAPTOPS]
    node = paths.netns(NODE.name)
    # Sessions leave while the agent can still hear them; the agent leaves before the services do.
    for names in (laptops, [node], list(record.namespaces)):
        inodes = [inode for name in names if (inode := _inode(name, record))]
        processes.end([process for inode in inodes for process in processes.processes_in(inode)], _GRACE)
    processes.end(record.processes, _GRACE)
    for name, inode in record.namespaces.items():
        remove_namespace(name, inode)
    shutil.rmtree(paths.root, ignore_errors=True)
    with contextlib.suppress(OSError):
        paths.root.parent.rmdir()  # succeeds with the last lab


def environment(paths: LabPaths, place: str) -> dict[str, str]:
    """The environment of a command in a place: the lab's agent, the developer's name and folders."""
    env = {**os.environ, "TPNET_RUN_DIR": str(paths.run_dir), "TPNET_LAB": paths.name, "TPNET_PLACE": place}
    env["PATH"] = f"{Path(sys.executable).parent}:{env.get('PATH') or os.defpath}"
    env["TPNET_STATE_DIR"] = str(paths.root / place / "state")
    env["TPNET_USER"] = place
    env.setdefault("TPNET_CACHE_DIR", str(paths.root / "cache"))
    return env


def tpnet_command(*args: str) -> list[str]:
    """The command line of this very ``tpnet``."""
    return [sys.executable, "-m", "tpnet_cli", *args]


def open_place(paths: LabPaths, place: str) -> NetNs:
    """The namespace of a place. Raises ``NotThere`` when the lab is not up."""
    load(paths)
    return NetNs.from_name(paths.netns(place))


def _begin(paths: LabPaths) -> Record:
    if paths.record.exists():
        record = load(paths)
        state = "is up already" if record.complete else "was begun and never finished"
        raise Conflict(
            f"The lab {paths.name} {state}.", f"Remove it first: tpnet lab down --name {paths.name}"
        )
    names = [paths.netns(place) for place in PLACES]
    taken = [name for name in names if (NAMED / name).exists()]
    if taken:
        raise Conflict(
            f"These network namespaces are there already, and are not this lab's: {', '.join(taken)}.",
            "Choose another name: tpnet lab up --name NAME",
        )
    paths.run_dir.mkdir(parents=True, exist_ok=True)
    paths.hosts.write_text(hosts_text())
    record = Record(paths.name, dict.fromkeys(names, 0))
    record.save(paths)
    return record


def _build(paths: LabPaths, record: Record, said: Callable[[str, str], None]) -> None:
    for name in record.namespaces:
        try:
            record.namespaces[name] = make_namespace(name)
        except OSError as error:
            raise TpnetError(
                f"The network namespace {name} cannot be made: {os.strerror(error.errno or 0)}.",
                "The lab needs root with CAP_SYS_ADMIN; in a container, a privileged one.",
            ) from error
    record.save(paths)
    connect(paths)
    said("network", f"{len(record.namespaces)} namespaces, {paths.name}-*")

    for shop in SHOPS:
        argv = prepare_shop(paths.root / shop.name, shop.name)
        _start(paths, record, shop.name, shop.name, argv, SHOP_PORT)
    said("shop", f"2 replicas of nginx on port {SHOP_PORT}: {', '.join(shop.ipv4 for shop in SHOPS)}")

    for laptop in LAPTOPS:
        argv = [sys.executable, "-m", "tpnet_cli.lab.handler", laptop.name, str(HANDLER_PORT)]
        _start(paths, record, laptop.name, f"{laptop.name}-handler", argv, HANDLER_PORT)
    said(
        "laptops",
        f"{' and '.join(laptop.name for laptop in LAPTOPS)}, each with a handler on 127.0.0.1:{HANDLER_PORT}",
    )

    _start_agent(paths, record)
    said("agent", "runs on the node")
    record.complete = True
    record.save(paths)


def _start(paths: LabPaths, record: Record, place: str, what: str, argv: list[str], port: int) -> None:
    with NetNs.from_name(paths.netns(place)) as netns:
        process = _spawn(paths, record, netns, place, what, argv)
        if not processes.wait_until(lambda: _listens(netns, port), process, _SERVER_PATIENCE):
            raise TpnetError(
                f"{what} does not listen on port {port} in {paths.netns(place)}.", _tail(paths.log(what))
            )


def _start_agent(paths: LabPaths, record: Record) -> None:
    from tpnet.control.local import LocalControl

    argv = tpnet_command("agent", "run", "--local", "--run-dir", str(paths.run_dir))
    with NetNs.from_name(paths.netns(NODE.name)) as netns, LocalControl(paths.run_dir) as control:
        process = _spawn(paths, record, netns, NODE.name, "agent", argv)

        def answers() -> bool:
            try:
                control.info()
            except NotThere:
                return False
            return True

        if not processes.wait_until(answers, process, _AGENT_PATIENCE):
            raise TpnetError("The lab's agent did not come up.", _tail(paths.log("agent")))


def _spawn(paths: LabPaths, record: Record, netns: NetNs, place: str, what: str, argv: list[str]) -> Process:
    process = processes.start(netns, what, argv, environment(paths, place), paths.log(what))
    record.processes.append(process)
    record.save(paths)
    return process


def _listens(netns: NetNs, port: int) -> bool:
    with netns.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _tail(log: Path, lines: int = 5) -> str:
    try:
        text = log.read_text(errors="replace").splitlines()[-lines:]
    except OSError:
        return ""
    return "\n".join(["Its last words:", *text]) if text else "It said nothing."


def _inode(name: str, record: Record) -> int:
    """The inode that a name of the lab stands for, 0 when it no longer stands for what the lab made.

    A recorded 0 is a namespace that was being made when the making of its lab ended.
    """
    try:
        with NetNs.from_name(name) as netns:
            return netns.inode if record.namespaces.get(name) in {0, netns.inode} else 0
    except TpnetError:
        return 0
