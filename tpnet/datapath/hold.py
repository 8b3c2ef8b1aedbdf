"""Who is at work in a namespace: marks of agents, which only those can set who may attach BPF programs there.

A mark is a program of two instructions that passes everything, on a link, whose name says what its agent does and who it
is. It vanishes with its holder, however that ends. A name or file in the namespace would be anybody's to take who has a
process there. Agents of before had names, abstract Unix sockets: they are given to be seen by those, and heeded of
processes that no pod can have made. Must never change where a connection goes.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from tpnet.datapath.netns import key_at
from tpnet.datapath.refusal import explain_refusal
from tpnet.kernel import bpf
from tpnet.kernel.lock import names_held, processes_with, take_name
from tpnet.model import Conflict, TpnetError

if TYPE_CHECKING:
    from collections.abc import Collection

    from tpnet.datapath.netns import NetNs

REDIRECTS = "tpnet_r_"
"""With a process id, a mark's name: an agent redirects here."""
STAYS = "tpnet_s_"
"""The same: an agent ends, and has connections here yet."""
_PASS = bytes.fromhex("b7000000010000009500000000000000")  # return SK_PASS
_ELDERS = "tpnet-"
_ELDERS_LOCK = f"{_ELDERS}redirect"


class _Mark(NamedTuple):
    number: int
    name: str


class Hold:
    """A mark of this process's in a namespace. ``number`` tells it from all others."""

    def __init__(self, netns: NetNs, kind: str) -> None:
        """Set it. Raises ``Refused``."""
        try:
            program = bpf.load_sk_lookup(f"{kind}{os.getpid()}", _PASS)
        except OSError as error:
            raise explain_refusal(error, "load") from error
        try:
            self.number, _ = bpf.program_info(program)
            self._link = bpf.link_to_netns(program, netns.fd)
        except OSError as error:
            raise explain_refusal(error, "link") from error
        finally:
            os.close(program)  # the link's now
        self._name: socket.socket | None = None
        with contextlib.suppress(OSError, TpnetError):  # another one's, whoever that is
            name = _ELDERS_LOCK if kind == REDIRECTS else f"{_ELDERS}stays-{os.getpid()}"
            self._name = take_name(name, lambda: _unix_in(netns))

    def close(self) -> None:
        """Take it away. Further calls do nothing."""
        if self._name is not None:
            self._name.close()
        if self._link >= 0:
            os.close(self._link)
            self._link = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def lock_namespace(netns: NetNs) -> Hold:
    """Say that this process redirects in ``netns``, for as long as the returned mark is there.

    Raises ``Conflict`` with the other one's process id.
    """
    hold = Hold(netns, REDIRECTS)
    try:
        first = next(mark for mark in _marks(netns) if mark.name.startswith(REDIRECTS))
        if first.number != hold.number:
            raise _conflict(netns, first.name.removeprefix(REDIRECTS))
        if elder := _elders(netns).get(_ELDERS_LOCK):
            raise _conflict(netns, str(elder))
    except BaseException:
        hold.close()
        raise
    return hold


def _conflict(netns: NetNs, pid: str) -> Conflict:
    return Conflict(
        f"Another agent redirects in {netns.label} already (process {pid}).",
        "Only one agent may run on a node. Stop the other one first.",
    )


def stay_on(netns: NetNs) -> Hold:
    """Say that this process redirects nothing more in ``netns``, and has connections there yet that need our changes.

    Raises ``TpnetError``.
    """
    return Hold(netns, STAYS)


def others_in(netns: NetNs, mine: Collection[int] = ()) -> bool:
    """Whether other agents need our changes in ``netns``: one that redirects there, or that ends and has connections.

    ``mine``: the numbers of the caller's own marks. Raises ``TpnetError``.
    """
    return any(mark.number not in mine for mark in _marks(netns)) or bool(_elders(netns))


def _elders(netns: NetNs) -> dict[str, int]:
    """Names there of agents of before, with their processes.

    Such a process is not in the namespace, though of the same user namespace as this one: whoever has got out of a pod's
    without being an agent's equal has a user namespace of its own (user_namespaces(7)).
    """
    found = {}
    with contextlib.suppress(OSError, TpnetError):
        names = netns.run(lambda: names_held(_ELDERS))
        holders = processes_with(set().union(*names.values()))
        for name, inodes in names.items():
            for pid in {pid for inode in inodes for pid in holders.get(inode, ())} - {os.getpid()}:
                spaces = Path(f"/proc/{pid}/ns")
                outside = key_at(spaces / "net") not in {None, netns.key}
                if outside and key_at(spaces / "user") == key_at("/proc/self/ns/user"):
                    found[name] = pid
    return found


def _unix_in(netns: NetNs) -> socket.socket:
    return netns.socket(socket.AF_UNIX, socket.SOCK_STREAM)


def _marks(netns: NetNs) -> list[_Mark]:
    """All that are there, in the order in which they were set."""
    found = []
    try:
        for number in bpf.programs_of_netns(netns.fd):
            try:
                program = bpf.program_by_number(number)
            except FileNotFoundError:  # it has just gone
                continue
            try:
                _, name = bpf.program_info(program)
            finally:
                os.close(program)
            if name.startswith((REDIRECTS, STAYS)):
                found.append(_Mark(number, name))
    except OSError as error:
        raise TpnetError(f"Who else is in {netns.label} cannot be told: {error.strerror}.") from error
    return found
