"""What a machine's network namespaces hold of settings: tests compare it before tpnet was used, and after.

Addresses and the names of a pod's interfaces are left out, so that all pods of a deployment look alike, those that come later too.
"""

import ctypes
import re
import subprocess
from pathlib import Path

from tpnet.datapath.netns import NetNs
from tpnet.model import NotThere

_ADDRESS = re.compile(
    r"\b\d+\.\d+\.\d+\.\d+(/\d+)?|\b[0-9a-f]*:[0-9a-f:]+(/\d+)?|veth[0-9a-f]+|@if\d+|(?<=dev )\S+"
)
_OTHERWISE = {"tcp_fastopen_key"}  # of itself another in each namespace
_BPF, _PROG_QUERY, _SK_LOOKUP = 321, 16, 36  # bpf(2) of x86-64 and what it is asked; include/uapi/linux/bpf.h


def traces(*machines):
    """The set of what the namespaces of all processes on these machines look like, each a text."""
    return {_look_of(path) for machine in machines for path in _namespaces(machine).values()} - {""}


def _namespaces(machine):
    """The namespaces by inode, each as a path that leads to it."""
    found = {}
    for path in machine.proc.glob("[0-9]*/ns/net"):
        try:
            found[path.stat().st_ino] = path
        except OSError:
            continue  # its process has ended
    return found


def _look_of(path):
    try:
        with NetNs.from_path(str(path)) as netns:
            return netns.run(lambda: "\n".join(_look(netns)))
    except NotThere:
        return ""  # its process has ended


def _look(netns):
    for words in (
        ["ip", "-4", "rule"], ["ip", "-6", "rule"],
        ["ip", "-4", "route", "show", "table", "all"], ["ip", "-6", "route", "show", "table", "all"],
    ):  # fmt: skip
        said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        # The kernel's own come and go with addresses: IPv6's some seconds after a pod's start.
        kept = [line for line in said.splitlines() if "proto kernel" not in line]
        lines = sorted({" ".join(_ADDRESS.sub("", line).split()) for line in kept})
        yield from (f"{' '.join(words)}: {line}" for line in lines)
    said = subprocess.run(["ss", "-Hlntu"], capture_output=True, text=True, check=True).stdout
    ports = {(line.split()[0], int(line.split()[4].rpartition(":")[2])) for line in said.splitlines()}
    # Ours are below those that the kernel gives away; containerd has one of these, another each time.
    yield from (f"listens: {kind} {port}" for kind, port in sorted(ports) if port < 32768)
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    kinds = {re.sub(r"^veth.*", "veth", line.split(": ")[1].split("@")[0]) for line in links.splitlines()}
    yield f"links: {sorted(kinds)}"
    for folder in ("ipv4", "ipv4/conf/all", "ipv4/conf/default", "ipv6", "ipv6/conf/all"):
        for file in sorted(Path("/proc/sys/net", folder).iterdir()):
            if file.is_file() and file.name not in _OTHERWISE:
                yield f"{folder}/{file.name} = {_read(file)}"
    unix = Path("/proc/thread-self/net/unix").read_text()
    yield from sorted({f"socket {name}" for name in re.findall(r" @(tpnet\S*)", unix)})
    yield f"sk_lookup programs: {_programs(netns)}"


def _read(file):
    try:
        return file.read_text().strip()
    except OSError as error:
        return type(error).__name__


def _programs(netns):
    """How many sk_lookup programs are attached to a namespace (BPF_PROG_QUERY)."""
    ids = (ctypes.c_uint32 * 64)()
    query = (ctypes.c_uint32 * 8)(netns.fd, _SK_LOOKUP, 0, 0)
    ctypes.cast(ctypes.byref(query, 16), ctypes.POINTER(ctypes.c_uint64))[0] = ctypes.addressof(ids)
    query[6] = len(ids)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_BPF, _PROG_QUERY, ctypes.byref(query), ctypes.sizeof(query)) != 0:
        raise OSError(ctypes.get_errno(), "BPF_PROG_QUERY")
    return query[6]
