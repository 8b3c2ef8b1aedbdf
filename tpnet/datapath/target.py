"""What a user's TARGET text stands for: network namespaces with canonical names. Called by the supervisor.

Texts: ``NAME`` or ``netns/NAME`` (a name of ``ip netns``, with shell wildcards), a path to a namespace file,
``pid/N``, ``container/ID`` (12 characters of it are enough), ``pod/UID`` (a Kubernetes pod on this node); a comma
separates several. Must never give out the host's namespace.
"""

from __future__ import annotations

import contextlib
import fnmatch
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tpnet.datapath import netns as namespaces
from tpnet.datapath import pods
from tpnet.datapath.netns import NetNs, key_at, processes
from tpnet.model import InvalidInput, NotThere, Refused, TpnetError

if TYPE_CHECKING:
    from collections.abc import Callable

_WILDCARDS = re.compile(r"[*?\[]")
_CONTAINER_ID = re.compile(r"[0-9a-f]{12,64}")
_KINDS = "Targets are NAME, netns/NAME, pid/N, container/ID, pod/UID or /a/path."
# A container's own cgroup, as containerd, CRI-O, Docker and Podman name it under either cgroup driver. Not
# that of its monitor (crio-conmon-ID.scope), which lives in the host's namespace.
_CONTAINER_CGROUP = re.compile(
    r"(?:(?:.*:)?(?:cri-containerd|crio|docker|libpod|nerdctl)[-:])?([0-9a-f]{64})(?:\.scope)?"
)


@dataclass(frozen=True, slots=True)
class Target:
    """A namespace and its name: ``netns/shop-1``, ``pid/1234``, ``container/<64 digits>``, ``pod/<uid>`` or a path.

    Two names may stand for one namespace: ``netns.key`` tells.
    """

    name: str
    netns: NetNs
    _alive: Callable[[], bool] = field(repr=False, compare=False)

    def alive(self) -> bool:
        """Whether the name still stands for this namespace: the same file, process or container is there."""
        return self._alive()

    def close(self) -> None:
        """Let go of the namespace."""
        self.netns.close()


def resolve_targets(text: str) -> list[Target]:
    """The targets that ``text`` stands for, in its order, each namespace once. The caller closes them.

    Raises ``InvalidInput`` for text that is none, ``NotThere`` for what does not exist, ``Refused`` for the
    host's own namespace; then nothing is left open.
    """
    found: dict[tuple[int, int], Target] = {}
    with contextlib.ExitStack() as undo:
        for part in text.split(","):
            for target in _resolve(part.strip()):
                undo.callback(target.close)
                if target.netns.is_host():
                    raise Refused(
                        f"{target.name} is in the host's or the agent's own network namespace: a redirect"
                        " would hit the machine's own services.",
                        "Name something with a network namespace of its own: a pod or container without"
                        " hostNetwork, or a namespace of ip netns.",
                    )
                if target.netns.key in found:
                    target.close()
                else:
                    found[target.netns.key] = target
        undo.pop_all()
    return list(found.values())


def _resolve(part: str) -> list[Target]:
    if not part:
        raise InvalidInput(
            "The target is empty.", "Name a namespace, netns/NAME, pid/N, container/ID, pod/UID or a path."
        )
    if part.startswith("/"):
        return [_from_file(part, Path(part))]
    kind, slash, rest = part.partition("/")
    if not slash:
        return _named(part)
    if "/" in rest or not rest:
        raise InvalidInput(f"{part!r} is no target.", _KINDS)
    if kind == "netns":
        return _named(rest)
    if kind == "pid":
        return [_from_pid(rest)]
    if kind == "container":
        return [_from_container(rest)]
    if kind == "pod":
        return [_from_pod(rest)]
    raise InvalidInput(f"{kind!r} is no kind of target.", _KINDS)


def _named(pattern: str) -> list[Target]:
    if pattern in {".", ".."}:
        raise InvalidInput(f"{pattern!r} is no name of a network namespace.")
    if not _WILDCARDS.search(pattern):
        if not (namespaces.NAMED / pattern).exists():
            raise NotThere(f"There is no network namespace {pattern!r}.", _known())
        return [_from_file(f"netns/{pattern}", namespaces.NAMED / pattern)]
    names = [name for name in _names() if fnmatch.fnmatchcase(name, pattern)]
    if not names:
        raise NotThere(f"No network namespace matches {pattern!r}.", _known())
    return [_from_file(f"netns/{name}", namespaces.NAMED / name) for name in names]


def _names() -> list[str]:
    return sorted(path.name for path in namespaces.NAMED.glob("*"))


def _known() -> str:
    names = _names()
    if not names:
        return "ip netns list shows none. Is it a container (container/ID) or a process (pid/N)?"
    shown = ", ".join(names[:8]) + (" and others" if len(names) > 8 else "")
    return f"There are: {shown}."


def _from_file(name: str, path: Path) -> Target:
    netns = NetNs.from_path(path, name)

    def alive() -> bool:
        return key_at(path) == netns.key

    return Target(name, netns, alive)


def _from_pid(digits: str) -> Target:
    if not re.fullmatch(r"[1-9][0-9]{0,9}", digits):
        raise InvalidInput(f"{digits!r} is no process id.", "pid/N takes a whole number, as ps shows it.")
    pid = int(digits)
    born = _start_time(pid)
    if born is None:
        raise NotThere(f"There is no process {pid}.")
    try:
        netns = NetNs.from_pid(pid)
    except NotThere as error:
        raise NotThere(f"Process {pid} has no network namespace any more, or it may not be seen.") from error
    return Target(f"pid/{pid}", netns, lambda: _is_in(pid, born, netns))


def _is_in(pid: int, born: str | None, netns: NetNs) -> bool:
    return _start_time(pid) == born and key_at(Path(f"/proc/{pid}/ns/net")) == netns.key


def _from_container(text: str) -> Target:
    if not _CONTAINER_ID.fullmatch(text):
        raise InvalidInput(
            f"{text!r} is no container id.",
            "container/ID takes 12 to 64 of its hexadecimal digits, as crictl ps shows.",
        )
    members = _container_processes(text)
    if not members:
        raise NotThere(
            f"No process of a container {text} runs on this machine.", "crictl ps (or docker ps) lists them."
        )
    if len(members) > 1:
        raise InvalidInput(f"{text} is the beginning of {len(members)} containers' ids.", "Give more of it.")
    full, pids = members.popitem()
    target = _from_members(f"container/{full}", pids, lambda: _container_processes(full).get(full, []))
    if target is None:
        raise NotThere(f"The container {full[:12]} has just ended.")
    return target


def _from_pod(uid: str) -> Target:
    if not pods.POD_UID.fullmatch(uid):
        raise InvalidInput(
            f"{uid!r} is no uid of a pod.", "pod/UID takes metadata.uid, as kubectl get pod -o yaml shows it."
        )
    target = _from_members(f"pod/{uid}", pods.everybody.of(uid), lambda: pods.everybody.of(uid))
    if target is None:
        raise NotThere(
            f"No process of the pod {uid} runs on this machine.",
            "Does it run on this node, and has it begun?",
        )
    return target


def _from_members(name: str, pids: list[int], now: Callable[[], list[int]]) -> Target | None:
    """The namespace of a group of processes: that of the oldest; ``None`` when none is left.

    The oldest of a pod is its sandbox. One that is younger may have gone to a namespace of its own; and a runtime's
    monitor may be among them, which is in the host's. It is alive as long as any of the group, which ``now`` gives,
    is in that namespace.
    """
    known = {pid: born for pid in pids if (born := _start_time(pid)) is not None}
    found: list[NetNs] = []
    for pid in sorted(known, key=lambda pid: (int(known[pid]), pid)):
        with contextlib.suppress(TpnetError):  # one of them may be on its way out
            found.append(NetNs.from_pid(pid, name))
            if _start_time(pid) != known[pid]:
                found.pop().close()
            elif not found[-1].is_host():
                break
    if not found:
        return None
    netns = found.pop()
    for other in found:
        other.close()
    key = netns.key

    def alive() -> bool:
        if any(_is_in(pid, born, netns) for pid, born in known.items()):
            return True
        known.clear()
        for pid in now():
            born = _start_time(pid)
            if born is not None and key_at(Path(f"/proc/{pid}/ns/net")) == key:
                known[pid] = born
        return bool(known)

    return Target(name, netns, alive)


def _container_processes(prefix: str) -> dict[str, list[int]]:
    """The containers whose id begins so, each with its processes."""
    found: dict[str, list[int]] = {}
    for pid in processes():
        with contextlib.suppress(OSError):
            for container in container_ids(
                Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace")
            ):
                if container.startswith(prefix):
                    found.setdefault(container, []).append(pid)
    return found


def container_ids(cgroup: str) -> set[str]:
    """The container a process belongs to, from its /proc/PID/cgroup: one, unless controllers disagree.

    Of nested containers (a node that is itself a container) the inner one.
    """
    found = set()
    for line in cgroup.splitlines():
        for component in reversed(line.split("/")):
            if match := _CONTAINER_CGROUP.fullmatch(component):
                found.add(match[1])
                break
    return found


def _start_time(pid: int) -> str | None:
    """Field 22 of /proc/PID/stat (proc(5)): with it a process id is never mistaken for a later process's."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]
