"""WireGuard between an agent and its sessions: keys, devices, tunnel ends, liveness.

The agent and the session daemon call this. It must never add a route, rule or address to the namespace that
its caller lives in.
"""

from tpnet.tunnel.device import DeviceError, PeerStats, WireGuardDevice, open_device
from tpnet.tunnel.end import AGENT_UDP_PORT, MTU, TunnelEnd
from tpnet.tunnel.keys import KeyPair, address_of, check_public_key, prefix_of
from tpnet.tunnel.liveness import HEARTBEAT_PORT, HeartbeatReceiver, HeartbeatSender

__all__ = [
    "AGENT_UDP_PORT",
    "HEARTBEAT_PORT",
    "MTU",
    "DeviceError",
    "HeartbeatReceiver",
    "HeartbeatSender",
    "KeyPair",
    "PeerStats",
    "TunnelEnd",
    "WireGuardDevice",
    "address_of",
    "check_public_key",
    "open_device",
    "prefix_of",
]
