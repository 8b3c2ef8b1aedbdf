"""How the two drivers read what their other side answers; the rest of them needs a kernel (tests/netns)."""

import base64
from ipaddress import IPv6Address
from socket import AF_INET6, inet_pton

from pyroute2.netlink.generic.wireguard import wgmsg

from tpnet.tunnel import kernel, wireguard_go
from tpnet.tunnel.device import NAME_PREFIX, new_name

ONE, TWO = bytes(range(32)), bytes(range(1, 33))


def test_names_are_ours_unique_and_fit():
    names = {new_name() for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith(NAME_PREFIX) and len(name) == 11 for name in names)


def test_wireguard_go_answer():
    answer = [
        ("private_key", "00" * 32),
        ("listen_port", "21820"),
        ("public_key", ONE.hex()),
        ("preshared_key", "00" * 32),
        ("protocol_version", "1"),
        ("endpoint", "[2001:db8::1]:51820"),
        ("last_handshake_time_sec", "1700000000"),
        ("last_handshake_time_nsec", "500000000"),
        ("tx_bytes", "11"),
        ("rx_bytes", "22"),
        ("persistent_keepalive_interval", "25"),
        ("allowed_ip", "fd00::1/128"),
        ("public_key", TWO.hex()),
        ("endpoint", "10.0.0.1:7"),
        ("errno", "0"),
    ]
    peers = wireguard_go.parse_peers(answer)
    one, two = (base64.b64encode(key).decode() for key in (ONE, TWO))
    assert set(peers) == {one, two}
    assert peers[one].endpoint == ("2001:db8::1", 51820)
    assert peers[one].last_handshake == 1_700_000_000.5
    assert (peers[one].tx, peers[one].rx) == (11, 22)
    assert peers[one].allowed == IPv6Address("fd00::1")
    assert peers[two].endpoint == ("10.0.0.1", 7)
    assert peers[two].allowed is None
    assert peers[two].last_handshake == 0
    assert wireguard_go.parse_peers([("listen_port", "0"), ("errno", "0")]) == {}


def kernel_message(peers):
    """A WG_CMD_GET_DEVICE message as the kernel sends it: encoded to bytes and read back."""
    message = wgmsg()
    message["attrs"] = [["WGDEVICE_A_IFNAME", "tpn0"], ["WGDEVICE_A_PEERS", peers]]
    message.encode()
    read = wgmsg(message.data)
    read.decode()
    return read


def test_kernel_dump_in_several_messages():
    first = kernel_message(
        [
            {
                "attrs": [
                    ["WGPEER_A_PUBLIC_KEY", base64.b64encode(ONE).decode()],
                    ["WGPEER_A_ENDPOINT", {"addr": "2001:db8::1", "port": 51820}],
                    ["WGPEER_A_LAST_HANDSHAKE_TIME", {"tv_sec": 1_700_000_000, "tv_nsec": 500_000_000}],
                    ["WGPEER_A_RX_BYTES", 22],
                    ["WGPEER_A_TX_BYTES", 11],
                    [
                        "WGPEER_A_ALLOWEDIPS",
                        [
                            {
                                "attrs": [
                                    ["WGALLOWEDIP_A_FAMILY", AF_INET6],
                                    ["WGALLOWEDIP_A_IPADDR", inet_pton(AF_INET6, "fd00::1")],
                                    ["WGALLOWEDIP_A_CIDR_MASK", 128],
                                ]
                            }
                        ],
                    ],
                ]
            }
        ]
    )
    second = kernel_message([{"attrs": [["WGPEER_A_PUBLIC_KEY", base64.b64encode(TWO).decode()]]}])
    none = wgmsg()
    peers = kernel.parse_peers([first, second, none])
    one, two = (base64.b64encode(key).decode() for key in (ONE, TWO))
    assert set(peers) == {one, two}
    assert peers[one].endpoint == ("2001:db8::1", 51820)
    assert peers[one].last_handshake == 1_700_000_000.5
    assert (peers[one].tx, peers[one].rx) == (11, 22)
    assert peers[one].allowed == IPv6Address("fd00::1")
    assert peers[two].endpoint is None
    assert peers[two].last_handshake == 0
