"""Agents as plain processes on the lab's nodes, each with a token of a pod there, and developers for them."""

import contextlib
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from uuid import uuid4

import yaml
from kubelab import network
from kubelab.tools import wait_until

from tpnet.control.kubernetes.install import manifests

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
INTERCEPTS = "/apis/tpnet.dev/v1alpha1/namespaces/{}/intercepts"
SESSIONS = "/apis/tpnet.dev/v1alpha1/namespaces/tpnet/sessions"
AGENTS = "/apis/tpnet.dev/v1alpha1/nodeagents"
TPNET = Path(sys.executable).parent / "tpnet"
ENV = {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'cli'}"}


class Bed:
    """``start()`` agents on all nodes; ``close()`` puts everything back but what is installed."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.tag = uuid4().hex[:6]
        self.folder = cluster.folder / f"agents-{self.tag}"
        self.folder.mkdir(mode=0o700)
        self.services = {}
        self._pods = []
        self._bindings = []
        self._allowed = set()
        cluster.apply(yaml.safe_dump_all([obj for obj in manifests() if obj["kind"] != "DaemonSet"]))
        for node in cluster.nodes:
            self._give_token(node)

    def _give_token(self, node):
        """A kubeconfig of the agents' service account, as a pod of this node has it."""
        name = f"holder-{self.tag}-{node.name}"
        spec = {
            "nodeName": node.name,
            "serviceAccountName": "tpnet-agent",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "shop", "image": "localhost/shop:1", "imagePullPolicy": "Never"}],
        }
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        self.cluster.api("POST", "/api/v1/namespaces/tpnet/pods", pod)
        self._pods.append(name)
        bound = ["--bound-object-kind", "Pod", "--bound-object-name", name]
        token = self.cluster.kubectl("-n", "tpnet", "create", "token", "tpnet-agent", *bound).stdout.strip()
        config = json.loads(self.cluster.kubeconfig("nobody", at="laptop").read_text())
        config["users"][0]["user"] = {"token": token}
        path = self.folder / f"{node.name}.conf"
        path.touch(mode=0o600)
        path.write_text(json.dumps(config))

    def allow(self, user):
        """Let somebody make intercepts, global ones too, in every namespace."""
        if user not in self._allowed:
            self._allowed.add(user)
            for role in ("tpnet-developer", "tpnet-global"):
                name = f"{role}-{user}-{self.tag}"
                self.cluster.kubectl(
                    "create", "clusterrolebinding", name, f"--clusterrole={role}", f"--user={user}"
                )
                self._bindings.append(name)

    def argv(self, node):
        number = int(node.name[1:])
        own = network.node_addresses(number)
        return [
            *(TPNET, "agent", "run", "--end-seconds", "5"),
            *("--kubeconfig", self.folder / f"{node.name}.conf"),
            *("--node", node.name),
            *("--node-address", f"{own.ip},{own.ip6}" if self.cluster.dual else own.ip),
        ]

    def start(self, *nodes):
        """Agents, until each answers its probe; the seconds that took."""
        began = time.monotonic()
        nodes = nodes or self.cluster.nodes
        for node in nodes:
            service = node.service(f"agent-{self.tag}", *self.argv(node), env=ENV)
            service.start()
            self.services[node.name] = service
        for node in nodes:
            wait_until(lambda node=node: self.probe(node), 30, lambda node=node: self.log(node))
        return time.monotonic() - began

    def probe(self, node):
        assert self.services[node.name].pid, self.log(node)
        done = node.run(TPNET, "agent", "probe", env=ENV, check=False)
        return done.returncode == 0

    def status(self, node):
        """What the agent of a node says of itself."""
        code = (
            "import json,sys;from tpnet.control.local import LocalControl;from tpnet.model.codec import encode;"
            "print(json.dumps(encode(LocalControl().status())))"
        )
        return json.loads(node.run(sys.executable, "-c", code, env=ENV).stdout)

    def log(self, node):
        return self.services[node.name].log.read_text(errors="replace")[-6000:]

    def caught_up(self, seconds=60):
        """Wait until all agents follow the API server again: one that was away is asked in growing intervals."""
        said = re.compile(r" [WI] (\S+): (The API server|current again)")

        def behind():
            logs = [self.services[node.name].log.read_text(errors="replace") for node in self.cluster.nodes]
            return [
                name
                for log in logs
                for name, last in dict(said.findall(log)).items()
                if last != "current again"
            ]

        wait_until(lambda: not behind(), seconds, lambda: f"agents to follow {behind()}")

    def stop(self, *nodes):
        for node in nodes or self.cluster.nodes:
            self.services[node.name].stop()

    def close(self):
        with contextlib.suppress(KeyError):
            self.stop()
        for name in self._bindings:
            self.cluster.kubectl("delete", "clusterrolebinding", name)
        for name in self._pods:
            path = f"/api/v1/namespaces/tpnet/pods/{name}?gracePeriodSeconds=0"
            self.cluster.api("DELETE", path)


class Developer:
    """A person with a laptop: a session that is renewed, a tunnel to every agent that there is, a handler.

    ``stop()`` ends the renewals and the tunnel at once, as a computer that is switched off.
    """

    def __init__(self, bed, user="bob", laptop=0, port=20000):
        self.bed, self.cluster, self.user, self.port = bed, bed.cluster, user, port
        self.session = f"{user}-{uuid4().hex[:8]}"
        machine = self.cluster.laptops[laptop]
        self.process = machine.popen(
            sys.executable, HERE / "laptop_end.py", user, str(port), env=ENV,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.key = self.process.stdout.readline().strip()
        self.config = self.cluster.kubeconfig(user, ["tpnet:developers"], at="host")
        self._met = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._renews = True
        self.renew()
        self._thread = threading.Thread(target=self._keep)
        self._thread.start()

    def renew(self):
        spec = {"user": self.user, "publicKey": self.key, "renewTime": time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime()),
                "leaseSeconds": 5}  # fmt: skip
        body = {"apiVersion": "tpnet.dev/v1alpha1", "kind": "Session", "spec": spec}
        body["metadata"] = {"name": self.session, "namespace": "tpnet"}
        self.cluster.kubectl(
            "apply", "--server-side", "--force-conflicts", "-f", "-",
            kubeconfig=self.config, stdin=json.dumps(body), check=False,
        )  # fmt: skip

    def renew_no_more(self):
        """The tunnel stays all the same."""
        with self._lock:
            self._renews = False

    def meet(self):
        """Know the agents that there are now."""
        agents = [item["spec"] for item in self.cluster.get(AGENTS)["items"]]
        with self._lock:
            if agents != self._met:
                self._met = agents
                self.process.stdin.write(json.dumps(agents) + "\n")
                self.process.stdin.flush()
                assert self.process.stdout.readline() == "met\n"

    def _keep(self):
        last = time.monotonic()
        while not self._stop.wait(0.2):
            with contextlib.suppress(Exception):
                self.meet()
                if time.monotonic() - last > 2:
                    last = time.monotonic()
                    with self._lock:
                        if self._renews:
                            self.renew()

    def intercept(self, namespace, name, target="Service/orders", headers=None, **spec):
        """Make an Intercept; its name."""
        kind, _, what = target.partition("/")
        rules = [{"name": "Coder", "value": self.user}] if headers is None else headers
        body = {
            "apiVersion": "tpnet.dev/v1alpha1",
            "kind": "Intercept",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "user": self.user,
                "session": self.session,
                "target": {"kind": kind, "name": what},
                "headers": rules,
                "tunnelPort": self.port,
                **spec,
            },
        }
        self.cluster.kubectl("create", "-f", "-", kubeconfig=self.config, stdin=json.dumps(body))
        return name

    def leave(self, namespace, name):
        self.cluster.kubectl("-n", namespace, "delete", "intercept", name, kubeconfig=self.config)

    def stop(self):
        """Switch the computer off."""
        self._stop.set()
        self._thread.join()
        if self.process.poll() is None:
            self.process.stdin.close()
            self.process.terminate()
            self.process.wait(30)
        self.process.stdout.close()


def wait_for(what, condition, seconds=40):
    """Wait until a condition holds; ``what`` says it, as a text or a function that gives one."""
    return wait_until(condition, seconds, what if callable(what) else lambda: what)


def state(cluster, namespace, name):
    """An intercept's status."""
    return cluster.get(f"{INTERCEPTS.format(namespace)}/{name}").get("status") or {}


def condition(status, kind="Ready"):
    return next(
        (one for one in status.get("conditions", ()) if one["type"] == kind), {"status": "", "reason": ""}
    )


def until(cluster, namespace, name, reason, kind="Ready", seconds=40):
    """Wait for a condition's reason; the status."""
    seen = {}

    def there():
        seen["status"] = state(cluster, namespace, name)
        return condition(seen["status"], kind)["reason"] == reason

    wait_until(there, seconds, lambda: json.dumps(seen["status"], indent=1))
    return seen["status"]


def ask(cluster, url, *headers, node=0):
    """Whoever answers a request made on a node: the pod's name, or the handler's."""
    words = [word for header in headers for word in ("-H", header)]
    done = cluster.nodes[node].run("curl", "-s", "-m", "20", *words, url)
    answer = json.loads(done.stdout)
    return answer.get("handler") or answer["pod"]
