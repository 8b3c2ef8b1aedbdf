"""What the demonstration is played with: real requests, real commands, and a check of each.

``tpnet_cli.lab.story`` calls it. It must never report what it has not seen: who answered is read from the
answer, what the shop saw from the shop's own access log.
"""

from __future__ import annotations

import http.client
import re
import shlex
import socket
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.text import Text

from tpnet.datapath.netns import NetNs
from tpnet.model import TpnetError
from tpnet_cli.lab.build import environment, tpnet_command
from tpnet_cli.lab.network import switch_port
from tpnet_cli.lab.plan import PLACES, SHOP_PORT, SHOPS, LabPaths
from tpnet_cli.tables import ALWAYS, Column, make_table
from tpnet_cli.terminal import BROKEN, OK, mark, show

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

_COMMAND_SECONDS = 90.0
_REQUEST_SECONDS = 10.0
_LOG_SECONDS = 2.0
_ANSWERED = re.compile(r"(?:(?P<laptop>[a-z]+)'s laptop|(?P<shop>shop-[0-9]+)): ")
_COLUMNS = (
    Column("", ALWAYS),
    Column("FROM", ALWAYS),
    Column("REQUEST", ALWAYS, least=12),
    Column("HEADER", 80, least=10),
    Column("ANSWERED BY", ALWAYS),
    Column("THE SHOP SAW", ALWAYS),
)


@dataclass(frozen=True, slots=True)
class Request:
    """A request of the story. ``client`` and ``shop`` are places; the family is chosen by ``ipv6``."""

    client: str
    shop: str
    path: str = "/"
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "GET"
    ipv6: bool = False

    @property
    def source(self) -> str:
        """The address that the client has."""
        place = PLACES[self.client]
        return place.ipv6 if self.ipv6 else place.ipv4


@dataclass(frozen=True, slots=True)
class Answer:
    """Who answered (``bob``, ``shop-1``, or what went wrong), and the client that the shops' logs name."""

    by: str
    peer: str
    seconds: float


class Stage:
    """A lab, and a count of what was expected. ``close`` lets go of the lab's namespaces."""

    def __init__(self, paths: LabPaths, console: Console) -> None:
        self.paths = paths
        self.console = console
        self.expected = 0
        self.failures: list[str] = []
        self._spaces = {name: NetNs.from_name(paths.netns(name)) for name in PLACES}
        self._scene = 0
        self._rows: list[list[str | Text]] = []

    def close(self) -> None:
        """Let go of the namespaces."""
        for netns in self._spaces.values():
            netns.close()

    def scene(self, title: str) -> None:
        """Begin a scene."""
        self.end_scene()
        show(Text.assemble("\n", (f"{self._scene}  {title}", "bold cyan")), self.console)
        self._scene += 1

    def end_scene(self) -> None:
        """Show the requests since the last table."""
        if self._rows:
            show(make_table(_COLUMNS, self._rows, min(self.console.width, 100)), self.console)
            self._rows = []

    def tpnet(self, place: str, *args: str, quiet: bool = False) -> str:
        """Run a ``tpnet`` command in a place, show it and its first lines; gives all of its stdout.

        A command that fails is a failed expectation.
        """
        self.end_scene()
        if not quiet:
            shown = shlex.join(["tpnet", *args])
            line = Text.assemble((f"   {place}$ ", "dim"), (shown, "bold"), no_wrap=True, overflow="ignore")
            show(line, self.console)
        try:
            done = self._spaces[place].run(
                lambda: subprocess.run(
                    tpnet_command(*args),
                    env={**environment(self.paths, place), "NO_COLOR": "1"},
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=_COMMAND_SECONDS,
                    check=False,
                )
            )
        except subprocess.TimeoutExpired as error:
            raise TpnetError(
                f"tpnet {shlex.join(args)} did not end within {_COMMAND_SECONDS:.0f} s."
            ) from error
        if not quiet:
            for said in (done.stdout.split("\n\n")[0] + done.stderr).splitlines():
                show(Text(f"   {said}", style="dim"), self.console)
        self.check(
            done.returncode == 0,
            f"tpnet {shlex.join(args)} exited with {done.returncode}: {done.stderr.strip()}",
        )
        return done.stdout

    def expect(self, request: Request, by: str) -> None:
        """Send a request; ``by`` must answer it, and a shop must have seen the client's own address."""
        answer = self.send(request)
        peer = request.source if by.startswith("shop") else ""
        good = (answer.by, answer.peer) == (by, peer)
        header = ", ".join(f"{name}: {_short(value)}" for name, value in request.headers.items())
        self._rows.append(
            [
                Text.assemble("   ", mark(OK if good else BROKEN)),
                request.client,
                f"{request.method} {request.shop}{request.path}",
                header,
                Text(answer.by, style="cyan" if not answer.by.startswith("shop") else ""),
                answer.peer or Text("no request", style="dim"),
            ]
        )
        wanted = f"{by}, seen from {peer}" if peer else by
        got = f"{answer.by}, seen from {answer.peer}" if answer.peer else answer.by
        self.check(
            good,
            f"{request.client}: {request.method} {request.shop}{request.path} ({header}): {wanted} "
            f"was expected, {got} came",
        )

    def check(self, holds: bool, otherwise: str) -> None:
        """Count an expectation; ``otherwise`` is said when it does not hold."""
        self.expected += 1
        if not holds:
            self.failures.append(otherwise)

    def say(self, text: str, good: bool = True) -> None:
        """A line of the story."""
        self.end_scene()
        show(Text.assemble("   ", mark(OK if good else BROKEN), f" {text}"), self.console)

    def send(self, request: Request) -> Answer:
        """Send a request over a connection of its own, and look into the shops' logs."""
        before = {shop.name: self._log_size(shop.name) for shop in SHOPS}
        begun = time.monotonic()
        by = self._ask(request)
        seconds = time.monotonic() - begun
        return Answer(by, self._peers(before, patient=by.startswith("shop")), seconds)

    def ask(self, request: Request) -> Answer:
        """Send a request, and leave the logs alone: quick enough to be done many times a second."""
        begun = time.monotonic()
        return Answer(self._ask(request), "", time.monotonic() - begun)

    def ask_until(self, request: Request, by: str, seconds: float) -> tuple[list[Answer], float]:
        """Ask again until ``by`` answers or the time is over; gives all answers and the time it took."""
        begun = time.monotonic()
        answers: list[Answer] = []
        while not answers or (answers[-1].by != by and time.monotonic() - begun < seconds):
            answers.append(self.ask(request))
            time.sleep(0.02)
        return answers, time.monotonic() - begun

    def cable(self, place: str, *, plugged: bool) -> None:
        """Pull the cable of a place at its other end, so that it hears nothing but silence; or plug it in."""
        self.say(f"the cable of {place}'s laptop is {'plugged in again' if plugged else 'pulled'}")
        self._spaces["fabric"].run(lambda: switch_port(place, on=plugged))

    def listening(self, place: str) -> set[int]:
        """The TCP ports that listen in a place."""
        from tpnet.datapath.listening import listening_ports

        return set(listening_ports(self._spaces[place]))

    def _ask(self, request: Request) -> str:
        place = PLACES[request.shop]
        family = socket.AF_INET6 if request.ipv6 else socket.AF_INET
        address = place.ipv6 if request.ipv6 else place.ipv4
        connection = http.client.HTTPConnection(address, SHOP_PORT, timeout=_REQUEST_SECONDS)
        sock = self._spaces[request.client].socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(_REQUEST_SECONDS)
            sock.connect((address, SHOP_PORT))
            connection.sock = sock
            connection.request(
                request.method, request.path, headers={"Host": request.shop, **request.headers}
            )
            response = connection.getresponse()
            body = response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            return f"nobody: {error or type(error).__name__}"
        finally:
            sock.close()
            connection.close()
        found = _ANSWERED.match(body)
        if response.status != 200 or found is None:
            return f"status {response.status}"
        return found["laptop"] or found["shop"]

    def _log_size(self, shop: str) -> int:
        try:
            return self.paths.access_log(shop).stat().st_size
        except OSError:
            return 0

    def _peers(self, before: Mapping[str, int], *, patient: bool) -> str:
        """Client addresses in the log lines since ``before``; nginx writes a line just after its answer."""
        deadline = time.monotonic() + (_LOG_SECONDS if patient else 0.05)
        while True:
            peers: list[str] = []
            for shop, size in before.items():
                with self.paths.access_log(shop).open() as log:
                    log.seek(size)
                    peers += [line.split(" ", 1)[0] for line in log.read().splitlines()]
            if (peers and patient) or time.monotonic() > deadline:
                return ", ".join(peers)
            time.sleep(0.01)


def session_pid(stage: Stage, user: str) -> int:
    """The process of a developer's session daemon. Raises ``TpnetError`` when there is none."""
    from tpnet.session import SessionClient

    pid = int(SessionClient(stage.paths.run_dir, user).info()["pid"])
    if pid <= 1:
        raise TpnetError(f"{user} has no session daemon.")
    return pid


def _short(value: str) -> str:
    return value if len(value) <= 12 else f"{value[:6]}…"
