"""The bed of the benchmarks: a client and a pod in namespaces, nginx as the app, HAProxy and nginx as peers, tpnet.

Called by ``run.py``. Everything is named after this run and removed at the end; nothing listens outside the namespaces.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self
from uuid import uuid4

from tpnet.control.local.client import LocalControl
from tpnet.model import HeaderRule, Intercept, Session
from tpnet.tunnel.keys import KeyPair

POD = "10.77.0.2"
CLIENT = "10.77.0.1"
APP, MANY, DIRECT, HAPROXY, NGINX = 8080, 8083, 8090, 8081, 8082
"""Ports in the pod: the app as tpnet redirects it, with one intercept and with many; the same app untouched; and the two
peers in front of it."""

APP_CONF = """
worker_processes 1; daemon off; pid {dir}/app.pid; error_log {dir}/app.err;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 100000000; sendfile on; tcp_nodelay on;
  client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3; uwsgi_temp_path {dir}/t4;
  scgi_temp_path {dir}/t5;
  server {{
    listen {app} backlog=4096; listen {many} backlog=4096; listen {direct} backlog=4096;
    location / {{ return 200 "hello from the app\\n"; }}
    location /big {{ alias {dir}/big; }}
  }}
}}
"""

NGINX_CONF = """
worker_processes 1; daemon off; pid {dir}/peer.pid; error_log {dir}/peer.err;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 100000000; tcp_nodelay on; proxy_max_temp_file_size 0;
  client_body_temp_path {dir}/u1; proxy_temp_path {dir}/u2; fastcgi_temp_path {dir}/u3; uwsgi_temp_path {dir}/u4;
  scgi_temp_path {dir}/u5;
  upstream app {{ server 127.0.0.1:{direct}; keepalive 64; keepalive_requests 100000000; }}
  upstream dev {{ server 127.0.0.1:9; }}
  map $http_coder $side {{ Bob dev; default app; }}
  server {{
    listen {nginx} backlog=4096;
    location / {{ proxy_pass http://$side; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""

HAPROXY_CONF = """
global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend pod
  bind :{haproxy}
  use_backend dev if {{ req.hdr(Coder) -m str Bob }}
  default_backend app
backend app
  server app 127.0.0.1:{direct}
backend dev
  server dev 127.0.0.1:9
"""


SESSION = "bench@laptop"


def sh(*args: str) -> str:
    """Run a command; its output."""
    return subprocess.run(args, check=True, capture_output=True, text=True).stdout


class Bed:
    """The namespaces and processes of one run."""

    def __init__(self) -> None:
        run = uuid4().hex[:6]
        self.client, self.pod, self.node = (f"tpb{run}-{part}" for part in ("client", "pod", "node"))
        self.folder = Path(tempfile.mkdtemp(prefix="tpnet-bench-"))
        self.folder.chmod(0o755)
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(lambda: subprocess.run(["rm", "-rf", str(self.folder)], check=False))
            self._build(undo)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _build(self, undo: contextlib.ExitStack) -> None:
        for namespace in (self.client, self.pod, self.node):
            sh("ip", "netns", "add", namespace)
            undo.callback(sh, "ip", "netns", "del", namespace)
            sh("ip", "-n", namespace, "link", "set", "lo", "up")
        sh(
            "ip",
            "-n",
            self.client,
            "link",
            "add",
            "eth0",
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            self.pod,
        )
        for namespace, address in ((self.client, CLIENT), (self.pod, POD)):
            sh("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
            sh("ip", "-n", namespace, "link", "set", "eth0", "up")
        with (self.folder / "big").open("wb") as big:
            big.truncate(1 << 30)
        values = {
            "dir": self.folder,
            "app": APP,
            "many": MANY,
            "direct": DIRECT,
            "haproxy": HAPROXY,
            "nginx": NGINX,
        }
        for name, text in (("app", APP_CONF), ("nginx", NGINX_CONF), ("haproxy", HAPROXY_CONF)):
            (self.folder / f"{name}.conf").write_text(text.format(**values))
        for name in ("app", "nginx"):
            self._start(
                undo, self.pod, "nginx", "-c", str(self.folder / f"{name}.conf"), "-e", str(self.folder / "e")
            )
        self._start(undo, self.pod, "haproxy", "-q", "-db", "-f", str(self.folder / "haproxy.conf"))
        self._start(undo, self.node, str(Path(sys.executable).parent / "tpnet"), "agent", "run", "--local",
                    "--run-dir", str(self.folder / "run"))  # fmt: skip
        self.control = LocalControl(self.folder / "run")
        self._wait()

    def _start(self, undo: contextlib.ExitStack, namespace: str, *command: str) -> None:
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                ["ip", "netns", "exec", namespace, *command], stdout=log, stderr=log, start_new_session=True
            )
        undo.callback(self._stop, process)

    @staticmethod
    def _stop(process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(5)

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                for port in (APP, DIRECT, HAPROXY, NGINX):
                    self.fetch(port)
                self.control.info()
                return
            except Exception:
                if time.monotonic() > deadline:
                    print((self.folder / "log").read_text(), file=sys.stderr)
                    raise
                time.sleep(0.2)

    def fetch(self, port: int, *options: str, path: str = "/") -> str:
        """The answer of one request from the client."""
        return self.in_client("curl", "-sS", "--fail", "-m", "60", *options, f"http://{POD}:{port}{path}")

    def in_client(self, *command: str) -> str:
        """Run a command in the client's namespace; its output."""
        return sh("ip", "netns", "exec", self.client, *command)

    def begin_session(self) -> None:
        """Be a developer whose handler never gets a request."""
        self.control.register_session(Session(SESSION, "bench", KeyPair().public))

    def intercept(self, port: int, count: int = 1) -> None:
        """Have ``count`` personal intercepts on a port of the app; none takes the benchmark's requests."""
        for number in range(count):
            self.keep_session()
            self.control.create_intercept(
                Intercept(
                    name=f"bench-{port}-{number}",
                    user="bench",
                    session=SESSION,
                    target=f"netns/{self.pod}",
                    targets=(),
                    port=port,
                    headers=(HeaderRule("Coder", f"Bob{number}" if number else "Bob"),),
                    handler="127.0.0.1:9",
                    tunnel_port=20000,
                )
            )

    def keep_session(self) -> None:
        """Renew the session's lease, so that the intercepts outlive a long run."""
        self.control.renew_session(SESSION, {})
