"""One machine of the lab: namespaces for network, mounts, processes and host name, and what runs in them. Used by cluster.py.

Every process of a machine is in its PID namespace, every mount below its mount namespace: when its first process ends, the kernel ends
and unmounts them all, whatever they are. /run, /var/lib and /var/log are the machine's own, so that containerd, kubelet and agents use
the paths that they use on real nodes, and find nothing of another machine there.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

from kubelab.tools import MARK, LabError, run, start_time, wait_until

# Run by the machine's first process before it becomes `pod pause`. $1 run folder of the machine, $2 host name, $3 the program.
# The kernel's settings that kubelet wants to change are covered by files that say what it wants: they are the whole computer's.
SETUP = r"""
set -e
cd "$1"
mount --make-rprivate /
for mounted in $(awk '$2 ~ "^/run/netns" { print $2 }' /proc/self/mounts | sort -r); do umount -l "$mounted" || true; done
mount -t proc proc /proc
mkdir -p lib log sysctl home
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock
mount --bind lib /var/lib
mount --bind log /var/log
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    path=${setting%=*}; copy=sysctl/$(echo "$path" | tr / -)
    echo "${setting#*=}" > "$copy"
    mount --bind "$copy" "/proc/sys/$path"
done
mount --make-rshared /
hostname "$2"
touch ready
exec "$3" pause
"""


class Machine:
    """A running machine. ``netns`` is its network namespace's name on the host, ``pid`` its first process there."""

    def __init__(self, name: str, netns: str, folder: Path, lab: str) -> None:
        """Of a machine called ``name`` whose files are in ``folder``, of the cluster ``lab``: nothing is started by this."""
        self.name = name
        self.netns = netns
        self.folder = folder
        self.lab = lab
        self.home = folder / "home"
        self._record = folder / "machine.json"

    @property
    def pid(self) -> int:
        """The first process, as the host counts. LabError if the machine was never started."""
        try:
            return json.loads(self._record.read_text())["pid"]
        except FileNotFoundError:
            raise LabError(f"{self.name} is not running") from None

    @property
    def proc(self) -> Path:
        """The machine's own /proc, seen from outside."""
        return Path(f"/proc/{self.pid}/root/proc")

    def start(self, program: Path) -> None:
        """Make the namespaces and the first process, which is ``program pause``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        run("ip", "netns", "add", self.netns)
        shell = 'script=$1; shift; sh -c "$script" setup "$@" </dev/null >>"$1/machine.log" 2>&1 & echo $!'
        unshare = ["unshare", "--pid", "--mount", "--uts", "--propagation", "private"]
        inner = ["sh", "-c", shell, "sh", SETUP, self.folder, self.name, program]
        # A session of its own: Ctrl-C at the tests' terminal is theirs to handle.
        said = run(
            "setsid",
            "-w",
            "nsenter",
            f"--net=/run/netns/{self.netns}",
            *unshare,
            *inner,
            env=self.environment(),
        )
        pid = int(said.stdout)
        self._record.write_text(json.dumps({"pid": pid, "start": start_time(pid), "netns": self.netns}))
        log = self.folder / "machine.log"
        wait_until(
            (self.folder / "ready").exists, 10, lambda: f"{self.name} starts\n{log.read_text()}", every=0.02
        )

    def environment(self, env=None) -> dict[str, str]:
        """What a process of the machine finds in its environment, ``env`` added."""
        sane = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
        }
        return {
            **sane,
            "HOME": str(self.home),
            MARK: self.lab,
            **{key: str(value) for key, value in (env or {}).items()},
        }

    def enter(self, *argv: str | Path) -> list[str]:
        """The command that runs ``argv`` in this machine's namespaces, from outside."""
        return ["nsenter", "-t", str(self.pid), "-n", "-m", "-p", "-u", "--", *map(str, argv)]

    def run(
        self, *argv: str | Path, check=True, timeout=180.0, env=None, stdin=None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine to its end, text in and out; LabError if it fails and ``check``, or is too late."""
        command = self.enter("setpriv", "--pdeathsig", "TERM", *argv)
        return run(*command, check=check, timeout=timeout, env=self.environment(env), stdin=stdin)

    def popen(self, *argv: str | Path, env=None, **options) -> subprocess.Popen:
        """Start a command in the machine. ``terminate()`` reaches it, as ``kill()`` does, as SIGTERM.

        For other signals use :meth:`signal` with its pid there.
        """
        command = self.enter("setpriv", "--pdeathsig", "TERM", *argv)
        return subprocess.Popen(command, env=self.environment(env), **options)

    def shell(self, script: str, **options) -> subprocess.CompletedProcess[str]:
        """Run a shell script in the machine."""
        return self.run("sh", "-euc", script, **options)

    def signal(self, pid: int, number: int = signal.SIGTERM) -> None:
        """Send a signal to a process of the machine, by its pid there; one that has ended is passed over."""
        self.run("kill", f"-{int(number)}", str(pid), check=False)

    def service(self, name: str, *argv: str | Path, env=None, stdin=None) -> Service:
        """A long-lived process of the machine, not yet started."""
        return Service(self, name, [str(word) for word in argv], env or {}, stdin)


class Service:
    """A long-lived process of a machine: known by its pid file, so that whoever comes later can end and start it too."""

    def __init__(self, machine: Machine, name: str, argv: list[str], env: dict[str, str], stdin=None) -> None:
        """``argv`` is its command, ``stdin`` a file object it gets as standard input. Its log is NAME.log in the machine's folder."""
        self.machine, self.name, self.argv, self.env, self.stdin = machine, name, argv, env, stdin
        self.log = machine.folder / f"{name}.log"
        self._record = machine.folder / f"{name}.service.json"

    @property
    def pid(self) -> int | None:
        """Its process, as the machine counts; None if it does not run."""
        try:
            known = json.loads(self._record.read_text())
        except FileNotFoundError:
            return None
        same = start_time(known["pid"], self.machine.proc) == known["start"]
        return known["pid"] if same else None

    def start(self) -> None:
        """Start it; LabError with the end of its log if it ends at once. Nothing happens if it runs."""
        if self.pid:
            return
        shell = 'exec 3<&0; log=$1; shift; "$@" <&3 3<&- >>"$log" 2>&1 & echo $!'
        inner = self.machine.enter("setsid", "-w", "sh", "-c", shell, "sh", self.log, *self.argv)
        done = subprocess.run(
            inner,
            stdin=self.stdin or subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.machine.environment(self.env),
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise LabError(f"{self.name} does not start on {self.machine.name}: {done.stdout}")
        pid = int(done.stdout)
        self._record.write_text(
            json.dumps({"pid": pid, "start": start_time(pid, self.machine.proc), "argv": self.argv})
        )

    def stop(self, number: int = signal.SIGTERM, seconds=45.0) -> None:
        """Send a signal and wait for the end; after ``seconds`` SIGKILL."""
        end = time.monotonic() + seconds
        if pid := self.pid:
            self.machine.signal(pid, number)
            while self.pid:
                if time.monotonic() > end:
                    self.machine.signal(pid, signal.SIGKILL)
                    end += seconds
                time.sleep(0.02)

    def restart(self, number: int = signal.SIGTERM) -> None:
        """End it and start it again."""
        self.stop(number)
        self.start()

    def tail(self, lines=20) -> str:
        """The end of its log."""
        with contextlib.suppress(FileNotFoundError):
            return os.linesep.join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""
