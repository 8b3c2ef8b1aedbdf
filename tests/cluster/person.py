"""A developer in the lab: a laptop with a handler, a kubeconfig, and the session daemon, as ``tpnet`` starts it."""

import json
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

REPOSITORY = Path(__file__).parents[2]
ENV = {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'cli'}"}

_CODE = """
import json, sys
from pathlib import Path
from tpnet.control.kubernetes.options import ClusterOptions
from tpnet.model import HeaderRule, Intercept, TpnetError
from tpnet.model.codec import encode
from tpnet.session import SessionClient, ensure_session

order = json.loads(sys.argv[1])
options = ClusterOptions(kubeconfig=order["kubeconfig"])
place = Path(order["run_dir"]), order["user"]
try:
    if order["what"] == "add":
        client = ensure_session(*place, cluster=options)
        headers = tuple(HeaderRule(*rule) for rule in order["headers"])
        answer = encode(client.add(Intercept(order["name"], order["user"], "", order["target"], (), order["port"], headers,
                                             handler=order["handler"])))
    else:
        client = SessionClient(*place, options)
        answer = getattr(client, order["what"])(*order["args"])
except TpnetError as error:
    answer = {"error": error.message, "code": error.exit_code}
print(json.dumps(answer))
"""


class Person:
    """``user`` at a laptop of the cluster, allowed to intercept in ``namespace``. ``close`` ends all of it."""

    def __init__(self, cluster, namespace, user, laptop=0, port=8080):
        self.cluster, self.namespace, self.user = cluster, namespace, user
        self.machine = cluster.laptops[laptop]
        self.port = port
        self.run_dir = f"/run/tpnet-{uuid4().hex[:6]}"
        self.kubeconfig = cluster.kubeconfig(user, ["tpnet:developers"], at="laptop", namespace=namespace)
        self.binding = f"{user}-{uuid4().hex[:6]}"
        cluster.kubectl(
            "-n",
            namespace,
            "create",
            "rolebinding",
            self.binding,
            "--clusterrole=tpnet-developer",
            f"--user={user}",
        )
        self.handler = self.machine.popen(
            sys.executable, "-m", "tpnet_cli.lab.handler", user, str(port),
            env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def order(self, what, *args, **more):
        """What the session daemon answers; ``{"error": …, "code": …}`` for a refusal."""
        order = {"what": what, "args": args, "user": self.user, "kubeconfig": str(self.kubeconfig), **more}
        order["run_dir"] = self.run_dir
        done = self.machine.run(sys.executable, "-c", _CODE, json.dumps(order), env=ENV, timeout=180)
        return json.loads(done.stdout)

    def intercept(self, target="svc/orders", name="", headers=None, port=0):
        """Begin an intercept, by one's own header unless said otherwise; its status."""
        name = f"{self.namespace}/{name or target.rpartition('/')[2] + '-' + self.user}"
        headers = [("Coder", self.user)] if headers is None else headers
        handler = f"127.0.0.1:{self.port}"
        return self.order("add", name=name, target=target, headers=headers, port=port, handler=handler)

    def leave(self, name="orders"):
        """End one."""
        return self.order("remove", f"{self.namespace}/{name}-{self.user}")

    def daemon(self):
        """The session daemon's process, as the laptop counts."""
        return self.order("info")["pid"]

    def log(self):
        """What the session daemon says."""
        return self.machine.shell(f"cat {self.run_dir}/sessions/*.log").stdout

    def close(self):
        """End the session, the handler, and the right."""
        self.order("quit")
        self.handler.terminate()
        self.handler.wait(30)
        self.cluster.kubectl("-n", self.namespace, "delete", "rolebinding", self.binding, check=False)
