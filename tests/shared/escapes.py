"""Confines itself as the worker does, then tries every family of ways out: ``escapes.py UID [PYTHON]``.

Prints one JSON object: ``tries`` (by name: the errno, 0 for a way that is open), ``root`` (what it lists) and ``files``
(what can be opened), ``pid``, ``works`` (what a worker must be able to do with what it is handed), and which addresses of
``ESCAPE_TO`` (address:port, comma-separated) answered ``before`` and ``after``. ``PYTHON`` is run first: it may empty
``TRIES``. Run by tests as root, here or in the agent's container.
"""

import ctypes
import json
import os
import select
import socket
import struct
import sys
from pathlib import Path

from tpnet.proxy.confinement import confine

X86 = os.uname().machine == "x86_64"
AT_FDCWD = -100
# name: number on x86-64, number on arm64, arguments. asm/unistd_64.h, asm-generic/unistd.h
TRIES = {
    "socket tcp": (41, 198, (socket.AF_INET, socket.SOCK_STREAM, 0)),
    "socket tcp6": (41, 198, (socket.AF_INET6, socket.SOCK_STREAM, 0)),
    "socket udp": (41, 198, (socket.AF_INET, socket.SOCK_DGRAM, 0)),
    "socket unix": (41, 198, (socket.AF_UNIX, socket.SOCK_STREAM, 0)),
    "socket netlink": (41, 198, (16, socket.SOCK_RAW, 0)),
    "socket packet": (41, 198, (17, socket.SOCK_RAW, 0)),
    "socket raw": (41, 198, (socket.AF_INET, socket.SOCK_RAW, 6)),
    "socket alg": (41, 198, (38, socket.SOCK_SEQPACKET, 0)),
    "socket vsock": (41, 198, (40, socket.SOCK_STREAM, 0)),
    "socketpair": (53, 199, (socket.AF_UNIX, socket.SOCK_STREAM, 0, 0)),
    "unshare user": (272, 97, (0x10000000,)),
    "unshare user and net": (272, 97, (0x50000000,)),
    "unshare mount": (272, 97, (0x20000,)),
    "setns": (308, 268, (3, 0)),
    "mount": (165, 40, (b"none", b"/", b"tmpfs", 0, None)),
    "umount": (166, 39, (b"/", 2)),
    "fsopen": (430, 430, (b"tmpfs", 0)),
    "open_tree": (428, 428, (AT_FDCWD, b"/", 1)),
    "pivot_root": (155, 41, (b"/", b"/")),
    "chroot": (161, 51, (b"/",)),
    "io_uring_setup": (425, 425, (8, bytes(256))),
    "io_uring_enter": (426, 426, (3, 1, 0, 0, None, 0)),
    "io_uring_register": (427, 427, (3, 0, None, 0)),
    "ptrace": (101, 117, (16, 1, 0, 0)),
    "process_vm_readv": (310, 270, (1, None, 0, None, 0, 0)),
    "process_vm_writev": (311, 271, (1, None, 0, None, 0, 0)),
    "perf_event_open": (298, 241, (bytes(128), 0, -1, -1, 0)),
    "keyctl": (250, 219, (0, -3, 0)),
    "add_key": (248, 217, (b"user", b"x", b"y", 1, -3)),
    "userfaultfd": (323, 282, (0,)),
    "bpf program": (321, 280, (5, bytes(128), 128)),
    "bpf map": (321, 280, (0, bytes(128), 128)),
    "bpf lookup": (321, 280, (1, bytes(128), 128)),
    "bpf object": (321, 280, (7, bytes(128), 128)),
    "bpf link": (321, 280, (28, bytes(128), 128)),
    "open for writing": (257, 56, (AT_FDCWD, b"/new", os.O_WRONLY | os.O_CREAT, 0o600)),
    "open for reading": (257, 56, (AT_FDCWD, b"/", os.O_RDONLY, 0)),
    "open /proc": (257, 56, (AT_FDCWD, b"/proc/1/cmdline", os.O_RDONLY, 0)),
    "openat2": (437, 437, (AT_FDCWD, b"/", bytes(24), 24)),
    "memfd_create": (319, 279, (b"x", 0)),
    "memfd_secret": (447, 447, (0,)),
    "mkdirat": (258, 34, (AT_FDCWD, b"/new", 0o700)),
    "symlinkat": (266, 36, (b"/etc", AT_FDCWD, b"/new")),
    "mknodat": (259, 33, (AT_FDCWD, b"/new", 0o10600, 0)),
    "renameat2": (316, 276, (AT_FDCWD, b"/a", AT_FDCWD, b"/b", 0)),
    "unlinkat": (263, 35, (AT_FDCWD, b"/a", 0)),
    "stat": (262, 79, (AT_FDCWD, b"/", bytes(256), 0)),
    "execve": (59, 221, (b"/bin/sh", None, None)),
    "execveat": (322, 281, (AT_FDCWD, b"/bin/sh", None, None, 0)),
    "clone": (56, 220, (17, None, None, None, None)),
    "clone with namespaces": (56, 220, (0x10000000 | 17, None, None, None, None)),
    "clone3": (435, 435, (bytes(88), 88)),
    "kill": (62, 129, (-1, 0)),
    "tgkill": (234, 131, (1, 1, 0)),
    "pidfd_open": (434, 434, (1, 0)),
    "pidfd_getfd": (438, 438, (3, 0, 0)),
    "sendmsg": (46, 211, (-1, bytes(56), 0)),
    "sendmmsg": (307, 269, (-1, bytes(64), 1, 0)),
    "setsockopt mark": (54, 208, (3, socket.SOL_SOCKET, 36, bytes(4), 4)),
    "setsockopt ulp": (54, 208, (3, socket.IPPROTO_TCP, 31, b"tls", 3)),
    "setsockopt transparent": (54, 208, (3, socket.IPPROTO_IP, 19, bytes(4), 4)),
    "mmap of code": (9, 222, (None, 4096, 7, 0x22, -1, 0)),
    "mprotect to code": (10, 226, (None, 4096, 5)),
    "ioctl of a terminal": (16, 29, (0, 0x5412, b"x")),
    "prctl": (157, 167, (4, 1, 0, 0, 0)),
    "seccomp": (317, 277, (1, 0, bytes(16))),
    "setuid": (105, 146, (0,)),
    "setrlimit": (160, 164, (6, struct.pack("QQ", 9, 9))),
    "prlimit": (302, 261, (0, 6, struct.pack("QQ", 9, 9), None)),
    "init_module": (175, 105, (b"", 0, b"")),
    "reboot": (169, 142, (0, 0, 0, None)),
    "syslog": (103, 116, (3, bytes(64), 64)),
    "shmget": (29, 194, (0, 4096, 0o1600)),
    "name_to_handle_at": (303, 264, (AT_FDCWD, b"/", bytes(64), bytes(8), 0)),
    "open_by_handle_at": (304, 265, (AT_FDCWD, bytes(64), 0)),
    "landlock": (444, 444, (None, 0, 1)),
    "fanotify_init": (300, 262, (0, 0)),
    "inotify_init1": (294, 26, (0,)),
    "swapon": (167, 224, (b"/", 0)),
    "personality": (135, 92, (8,)),
}
LIBC = ctypes.CDLL(None, use_errno=True)


def tried(number, arguments):
    """The errno of a call, 0 when it succeeds."""
    call = LIBC["syscall"]
    call.restype = ctypes.c_long
    kept = [ctypes.create_string_buffer(one) if isinstance(one, bytes) else one for one in arguments]
    ctypes.set_errno(0)
    result = call(
        ctypes.c_long(number), *(ctypes.c_long(one) if isinstance(one, int) else one for one in kept)
    )
    if number == (56 if X86 else 220) and result == 0:
        os._exit(9)  # a child that should not be
    return ctypes.get_errno() if result < 0 else 0


def readable():
    """The paths that can be opened, of some that every node has."""
    found = []
    for path in ("/", "/proc", "/proc/1/cmdline", "/etc/passwd", "/dev/null", "/run", "/tmp", ".", ".."):
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_PATH):
            try:
                os.close(os.open(path, flags))
                found.append(path)
            except OSError:
                continue
    return found


def reached():
    """The addresses of ``ESCAPE_TO`` that take a connection."""
    found = []
    for address in filter(None, os.environ.get("ESCAPE_TO", "").split(",")):
        host, _, port = address.rpartition(":")
        try:
            with socket.socket() as sock:
                sock.settimeout(2)
                sock.connect((host, int(port)))
                found.append(address)
        except OSError:
            continue
    return found


def main():
    exec(sys.argv[2] if len(sys.argv) > 2 else "", globals())
    # What a supervisor hands over, made on the node's side.
    listener, client, upstream = (socket.socket() for _ in range(3))
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    app = socket.create_server(("127.0.0.1", 0))
    client.connect(listener.getsockname())
    before = reached()
    poll = select.epoll()
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    confine(int(sys.argv[1]), lambda: None)

    after, files = reached(), readable()
    try:
        root = [str(path) for path in Path("/").iterdir()]
    except PermissionError:
        root = []
    tries = {name: tried(x86 if X86 else arm, arguments) for name, (x86, arm, arguments) in TRIES.items()}
    if TRIES:
        tries["setns to the node"] = tried(308 if X86 else 268, (home, 0))
    works = []
    poll.register(listener.fileno(), select.EPOLLIN)
    if poll.poll(5) == [(listener.fileno(), select.EPOLLIN)]:
        works.append("epoll")
    served = listener.accept()[0]
    works.append("accepted")
    upstream.bind(("127.0.0.1", 0))
    upstream.connect(app.getsockname())
    behind = app.accept()[0]
    served.sendall(b"asked")
    if client.recv(5) == b"asked":
        works.append("answered")
    client.sendall(b"moved")
    read, write = os.pipe()
    os.splice(served.fileno(), write, 5)
    os.splice(read, upstream.fileno(), 5)
    if behind.recv(5) == b"moved":
        works.append("spliced")
    report = {
        "tries": tries,
        "root": root,
        "files": files,
        "pid": os.getpid(),
        "before": before,
        "after": after,
        "works": sorted(works),
    }
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
