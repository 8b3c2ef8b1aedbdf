"""Namespaces looked into from outside: packets lost without a word (nftables), what their sockets hold (ss)."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
from pathlib import Path

from tpnet.datapath.netns import NetNs
from tpnet.model import NotThere

TABLE = "tpnet_test"


@contextlib.contextmanager
def dropped(netns, what, hooks=("input", "output")):
    """Packets that a namespace sends or is sent, and that nftables' expression ``what`` matches, are lost."""
    chains = "".join(
        f"chain {hook} {{ type filter hook {hook} priority 0; {what} drop; }}\n" for hook in hooks
    )
    nft(netns, f"table inet {TABLE} {{\n{chains}}}")
    try:
        yield
    finally:
        nft(netns, f"delete table inet {TABLE}")


@contextlib.contextmanager
def large_dropped(length, *ends):
    """UDP packets of more bytes are lost between these namespaces: each where it arrives, for what is sent may be
    several packets as yet (UDP_SEGMENT), which are taken apart before a link of ``gso_max_segs`` 1."""
    with contextlib.ExitStack() as stack:
        for netns in ends:
            segments(netns, 1)
            stack.callback(segments, netns, 65_535)
            stack.enter_context(dropped(netns, f"meta l4proto udp meta length > {length}", ["input"]))
        yield


def segments(netns, most):
    """How many segments a namespace's links take at once."""
    with netns.entered():
        names = [name for _, name in socket.if_nameindex() if name != "lo"]
        for name in names:
            subprocess.run(["ip", "link", "set", "dev", name, "gso_max_segs", str(most)], check=True)


def between(port, socks):
    """nftables' expression for what passes between a port and these sockets, either way."""
    ports = ", ".join([str(port), *(str(sock.getsockname()[1]) for sock in socks)])
    return f"meta l4proto tcp th dport {{ {ports} }} th sport {{ {ports} }}"


def nft(netns, rules):
    with netns.entered():
        done = subprocess.run(["nft", "-f", "-"], input=rules, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def namespaces(*pids):
    """Every network namespace that these processes are in, or hold by a descriptor; each once."""
    found = {}
    with contextlib.ExitStack() as stack:
        for pid in pids:
            paths = [Path(f"/proc/{pid}/ns/net"), *Path(f"/proc/{pid}/fd").iterdir()]
            for path in paths:
                with contextlib.suppress(NotThere, OSError):
                    if str(path.readlink()).startswith(("net:", "/run/netns", "/proc")):
                        netns = stack.enter_context(NetNs.from_path(path))
                        found.setdefault(netns.key, netns)
        yield list(found.values())


def tcp_sockets(netns, *more):
    """ss's lines, one a connection, numeric and without names."""
    with netns.entered():
        done = subprocess.run(["ss", "-tnOH", *more], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def sent_again(netns):
    """How many SYN packets a namespace has had to send again, each after a second of silence."""
    names, values = (
        line.split()
        for line in netns.run(Path("/proc/thread-self/net/netstat").read_text).splitlines()
        if line.startswith("TcpExt:")
    )
    return int(values[names.index("TCPSynRetrans")])


def held_by_kernel(netns, pid):
    """Bytes that the kernel holds for a process's TCP sockets in a namespace (skmem's r, f and w)."""
    total = 0
    for line in tcp_sockets(netns, "-mp"):
        if f"pid={pid}," in line:
            skmem = re.search(r"skmem:\(r(\d+),rb\d+,t\d+,tb\d+,f(\d+),w(\d+)", line)
            assert skmem, line
            total += sum(map(int, skmem.groups()))
    return total
