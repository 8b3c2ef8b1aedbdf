"""Somebody at a laptop of the lab who types ``tpnet``, and the administrator who does."""

import json
import os
import subprocess
import sys
from uuid import uuid4

from agent_bed import ENV

TPNET = [sys.executable, "-m", "tpnet_cli"]


class Desk:
    """Somebody at a laptop, with a kubeconfig and nothing else."""

    def __init__(self, cluster, namespace, user, laptop=0, at_home=""):
        self.cluster, self.namespace, self.user = cluster, namespace, user
        self.machine = cluster.laptops[laptop]
        self.folder = f"/run/desk-{uuid4().hex[:6]}"
        self.config = cluster.kubeconfig(user, at="laptop", namespace=at_home)
        self.handlers = []

    def __enter__(self):
        self.machine.run("mkdir", "-p", self.folder)
        return self

    def __exit__(self, *_):
        self.tpnet("quit", check=False)
        for handler in self.handlers:
            handler.terminate()
            handler.wait(30)
        admin(self.cluster, "revoke", self.user)

    @property
    def env(self):
        return {**ENV, "KUBECONFIG": self.config, "TPNET_STATE_DIR": self.folder, "COLUMNS": "100"}

    def grant(self, *flags):
        admin(self.cluster, "grant", self.user, "-n", self.namespace, *flags)

    def serve(self, port):
        argv = [sys.executable, "-m", "tpnet_cli.lab.handler", self.user, str(port)]
        handler = self.machine.popen(*argv, env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.handlers.append(handler)
        self.machine.shell(f"until curl -s -o /dev/null 127.0.0.1:{port}; do sleep 0.05; done")

    def tpnet(self, *args, check=True, **env):
        done = self.machine.run(*TPNET, *args, env={**self.env, **env}, check=False)
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    def data(self, *args):
        return json.loads(self.tpnet(*args, "-o", "json").stdout)

    def answers(self, path, *headers):
        """Whether the request reaches this desk; else a pod has answered."""
        address = self.cluster.service_ip(self.namespace, "orders")
        words = [word for header in headers for word in ("-H", header)]
        said = self.cluster.nodes[0].run("curl", "-s", "-m", "20", *words, f"http://{address}{path}").stdout
        if said.startswith(f"{self.user}'s laptop"):
            return True
        assert '"pod"' in said, said
        return False


def admin(cluster, *args, check=True, stdin=None):
    """``tpnet`` as the administrator."""
    env = {**os.environ, **ENV, "KUBECONFIG": str(cluster.admin), "COLUMNS": "140"}
    env.pop("TPNET_RUN_DIR", None)
    done = subprocess.run(
        [*TPNET, *args], env=env, capture_output=True, text=True, input=stdin, timeout=240, check=False
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done
