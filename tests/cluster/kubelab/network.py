"""The lab's network: one bridge in the control plane's namespace, a cable from it to every node and laptop. Used by cluster.py.

The addresses are the same in every cluster: no namespace of one is connected to another's, nor to the machine's own.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubelab.tools import run

CONTROL = "172.30.0.1"
PODS = "10.64.0.0/16"
SERVICES = "10.96.0.0/16"
CONTROL6 = "fd30::1"
PODS6 = "fd64::/56"
SERVICES6 = "fd96::/112"
KUBERNETES = "10.96.0.1"  # the service `kubernetes`: the first address of SERVICES
API_PORT = 6443


@dataclass(frozen=True)
class Addresses:
    """What one machine has: its own addresses and, for a node, the pod subnets that are routed to it."""

    ip: str
    ip6: str
    pods: str = ""
    pods6: str = ""


def node_addresses(number: int) -> Addresses:
    """Of the node ``number``, from 1."""
    return Addresses(
        f"172.30.0.{10 + number}", f"fd30::1:{number:x}", f"10.64.{number}.0/24", f"fd64:0:0:{number:x}::/64"
    )


def laptop_addresses(number: int) -> Addresses:
    """Of the laptop ``number``, from 1. No pod is routed to from there: as on a desk, only nodes and API server are reached."""
    return Addresses(f"172.30.0.{100 + number}", f"fd30::2:{number:x}")


def make_bridge(netns: str, dual: bool) -> None:
    """In the control plane's namespace: the bridge ``lan`` with the control plane's address, which forwards."""
    lines = [
        "link set lo up",
        "link add lan type bridge",
        "link set lan up",
        f"addr add {CONTROL}/24 dev lan",
    ]
    batch(netns, lines + [f"addr add {CONTROL6}/64 dev lan nodad"] * dual)
    forward(netns, dual)


def plug_in(netns: str, own: Addresses, control_netns: str, port: str, dual: bool) -> None:
    """Give ``netns`` an interface ``eth0`` with its addresses, whose other end is ``port`` of the bridge."""
    add = ["link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", netns]
    run("ip", "-n", control_netns, *add)
    batch(control_netns, [f"link set {port} master lan up"])
    lines = ["link set lo up", "link set eth0 up", f"addr add {own.ip}/24 dev eth0"]
    batch(netns, lines + [f"addr add {own.ip6}/64 dev eth0 nodad"] * dual)


def route_pods(netns: str, own: Addresses | None, nodes: list[Addresses], dual: bool) -> None:
    """Routes to the pods of all ``nodes`` but one's own.

    A node (``own``) forwards, and hides its pods behind its own address from all but pods, as nodes do; the control plane (None) has
    the routes only.
    """
    lines = [f"route add {node.pods} via {node.ip}" for node in nodes if node != own]
    lines += [f"route add {node.pods6} via {node.ip6}" for node in nodes if node != own and dual]
    if own:
        lines += [f"route add default via {CONTROL}"] + [f"route add default via {CONTROL6}"] * dual
        rules = [
            f"ip saddr {PODS} ip daddr != {PODS} masquerade",
            f"ip6 saddr {PODS6} ip6 daddr != {PODS6} masquerade",
        ]
        table = "table inet lab { chain hide { type nat hook postrouting priority srcnat; %s; }; }"
        run("nsenter", f"--net=/run/netns/{netns}", "nft", "-f", "-", stdin=table % "; ".join(rules))
        forward(netns, dual)
    batch(netns, lines)


def batch(netns: str, lines: list[str]) -> None:
    """Run lines of the ip command in a namespace."""
    run("ip", "-n", netns, "-batch", "-", stdin="\n".join(lines) + "\n")


def forward(netns: str, dual: bool) -> None:
    """Let a namespace pass on what is not for itself."""
    names = ["net.ipv4.ip_forward"] + ["net.ipv6.conf.all.forwarding"] * dual
    run("nsenter", f"--net=/run/netns/{netns}", "sysctl", "-qw", *[f"{name}=1" for name in names])
