"""A cluster: brought up, used by tests, taken down. The tests' fixtures and ``make cluster-up`` are its users.

A test may break anything in it that it mends again, and makes its objects in namespaces of its own: others use the same cluster.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from kubelab import build, config, network, pki, runs
from kubelab.api import Api, is_ready
from kubelab.images import Images
from kubelab.machine import Machine, Service
from kubelab.shop import shop
from kubelab.tools import RUNS, LabError, wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

NODES = 2
AGENT_IMAGE = "localhost/tpnet-agent:0.1.0"


class Cluster(Api):
    """One cluster. Make it with :meth:`up`, or find a standing one with :meth:`attach`.

    ``nodes`` and ``laptops`` are lists of :class:`Machine`; ``admin`` is the kubeconfig of an administrator, for the tests' own
    process; ``dual`` tells whether it has IPv6 too.
    """

    def __init__(self, folder: Path, *, laptops: int, dual: bool, port: int) -> None:
        """Of a cluster in ``folder`` whose API server is also on ``port`` of the computer's own loopback. Starts nothing."""
        super().__init__(folder, build.programs(), port)
        self.dual = dual
        self.images = Images(self.programs)
        self.control = self._machine("control")
        self.nodes = [self._machine(f"n{number}") for number in range(1, NODES + 1)]
        self.laptops = [self._machine(f"l{number}") for number in range(1, laptops + 1)]
        self._services = self._plan()

    @classmethod
    def up(cls, *, laptops: int = 2, dual: bool = False) -> Cluster:
        """Bring a new cluster up; returns when both nodes are Ready.

        It is owned by this process: if that ends without having called :meth:`down`, the cluster is taken down for it. LabError with
        the reason if it does not come up, nothing being left then.
        """
        build.programs()
        runs.sweep()
        with listening_socket() as door:
            port = door.getsockname()[1]
            folder = runs.new_run(laptops=laptops, dual=dual, port=port)
            try:
                runs.start_reaper(folder)
                cluster = cls(folder, laptops=laptops, dual=dual, port=port)
                cluster._start(door)
            except BaseException:
                runs.destroy(folder)
                raise
        return cluster

    @classmethod
    def attach(cls, lab: str) -> Cluster:
        """The cluster that stands under this name."""
        folder = RUNS / lab
        record = runs.read_run(folder)
        return cls(folder, laptops=record["laptops"], dual=record["dual"], port=record["port"])

    def down(self) -> None:
        """End the cluster; nothing of it is left."""
        runs.destroy(self.folder)

    def run_shop(
        self,
        namespace: str,
        name="orders",
        *,
        replicas=2,
        ports=(8080,),
        service_ports: dict[int, int | str] | None = None,
        env=None,
        wait=True,
    ) -> None:
        """A Deployment of the shop image and a Service of the same name; the pods are spread over the nodes.

        ``service_ports`` maps a service port to a target port; without it port 80 goes to the first of ``ports``.
        """
        for item in shop(namespace, name, replicas, ports, service_ports or {80: ports[0]}, env or {}):
            group = "apis/apps/v1" if item["apiVersion"] == "apps/v1" else "api/v1"
            plural = item["kind"].lower() + "s"
            self.api("POST", f"/{group}/namespaces/{namespace}/{plural}", item)
        if wait and replicas:
            self.wait_ready(namespace, f"app={name}", replicas)
            self.wait_served(namespace, name)

    def wait_served(self, namespace: str, name: str, seconds=60.0) -> None:
        """Wait until every node sends connections to a service's ports on: kube-proxy is later than the pods' being Ready."""
        spec = self.get(f"/api/v1/namespaces/{namespace}/services/{name}")["spec"]
        for node in self.nodes:
            for port in spec["ports"]:
                host = f"[{spec['clusterIP']}]" if ":" in spec["clusterIP"] else spec["clusterIP"]
                url = f"http://{host}:{port['port']}/ready"
                again = f"until curl -s -o /dev/null -m 2 {url}; do sleep 0.1; done"
                node.run("timeout", f"{seconds:g}", "sh", "-c", again, timeout=seconds + 5)

    def run_in(self, machine: Machine, *argv: str | Path, **options) -> subprocess.CompletedProcess[str]:
        """Run a command on a laptop or node; see :meth:`Machine.run`."""
        return machine.run(*argv, **options)

    def shell_on_node(self, node: Machine, script: str, **options) -> subprocess.CompletedProcess[str]:
        """Run a shell script on a node."""
        return node.shell(script, **options)

    def address(self, machine: Machine, family: int = 4) -> str:
        """A machine's address in the lab."""
        own = self._addresses(machine)
        return own.ip if family == 4 else own.ip6

    def cable(self, machine: Machine, *, plugged: bool) -> None:
        """Pull a node's or laptop's cable out of the bridge, or put it in again."""
        network.batch(self.control.netns, [f"link set {machine.name} {'up' if plugged else 'down'}"])

    def load_image(self, *archives: Path) -> None:
        """Put the images of OCI archives on all nodes; pods then name them with ``imagePullPolicy: Never``."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: [import_image(node, archive) for archive in archives], self.nodes))

    def load_agent_image(self) -> None:
        """Build this checkout's agents' image, once for the same files, and put it on all nodes."""
        self.load_image(self.images.agent())

    def service(self, machine: Machine, name: str) -> Service:
        """One of the cluster's own processes: ``etcd``, ``apiserver`` … on control, ``containerd``, ``kubelet``, ``proxy`` on a node."""
        return self._services[machine.name, name]

    def stop_api(self) -> None:
        """The API server ends, at once if it does not soon by itself; etcd goes on."""
        self.service(self.control, "apiserver").stop(seconds=2)

    def start_api(self, seconds=60.0) -> None:
        """Start the API server again and wait until it is ready, and the cluster's own processes use it.

        These are started anew: left alone they ask for it in growing intervals, of up to a minute.
        """
        since = time.time()
        self.service(self.control, "apiserver").start()
        self._await_api(seconds)
        clients = [self.service(self.control, name) for name in ("controllers", "scheduler")]
        clients += [self.service(node, name) for node in self.nodes for name in ("kubelet", "proxy")]
        with ThreadPoolExecutor() as pool:
            list(pool.map(Service.restart, clients))
        for node in self.nodes:
            wait_until(
                lambda name=node.name: self._ready(name, since), seconds, lambda node=node: self._why(node)
            )

    def restart_kubelet(self, node: Machine, seconds=60.0) -> None:
        """kubelet ends and starts again; returns when the node is Ready by word of the new one."""
        since = time.time()
        self.service(node, "kubelet").restart()
        wait_until(lambda: self._ready(node.name, since), seconds, lambda: self._why(node))

    def restart_containerd(self, node: Machine, seconds=60.0) -> None:
        """containerd ends and starts again; containers keep running. Returns when it answers."""
        self.service(node, "containerd").restart()
        self._await_containerd(node, seconds)

    def _machine(self, name: str) -> Machine:
        return Machine(name, f"tpl-{self.id}-{name}", self.folder / name, self.id)

    def _addresses(self, machine: Machine) -> network.Addresses:
        if machine is self.control:
            return network.Addresses(network.CONTROL, network.CONTROL6)
        make = network.node_addresses if machine.name.startswith("n") else network.laptop_addresses
        return make(int(machine.name[1:]))

    def _plan(self) -> dict[tuple[str, str], Service]:
        """All processes of the cluster, by machine and name."""
        kube, plan, control = self.programs / "kube", {}, self.control
        flags = {
            "etcd": ("etcd", config.etcd(control.folder / "etcd")),
            "apiserver": ("kube-apiserver", config.apiserver(self.pki, self.dual)),
            "controllers": ("kube-controller-manager", config.controllers(self.pki, self.dual)),
            "scheduler": ("kube-scheduler", config.scheduler(self.pki)),
        }
        for name, (part, words) in flags.items():
            plan[control.name, name] = control.service(name, kube, part, *words)
        for node in self.nodes:
            own = self._addresses(node)
            plan[node.name, "containerd"] = node.service(
                "containerd", "containerd", "--config", node.folder / "containerd.toml"
            )
            words = config.kubelet(self.pki, node.name, own, node.folder / "kubelet.json", self.dual)
            plan[node.name, "kubelet"] = node.service("kubelet", kube, "kubelet", *words)
            plan[node.name, "proxy"] = node.service(
                "proxy", kube, "kube-proxy", *config.proxy(self.pki, node.name, self.dual)
            )
        return plan

    def _start(self, door: socket.socket) -> None:
        """Everything, as much as possible at once: the API server takes longest."""
        machines = [self.control, *self.nodes, *self.laptops]
        for machine in machines:
            machine.start(self.programs / "pod")
        nodes = [self._addresses(node) for node in self.nodes]
        named = zip([node.name for node in self.nodes], nodes, strict=True)
        pki.cluster_certificates(self.pki, {name: (own.ip, own.ip6) for name, own in named}, self.port)
        network.make_bridge(self.control.netns, self.dual)
        self.service(self.control, "etcd").start()
        self.service(self.control, "apiserver").start()
        words = [self.programs / "pod", "forward", f"{network.CONTROL}:{network.API_PORT}"]
        self.control.service("door", *words, stdin=door).start()
        for machine in machines[1:]:
            network.plug_in(
                machine.netns, self._addresses(machine), self.control.netns, machine.name, self.dual
            )
        network.route_pods(self.control.netns, None, nodes, self.dual)
        with ThreadPoolExecutor() as pool:
            prepared = [pool.submit(self._prepare_node, node) for node in self.nodes]
            self._await_api(90)
            self._serve_api()
            for name in ("controllers", "scheduler"):
                self.service(self.control, name).start()
            for done in prepared:
                done.result()
        for node in self.nodes:
            self.service(node, "kubelet").start()
            self.service(node, "proxy").start()
        for node in self.nodes:
            wait_until(lambda name=node.name: self._ready(name), 90, lambda node=node: self._why(node))

    def _serve_api(self) -> None:
        """Give the service ``kubernetes`` its endpoint, for good.

        Left to the API server it goes when that ends and comes back within a second, and kube-proxy may then lose the way to it
        (1.35, nftables).
        """
        meta = {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}}
        port = {"name": "https", "port": network.API_PORT, "protocol": "TCP"}
        slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
        body = {
            "metadata": meta,
            "addressType": "IPv4",
            "ports": [port],
            "endpoints": [{"addresses": [network.CONTROL]}],
        }
        wait_until(lambda: self._there("/api/v1/namespaces/default"), 20, "the namespace default")
        self.api("POST", slices, body)

    def _prepare_node(self, node: Machine) -> None:
        """Network, configuration and containerd with its images; all that does not need the API server."""
        own = self._addresses(node)
        network.route_pods(node.netns, own, [self._addresses(other) for other in self.nodes], self.dual)
        cgroup = runs.make_cgroups(self.id, node.name)
        net_d = node.folder / "lib" / "cni" / "net.d"
        net_d.mkdir(parents=True)
        (net_d / "10-lab.conflist").write_text(config.cni(own, self.dual))
        (node.folder / "containerd.toml").write_text(config.containerd())
        (node.folder / "kubelet.json").write_text(config.kubelet_file(self.pki, node.name, cgroup))
        self.service(node, "containerd").start()
        self._await_containerd(node, 30)
        import_image(node, self.images.small())

    def _await_api(self, seconds: float) -> None:
        server = self.service(self.control, "apiserver")

        def ready():
            if not server.pid:
                raise LabError(f"the API server has ended\n{server.tail()}")
            with contextlib.suppress(LabError):
                return self.get("/readyz")
            return None

        wait_until(ready, seconds, lambda: f"the API server\n{server.tail()}")

    def _await_containerd(self, node: Machine, seconds: float) -> None:
        service = self.service(node, "containerd")

        # The CRI plugin, not just the socket: kubelet's first call waits for it otherwise, for long.
        def good() -> bool:
            return bool(re.search(r"\bcri\b.*\bok\b", node.run("ctr", "plugins", "ls", check=False).stdout))

        wait_until(good, seconds, lambda: f"containerd on {node.name}\n{service.tail()}")

    def _ready(self, name: str, since: float = 0.0) -> bool:
        """Whether the node is Ready, and, with ``since`` (s since the epoch), was said to be so after it."""
        try:
            node = self.get(f"/api/v1/nodes/{name}")
        except LabError:
            return False
        if since:
            lease = self.get(f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}")
            if lease["spec"]["renewTime"] < time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since + 1)):
                return False
        return is_ready(node)

    def _why(self, node: Machine) -> str:
        tails = [f"-- {name}\n{self.service(node, name).tail(12)}" for name in ("kubelet", "containerd")]
        return "\n".join([f"node {node.name} to be Ready", *tails])


def import_image(node: Machine, archive: Path) -> None:
    """Import the images of one archive into a node's containerd."""
    node.run("ctr", "-n", "k8s.io", "images", "import", archive, timeout=180)


@contextlib.contextmanager
def listening_socket() -> Iterator[socket.socket]:
    """A socket that listens on the loopback of the tests' own namespace, on a free port below those that the kernel gives away."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            door = socket.create_server(("127.0.0.1", 20000 + secrets.randbelow(12000)), backlog=512)
            break
    else:
        raise LabError("no free port between 20000 and 31999 on 127.0.0.1")
    with door:
        yield door
