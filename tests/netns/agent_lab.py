"""A whole agent for tests: its process in a node's namespace of its own, nginx in a pod, and a load from a client."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from uuid import uuid4

from podnet import PodNet

from tpnet.control.local import LocalControl
from tpnet.datapath.listening import listening
from tpnet.model import HeaderRule, Intercept, NotThere, Session
from tpnet.tunnel import KeyPair

GET = b"GET /api HTTP/1.1\r\nhost: shop\r\n%s\r\n"
MATCHED = GET % b"coder: bob\r\n"


# What the first agent has compiled serves the others of this run, as on a node.
_COMPILED = tempfile.TemporaryDirectory(prefix="tpn-compiled-")
os.environ["TPNET_CACHE_DIR"] = _COMPILED.name


class Agent:
    """An agent's process, once ``start`` was called, in a namespace called ``node``. ``run_dir`` is its own."""

    def __init__(self):
        tag = uuid4().hex[:6]
        self.node = f"tpn-{tag}-node"
        self.run_dir = Path(tempfile.mkdtemp(prefix=f"tpn-{tag}-"))
        self.log = self.run_dir / "agent.log"
        self.process = None
        self.starts = []  # seconds until each process of it answered
        self.control = LocalControl(self.run_dir)
        ip("netns", "add", self.node)
        ip("-n", self.node, "link", "set", "lo", "up")

    def launch(self, patch="", through=(), stderr=None):
        """Another process of the agent, started ``through`` a command.

        ``patch`` is Python run before it, to shorten times. Its log goes to ``log`` unless ``stderr`` is given.
        """
        code = f"import sys\n{patch}\nfrom tpnet.agent.supervisor import main\nsys.exit(main(sys.argv[1:]))"
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [
                    *("nsenter", f"--net=/run/netns/{self.node}", *through, sys.executable, "-c", code),
                    *("--run-dir", str(self.run_dir)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log if stderr is None else stderr,
            )

    def start(self, patch="", **more):
        began = time.monotonic()
        self.process = self.launch(patch, **more)
        wait_until(self.answers, 30, lambda: f"the agent does not answer\n{self.words()}")
        self.starts.append(time.monotonic() - began)
        return self

    def answers(self):
        assert self.process.poll() is None, self.words()
        try:
            return self.control.info().pid == self.process.pid  # not one before it, which is still ending
        except NotThere:
            return False

    def stop(self, seconds=40):
        """SIGTERM; its exit code."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(seconds)
        finally:
            self.process.kill()
            self.process.wait()

    def kill(self):
        """``kill -9`` of the supervisor and the worker; when they are gone, by the monotonic clock."""
        pidfd = os.pidfd_open(self.worker())
        self.process.send_signal(signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], 20)
        self.process.wait()
        os.close(pidfd)
        return time.monotonic()

    def worker(self):
        """The worker's process id."""
        return wait_until(lambda: self.control.info().worker_pids)[0]

    def words(self):
        return self.log.read_text(errors="replace")

    def close(self):
        try:
            self.stop()
        finally:
            self.control.close()
            subprocess.run(["ip", "netns", "delete", self.node], capture_output=True, check=False)
            shutil.rmtree(self.run_dir, ignore_errors=True)


class AgentLab:
    """An agent, which may be shared by several tests, and pods of this test's own: ``net``, ``pod``."""

    def __init__(self, agent, pods=1):
        self.agent = agent
        self.control = agent.control
        self.net = PodNet(pods)
        self.pod = self.net.pod
        self.folder = Path(tempfile.mkdtemp(prefix="tpn-lab-"))
        self.folder.chmod(0o755)
        self._sessions = set()
        self._stack = contextlib.ExitStack()

    def nginx(self, pod=None, port=8080):
        """nginx in a pod, which logs who asked."""
        nginx = Nginx(pod or self.pod, port, self.folder / uuid4().hex[:6])
        self._stack.callback(nginx.close)
        return nginx

    def load(self, **more):
        load = Load(self.net, **more)
        self._stack.callback(load.stop)
        return load

    def session(self, user="bob"):
        """A session that nobody is behind: its requests go to the app, or are answered with 502."""
        name = f"{user}@laptop"
        self.control.register_session(Session(name, user, KeyPair().public))
        self._sessions.add(name)
        return name

    def intercept(self, name="orders-bob", user="bob", target=None, **more):
        values = {
            "session": f"{user}@laptop",
            "targets": (),
            "port": 8080,
            "headers": (HeaderRule("Coder", user),),
            "handler": "127.0.0.1:9",
            "tunnel_port": 20000,
        }
        return Intercept(name, user, target=target or self.pod.name, **(values | more))

    def create(self, *args, **more):
        """``intercept``, and have the agent make it."""
        return self.control.create_intercept(self.intercept(*args, **more))

    def close(self):
        try:
            for name in self._sessions:
                with contextlib.suppress(NotThere):  # the agent may have been killed
                    self.control.end_session(name)
        finally:
            self._stack.close()
            self.net.close()
            shutil.rmtree(self.folder, ignore_errors=True)


class Nginx:
    """``peers()`` has the addresses that it has answered."""

    def __init__(self, pod, port, folder):
        folder.mkdir()
        folder.chmod(0o755)
        self._log = folder / "access.log"
        self.folder, self.pod, self.port = folder, pod, port
        (folder / "nginx.conf").write_text(
            f"daemon off;\nworker_processes 1;\npid {folder}/pid;\nerror_log {folder}/error.log;\n"
            "events { worker_connections 512; }\n"
            "http {\n"
            f"  access_log {folder}/access.log combined;\n  keepalive_requests 1000000;\n"
            f"  client_body_temp_path {folder}/body;\n  proxy_temp_path {folder}/proxy;\n"
            f"  fastcgi_temp_path {folder}/f;\n  uwsgi_temp_path {folder}/u;\n  scgi_temp_path {folder}/s;\n"
            f"  server {{ listen [::]:{port} ipv6only=off; "
            'location / { default_type text/plain; return 200 "the app\\n"; } }\n}\n'
        )
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [
                "nsenter",
                f"--net=/run/netns/{self.pod.name}",
                "nginx",
                "-p",
                self.folder,
                "-c",
                self.folder / "nginx.conf",
            ],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self.listens)

    def listens(self):
        """Whether nginx does; to connect tells nothing, since the agent may take the connection in its place."""
        return self.port in listening(self.pod.netns)

    def peers(self):
        return [line.split()[0].removeprefix("::ffff:") for line in self._log.read_text().splitlines()]

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)  # master and workers end at once
        self.process.wait(30)


class Load:
    """Requests from the client's namespace: some over new connections, some over kept ones.

    ``new`` and ``kept`` count what became of them by a word: ``ok``, ``wrong``, or the error. ``slow`` is the longest
    time a request over a new connection took, in seconds.
    """

    def __init__(self, net, port=8080, new=2, kept=4, pause=0.002, pod=None):
        self.new, self.kept = Counter(), Counter()
        self.slow = 0.0
        self._net, self._port, self._pause, self._pod = net, port, pause, pod
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._new) for _ in range(new)]
        self._threads += [threading.Thread(target=self._kept) for _ in range(kept)]
        for thread in self._threads:
            thread.start()

    def wait(self, requests, seconds=30):
        """Let so many more requests over new connections be answered."""
        goal = self.new["ok"] + requests
        wait_until(lambda: self.new["ok"] >= goal, seconds, lambda: f"{self.new} {self.kept}")

    def stop(self):
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self

    def _new(self):
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                with self._connect() as sock:
                    self._ask(sock, self.new, b"connection: close\r\n")
            except OSError as error:
                self.new[type(error).__name__] += 1
            self.slow = max(self.slow, time.monotonic() - began)
            time.sleep(self._pause)

    def _kept(self):
        while not self._stop.is_set():
            try:
                with self._connect() as sock:
                    while not self._stop.is_set():
                        self._ask(sock, self.kept)
                        time.sleep(self._pause)
            except OSError as error:
                self.kept[type(error).__name__] += 1

    def _connect(self):
        return self._net.connect(self._port, pod=self._pod, timeout=5)

    def _ask(self, sock, counter, more=b""):
        sock.sendall(GET % more)
        answer = b""
        while not answer.endswith(b"the app\n"):
            data = sock.recv(65536)
            if not data:
                raise ConnectionError("closed" if answer else "closed without an answer")
            answer += data
        counter["ok" if answer.startswith(b"HTTP/1.1 200") else "wrong"] += 1


def ask(net, request=GET % b"connection: close\r\n", port=8080, family=4, pod=None):
    """Status and body of one answer over a connection of its own."""
    with net.connect(port, family, pod) as sock:
        sock.sendall(request)
        answer = b""
        while True:
            head, found, body = answer.partition(b"\r\n\r\n")
            if found and len(body) >= int(re.search(rb"(?i)content-length: (\d+)", head)[1]):
                return int(head.split()[1]), body.decode().strip()
            data = sock.recv(65536)
            if not data:
                raise ConnectionError("closed without an answer")
            answer += data


def changes(pod):
    """What of ours is in a pod's namespace, but for sockets: rules, routes, sysctls that are not 0."""

    def look():
        found = []
        for family in ("-4", "-6"):
            rules = subprocess.run(["ip", family, "rule"], capture_output=True, text=True, check=True).stdout
            found += [line.strip() for line in rules.splitlines() if line.startswith("747:")]
            routes = subprocess.run(
                ["ip", family, "route", "show", "table", "all", "proto", "116"],
                capture_output=True,
                text=True,
                check=True,
            )
            found += [line.strip() for line in routes.stdout.splitlines()]
        for name in ("ipv4/tcp_fwmark_accept", "ipv4/fwmark_reflect", "ipv6/fwmark_reflect"):
            if Path("/proc/sys/net", name).read_text().strip() != "0":
                found.append(name)
        return found

    return pod.netns.run(look)


def settled(count, seconds=1.5):
    """What a count comes to: a worker tells its counts once a second."""
    while True:
        before = count()
        time.sleep(seconds)
        if count() == before:
            return before


def wait_until(condition, seconds=20.0, why=lambda: "it did not happen"):
    """Wait for it, on a machine that may have much else to do: how soon it happens is told by no bound of this."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, why()
        time.sleep(0.02)
    return result


def ip(*args):
    done = subprocess.run(["ip", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {args}\n{done.stderr}"
