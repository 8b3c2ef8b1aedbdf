"""What the parts of the cluster are told: flags and configuration files. Used by cluster.py; pure text.

Why each unusual setting is there stands beside it: most are owed to several nodes living on one small, unprivileged computer.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kubelab import network

if TYPE_CHECKING:
    from pathlib import Path

    from kubelab.network import Addresses

PAUSE = "localhost/pause:1"
SHOP = "localhost/shop:1"
DROPPED = ("snapshotter.v1.aufs", "snapshotter.v1.btrfs", "snapshotter.v1.devmapper", "snapshotter.v1.zfs")


def both(first: str, second: str, dual: bool) -> str:
    """A flag's value for one family or for two."""
    return f"{first},{second}" if dual else first


def etcd(data: Path) -> list[str]:
    """etcd, on the control plane's loopback; nothing in it needs to outlive a power cut."""
    return [
        f"--data-dir={data}", "--unsafe-no-fsync", "--log-level=warn", "--listen-peer-urls=http://127.0.0.1:2380",
        "--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
    ]  # fmt: skip


def apiserver(pki: Path, dual: bool) -> list[str]:
    """The API server: authorization, admission and kubelet's certificates as in real clusters."""
    return [
        "--etcd-servers=http://127.0.0.1:2379",
        f"--bind-address={'::' if dual else '0.0.0.0'}",
        f"--advertise-address={network.CONTROL}",
        f"--secure-port={network.API_PORT}",
        f"--service-cluster-ip-range={both(network.SERVICES, network.SERVICES6, dual)}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--endpoint-reconciler-type=none",  # the lab does that itself
        f"--client-ca-file={pki}/ca.crt",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--kubelet-client-certificate={pki}/apiserver-kubelet.crt",
        f"--kubelet-client-key={pki}/apiserver-kubelet.key",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={pki}/accounts.pub",
        f"--service-account-signing-key-file={pki}/accounts.key",
        "--profiling=false",
    ]


def controllers(pki: Path, dual: bool) -> list[str]:
    """The controller manager. Pod subnets are the lab's matter, not its."""
    return [
        f"--kubeconfig={pki}/controllers.conf",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        "--allocate-node-cidrs=false",
        f"--cluster-cidr={both(network.PODS, network.PODS6, dual)}",
        f"--root-ca-file={pki}/ca.crt",
        f"--service-account-private-key-file={pki}/accounts.key",
        "--bind-address=127.0.0.1",
        "--flex-volume-plugin-dir=/var/lib/flex",  # the default would be made in the computer's own /usr
    ]


def scheduler(pki: Path) -> list[str]:
    """The scheduler."""
    return [f"--kubeconfig={pki}/scheduler.conf", "--leader-elect=false", "--bind-address=127.0.0.1"]


def containerd() -> str:
    """containerd's config.toml, with the paths of a real node; they are the machine's own."""
    dropped = json.dumps([f"io.containerd.{name}" for name in DROPPED])
    return f"""\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = {dropped}
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "/var/lib/containerd/opt"  # the default would be made in the computer's own /opt
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true  # without CAP_SYS_RESOURCE runc cannot lower it, and dies
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "/var/lib/cni/net.d"
"""


def cni(own: Addresses, dual: bool) -> str:
    """The pods' network: a cable and a route each, so that also a service's answer from a pod beside passes the node's translation."""
    ranges = [[{"subnet": own.pods}]] + [[{"subnet": own.pods6}]] * dual
    routes = [{"dst": "0.0.0.0/0"}] + [{"dst": "::/0"}] * dual
    ipam = {"type": "host-local", "dataDir": "/run/cni-addresses", "ranges": ranges, "routes": routes}
    plugins = [
        {"type": "ptp", "ipMasq": False, "mtu": 1500, "ipam": ipam},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    return json.dumps({"cniVersion": "0.4.0", "name": "lab", "plugins": plugins})


def kubelet_file(pki: Path, name: str, cgroup: str) -> str:
    """kubelet's configuration file."""
    return json.dumps(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{pki}/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": f"{pki}/kubelet-{name}.crt",
            "tlsPrivateKeyFile": f"{pki}/kubelet-{name}.key",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroup,  # two kubelets on one root delete each other's pods
            "failCgroupV1": False,
            "oomScoreAdj": 0,  # see containerd
            "failSwapOn": False,
            # A busy shared disk must not evict anything.
            "evictionHard": {
                "memory.available": "1Mi",
                "nodefs.available": "1Mi",
                "imagefs.available": "1Mi",
            },
            "enforceNodeAllocatable": [],
            "imageGCHighThresholdPercent": 100,
            "localStorageCapacityIsolation": False,
            "resolvConf": "",  # there is no DNS in the lab
            "volumePluginDir": "/var/lib/kubelet/volumeplugins",  # the default would be made in the computer's own /usr
            "syncFrequency": "10s",
            "nodeStatusUpdateFrequency": "5s",
        }
    )


def kubelet(pki: Path, name: str, own: Addresses, file: Path, dual: bool) -> list[str]:
    """kubelet's flags."""
    return [
        f"--config={file}",
        f"--kubeconfig={pki}/kubelet-{name}.conf",
        f"--hostname-override={name}",
        f"--node-ip={both(own.ip, own.ip6, dual)}",
    ]


def proxy(pki: Path, name: str, dual: bool) -> list[str]:
    """kube-proxy; zeros keep it from settings that are the whole computer's."""
    return [
        f"--kubeconfig={pki}/proxy.conf",
        "--proxy-mode=nftables",
        f"--hostname-override={name}",
        f"--cluster-cidr={both(network.PODS, network.PODS6, dual)}",
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
        "--nodeport-addresses=primary",
    ]
