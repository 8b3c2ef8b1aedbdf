"""A WireGuard device made by ``wireguard-go``, a child process, and set up over its UAPI socket.

``tpnet.tunnel.device.open_device`` calls this. The protocol: https://www.wireguard.com/xplatform/. It must
never log what ``get=1`` answers, since that holds the private key.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from ipaddress import IPv6Address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from tpnet.datapath.netns import NetNs
from tpnet.kernel import confined
from tpnet.kernel import uids as users
from tpnet.kernel.uids import WORKER_UIDS
from tpnet.tunnel import tun
from tpnet.tunnel.buffers import widen
from tpnet.tunnel.device import DeviceError, Endpoint, PeerStats, new_name
from tpnet.tunnel.keys import check_public_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tpnet.tunnel.keys import KeyPair

_log = logging.getLogger(__name__)
_START_SECONDS = 5.0
_CALL_SECONDS = 2.0
_UP_SECONDS = 5.0
_LOG_BYTES = 64 * 1024
_ADDRESS = b"\0wireguard-go"
"""The name of its socket in a network namespace that nobody else enters: who can connect is told the private key."""
_QUEUE = 16
_MOST_ANSWERED = 16 << 20  # it reads the network's bytes: what it answers is not believed to end
_OFFLOAD_SINCE = 20230300
"""Versions of that day and later expect an interface of packets that may be several in one."""
_VERSION = re.compile(rb"wireguard-go v?0\.0\.([0-9]{8})")
_ERRNO = re.compile("-?[0-9]{1,6}")


class WireGuardGo:
    """The ``WireGuardDevice`` of kernels that lack WireGuard.

    The child gets SIGTERM when the thread that made it ends (prctl(2), PR_SET_PDEATHSIG): so it must be
    made by a process's main thread. Should the child miss that signal, it ends all the same once its
    interface is gone with the namespace that its owner held.
    """

    kind = "wireguard-go"

    def __init__(self, uids: range = WORKER_UIDS) -> None:
        """``uids``: users, of which the child becomes one."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                "wireguard-go ends with the thread that starts it: start it from the main thread"
            )
        binary = find_program()
        if binary is None:
            raise DeviceError(
                "There is no WireGuard: the kernel lacks it, and wireguard-go is not installed.",
                "Install it: apt-get install wireguard-go",
            )
        self.name = new_name()
        self.watch = -1
        with contextlib.ExitStack() as undo:
            self._room = NetNs.anonymous("wireguard-go")
            undo.callback(self._room.close)
            self._log = _bounded_log()
            undo.callback(os.close, self._log)
            self._child = self._start(binary, _user(uids))
            undo.pop_all()
        try:
            self.watch = os.pidfd_open(self._child.pid)
            self._wait_until_it_answers()
        except BaseException:
            self.close()
            raise

    def _start(self, binary: str, user: int) -> subprocess.Popen[bytes]:
        offload = _takes_offload(binary)
        with tun.interface(self.name, offload=offload) as device, _listener(self._room) as uapi:
            # A process on the way, not preexec_fn: Python between fork and exec may deadlock where there are threads.
            return subprocess.Popen(
                confined.command("device", binary, "--foreground", self.name, user=user),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env={
                    "PATH": os.environ.get("PATH", os.defpath),
                    "LOG_LEVEL": "error",
                    "WG_TUN_FD": str(device),
                    "WG_UAPI_FD": str(uapi),
                },
                pass_fds=(device, uapi),
                cwd="/",
            )

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    def entered(self, ns: NetNs) -> None:
        """Nothing to do: its socket is in a namespace of its own."""

    def configure(self, keys: KeyPair, port: int) -> int:
        """See ``WireGuardDevice``."""
        self._set([f"private_key={keys.private_bytes().hex()}"])
        # The daemon looks once a second whether its link is up (it cannot hear of it across namespaces),
        # and only then binds a UDP socket. A port that is set before that would fail unseen.
        deadline = time.monotonic() + _UP_SECONDS
        while not (bound := self._listen_port()):
            if time.monotonic() > deadline:
                raise DeviceError(f"wireguard-go did not bring {self.name} up.{self._last_words()}")
            time.sleep(0.01)
        if port and bound != port:
            try:
                self._call(["set=1", f"listen_port={port}"])
            except OSError as error:
                raise DeviceError(
                    f"WireGuard cannot use UDP port {port}: {error.strerror}.",
                    f"See who has it: ss -lunp 'sport = {port}'",
                ) from error
            bound = self._listen_port()
        widen(self.pid, self.watch)
        return bound

    def move_away(self, port: int = 0) -> int:
        """See ``WireGuardDevice``."""
        try:
            self._set([f"listen_port={port}"])
        except DeviceError:
            self._set(["listen_port=0"])
        widen(self.pid, self.watch)
        return self._listen_port()

    def set_peer(
        self, public_key: str, allowed: IPv6Address, *, endpoint: Endpoint | None = None, keepalive: int = 0
    ) -> None:
        """See ``WireGuardDevice``."""
        lines = [f"public_key={check_public_key(public_key).hex()}"]
        if endpoint is not None:
            host, port = endpoint
            lines.append(f"endpoint=[{host}]:{port}" if ":" in host else f"endpoint={host}:{port}")
        lines += [
            f"persistent_keepalive_interval={keepalive}",
            "replace_allowed_ips=true",
            f"allowed_ip={allowed}/128",
        ]
        self._set(lines)

    def remove_peer(self, public_key: str) -> None:
        """See ``WireGuardDevice``."""
        self._set([f"public_key={check_public_key(public_key).hex()}", "update_only=true", "remove=true"])

    def peers(self) -> dict[str, PeerStats]:
        """See ``WireGuardDevice``."""
        try:
            return parse_peers(self._get())
        except ValueError as error:
            raise DeviceError(f"wireguard-go answers what cannot be understood: {error}.") from error

    def alive(self) -> bool:
        """See ``WireGuardDevice``."""
        return self._child.poll() is None

    def close(self) -> None:
        """See ``WireGuardDevice``. Waits until the child has gone."""
        if self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(2)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        self._room.close()
        for fd in (self._log, self.watch):
            if fd >= 0:
                os.close(fd)
        self._log = self.watch = -1

    def _wait_until_it_answers(self) -> None:
        try:
            self._call(["get=1"], _START_SECONDS)
        except TimeoutError as error:
            raise DeviceError(
                f"wireguard-go did not answer within {_START_SECONDS:.0f} s.{self._last_words()}"
            ) from error
        except OSError as error:
            raise DeviceError(f"wireguard-go cannot be asked: {error.strerror}.") from error

    def _listen_port(self) -> int:
        found = next((value for key, value in self._get() if key == "listen_port"), "0")
        return int(found) if found.isdecimal() else 0

    def _set(self, lines: list[str]) -> None:
        try:
            self._call(["set=1", *lines])
        except OSError as error:
            raise DeviceError(
                f"wireguard-go refused a setting of {self.name}: {error.strerror or error}."
            ) from error

    def _get(self) -> list[tuple[str, str]]:
        try:
            return self._call(["get=1"])
        except OSError as error:
            raise DeviceError(
                f"wireguard-go does not answer for {self.name}: {error.strerror or error}."
            ) from error

    def _call(self, lines: list[str], seconds: float = _CALL_SECONDS) -> list[tuple[str, str]]:
        """One request, one answer. Raises ``OSError`` with its errno; ``DeviceError`` if it is dead."""
        answer = b""
        if self._log < 0:
            raise DeviceError(f"The WireGuard device {self.name} is closed.")
        with self._room.run(_unix_socket) as connection:
            connection.settimeout(seconds)
            try:
                connection.connect(_ADDRESS)
                connection.sendall("\n".join([*lines, "", ""]).encode())
                while not answer.endswith(b"\n\n") and len(answer) < _MOST_ANSWERED:
                    chunk = connection.recv(65536)
                    if not chunk:
                        break
                    answer += chunk
            except TimeoutError:
                raise
            except OSError as error:
                # It has closed its end, and is ending.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._child.wait(_CALL_SECONDS)
                raise DeviceError(f"wireguard-go has died.{self._last_words()}") from error
        return read_answer(answer)

    def _last_words(self) -> str:
        """What the daemon wrote last, as a sentence to be put behind another."""
        text = os.pread(self._log, _LOG_BYTES, 0).rstrip(b"\0").decode(errors="replace").strip()
        return f" It said: {text.splitlines()[-1]}" if text else ""


def find_program() -> str | None:
    """The ``wireguard-go`` of this Python's environment, which is of a pinned version, or else the machine's."""
    own = str(Path(sys.executable).parent)
    return shutil.which("wireguard-go", path=own) or shutil.which("wireguard-go")


@functools.lru_cache
def _takes_offload(binary: str) -> bool:
    """Whether this wireguard-go is of a version that does; one that does not say which is taken for an old one."""
    try:
        said = subprocess.run(
            [binary, "--version"], capture_output=True, timeout=_START_SECONDS, check=False
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    found = _VERSION.search(said)
    return found is not None and int(found[1]) >= _OFFLOAD_SINCE


def _user(uids: range) -> int:
    """The user that the child becomes. Where this process is not root, it cannot become another."""
    if os.geteuid():
        return 0
    if (user := users.unused(uids)) is not None:
        return user
    _log.warning("every user from %s to %s is a process's of this node", uids[0], uids[-1])
    return uids[0]


@contextlib.contextmanager
def _listener(room: NetNs) -> Iterator[int]:
    """The descriptor of a Unix socket that listens in the room. Raises ``DeviceError``."""
    try:
        with room.run(_unix_socket) as listener:
            listener.bind(_ADDRESS)
            listener.listen(_QUEUE)
            yield listener.fileno()
    except OSError as error:
        raise DeviceError(f"wireguard-go cannot be started: {error.strerror}.") from error


def _unix_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)


def read_answer(answer: bytes) -> list[tuple[str, str]]:
    """Keys and values of an answer. Raises ``OSError`` with the errno in it, or EPROTO for what is no answer."""
    lines = (line.partition("=") for line in answer.decode(errors="replace").split("\n"))
    pairs = [(key, value) for key, _, value in lines if key]
    said = dict(pairs).get("errno", "")
    code = int(said.removeprefix("-")) if _ERRNO.fullmatch(said) else errno.EPROTO
    if code:
        raise OSError(code, os.strerror(code))
    return pairs


def parse_peers(pairs: Iterable[tuple[str, str]]) -> dict[str, PeerStats]:
    """The peers in an answer to ``get=1``: the lines after each ``public_key`` are that peer's. Raises ``ValueError``."""
    found: dict[str, PeerStats] = {}
    peer: dict[str, str] = {}

    def finish() -> None:
        if not peer:
            return
        key = b64encode(bytes.fromhex(peer["public_key"])).decode()
        host, _, port = peer.get("endpoint", "").rpartition(":")
        allowed = peer.get("allowed_ip")
        network = ip_network(allowed) if allowed else None
        found[key] = PeerStats(
            public_key=key,
            allowed=network.network_address
            if network and isinstance(network.network_address, IPv6Address)
            else None,
            endpoint=(host.strip("[]"), int(port)) if host else None,
            last_handshake=int(peer.get("last_handshake_time_sec", 0))
            + int(peer.get("last_handshake_time_nsec", 0)) / 1e9,
            rx=int(peer.get("rx_bytes", 0)),
            tx=int(peer.get("tx_bytes", 0)),
        )

    for key, value in pairs:
        if key == "public_key":
            finish()
            peer = {}
        if peer or key == "public_key":
            peer[key] = value
    finish()
    return found


def _bounded_log() -> int:
    """A file in memory that takes the daemon's first 64 KiB of messages and refuses more: it never grows."""
    log = os.memfd_create("tpnet-wireguard-go", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(log, _LOG_BYTES)
    fcntl.fcntl(log, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
    return log
