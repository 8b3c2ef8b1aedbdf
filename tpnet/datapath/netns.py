"""Network namespaces by file descriptor: find them, do something inside, make sockets there.

Called by every part that touches a target. Only two things ever happen inside a foreign namespace: a function
in a thread made for it, and the few system calls of ``entered``, which never yields to other code of this
process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from tpnet.kernel.libc import CLONE_NEWNET, MS_BIND, enter_netns, mount, new_netns
from tpnet.model import NotThere, Refused, TpnetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")
_ABORT = b"tpnet: cannot return from a network namespace\n"

NAMED = Path("/run/netns")
"""Where ``ip netns add`` puts its names."""

_NS_GET_NSTYPE = 0xB703
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


class NetNs:
    """One network namespace, kept alive by the descriptor ``fd``, which this object owns.

    ``key`` (device, inode) is equal for two objects of the same namespace, however it was named; compare by
    that. ``label`` is for people.
    """

    __slots__ = ("fd", "key", "label")

    def __init__(self, fd: int, label: str) -> None:
        self.fd = fd
        self.label = label
        status = os.fstat(fd)
        self.key = (status.st_dev, status.st_ino)

    @classmethod
    def from_path(cls, path: str | Path, label: str = "") -> Self:
        """The namespace that a file stands for, as /run/netns/NAME or /proc/PID/ns/net.

        Raises ``NotThere`` when there is no such file or it is something else.
        """
        label = label or str(path)
        try:
            fd = os.open(path, _OPEN)
        except OSError as error:
            raise NotThere(f"There is no network namespace {label} ({path}: {error.strerror}).") from error
        try:
            kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
        except OSError:
            kind = 0
        if kind != CLONE_NEWNET:
            os.close(fd)
            raise NotThere(
                f"{path} is not a network namespace.",
                "A name whose namespace is gone leaves an empty file behind; ip netns delete removes it.",
            )
        return cls(fd, label)

    @classmethod
    def from_name(cls, name: str) -> Self:
        """The namespace that ``ip netns`` knows by this name. Raises ``NotThere``."""
        return cls.from_path(NAMED / name, f"netns/{name}")

    @classmethod
    def from_pid(cls, pid: int, label: str = "") -> Self:
        """The namespace that a process is in. Raises ``NotThere``."""
        return cls.from_path(f"/proc/{pid}/ns/net", label or f"pid/{pid}")

    @classmethod
    def own(cls) -> Self:
        """The namespace of the calling thread."""
        return cls.from_path("/proc/thread-self/ns/net", "own")

    @classmethod
    def anonymous(cls, label: str) -> NetNs:
        """A new namespace that nothing but the returned object holds: it vanishes with it. ``lo`` is down.

        Raises ``Refused`` without CAP_SYS_ADMIN.
        """

        def make() -> NetNs:
            try:
                new_netns()
            except OSError as error:
                raise _refused(error, "make a network namespace") from error
            return cls.from_path("/proc/thread-self/ns/net", label)

        return _in_thread(make)

    def bind(self, path: Path) -> None:
        """Let a new file stand for the namespace, which holds it: ``ip netns`` knows those in ``NAMED``.

        Raises ``OSError``.
        """
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
        try:
            mount(f"/proc/self/fd/{self.fd}", str(path), MS_BIND)
        except OSError as error:
            path.unlink()
            raise OSError(error.errno, error.strerror, str(path)) from error

    @property
    def inode(self) -> int:
        """The number that ``ls -l /proc/PID/ns/net`` and ``lsns`` show."""
        return self.key[1]

    def is_host(self) -> bool:
        """Whether it is the calling thread's namespace or process 1's: a redirect would hit the machine.

        Not to be asked inside ``run`` or ``entered``. The main thread's, /proc/self, would be the wrong one to
        compare with while that thread is elsewhere for an instant.
        """
        return self.key in {key_at("/proc/thread-self/ns/net"), key_at("/proc/1/ns/net")}

    def run(self, func: Callable[[], T]) -> T:
        """Call ``func`` inside, in a thread of its own (0.1 ms), and give what it returns or raises.

        There /proc/thread-self/net and /proc/sys/net are the namespace's too. Blocks until ``func`` is done.
        """

        def inside() -> T:
            _setns(self.fd, self.label)
            return func()

        return _in_thread(inside)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is inside while the block runs. A few system calls, no await or callback.

        Raises ``Refused`` without CAP_SYS_ADMIN.
        """
        home = os.open("/proc/thread-self/ns/net", _OPEN)
        try:
            _setns(self.fd, self.label)
            try:
                yield
            finally:
                try:
                    enter_netns(home)
                except OSError:
                    # To go on in the wrong namespace would be to mistake somebody's pod for the machine.
                    os.write(2, _ABORT)
                    os.abort()
        finally:
            os.close(home)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket made inside (20 us); the calling thread is back when this returns. Raises ``OSError``."""
        with self.entered():
            return socket.socket(family, kind, protocol)

    def close(self) -> None:
        """Let go of the namespace. Further calls do nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"NetNs({self.label!r}, inode={self.inode})"


def streams(netns: NetNs, family: int, count: int) -> list[socket.socket]:
    """Non-blocking TCP sockets made inside a namespace, which send at once: ``count``, or as many as there is room for.

    Raises ``OSError`` when there is none: EMFILE, ENFILE out of descriptors; EAFNOSUPPORT.
    """
    made: list[socket.socket] = []
    with netns.entered():
        try:
            while len(made) < count:
                made.append(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        except OSError:
            if not made:
                raise
    for sock in made:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def all_namespaces() -> list[NetNs]:
    """Every network namespace that has a name or a process, but the host's. The caller closes them.

    Ordered: named ones first. What vanishes while this looks is left out.
    """
    paths = [(str(path), f"netns/{path.name}") for path in sorted(NAMED.glob("*"))]
    paths += [(f"/proc/{pid}/ns/net", f"pid/{pid}") for pid in processes()]
    found: dict[tuple[int, int], NetNs] = {}
    for path, label in paths:
        with contextlib.suppress(OSError, TpnetError):
            if key_at(path) in found:
                continue
            netns = NetNs.from_path(path, label)
            if netns.key in found or netns.is_host():
                netns.close()
            else:
                found[netns.key] = netns
    return list(found.values())


def processes() -> list[int]:
    """The ids of all processes that /proc shows, ascending."""
    return sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def key_at(path: str | Path) -> tuple[int, int] | None:
    """``NetNs.key`` of the namespace that a file stands for now; ``None`` when there is no such file."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino)


def _setns(fd: int, label: str) -> None:
    try:
        enter_netns(fd)
    except OSError as error:
        raise _refused(error, f"enter the network namespace {label}") from error


def _refused(error: OSError, what: str) -> TpnetError:
    if error.errno == errno.EPERM:
        return Refused(
            f"This process may not {what}.",
            "Run the agent as root; in a container, privileged or with CAP_SYS_ADMIN.",
        )
    return TpnetError(f"Could not {what}: {error.strerror}.")


def _in_thread(func: Callable[[], T]) -> T:
    result: list[T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            result.append(func())
        except BaseException as error:  # noqa: BLE001  whatever it is, it belongs to the caller
            failure.append(error)

    thread = threading.Thread(target=body, name="netns")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]
