"""The interface that ``wireguard-go`` is given, so that it needs no privilege to make one.

``tpnet.tunnel.wireguard_go`` calls this. It must never leave an interface behind: each goes with its last descriptor.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from typing import TYPE_CHECKING

from tpnet.tunnel.device import DeviceError

if TYPE_CHECKING:
    from collections.abc import Iterator

_MTU = 1420
"""Bytes, as wireguard-go would set it; the tunnel's own comes later."""
# linux/if_tun.h, linux/if.h, linux/sockios.h
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR, _SIOCSIFMTU = 0x400454CA, 0x0001, 0x1000, 0x4000, 0x8922
_IFREQ = 40


@contextlib.contextmanager
def interface(name: str, *, offload: bool) -> Iterator[int]:
    """The descriptor of a new interface, which is there while one has it. Raises ``DeviceError``.

    With ``offload`` a struct virtio_net_hdr is before each packet, otherwise a struct tun_pi.
    """
    flags = _IFF_TUN | (_IFF_NO_PI | _IFF_VNET_HDR if offload else 0)
    try:
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise DeviceError(
            f"wireguard-go needs /dev/net/tun: {error.strerror}.",
            "Load the tun module, or hand the device to the container.",
        ) from error
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH", name.encode(), flags).ljust(_IFREQ, b"\0"))
            fcntl.ioctl(sock, _SIOCSIFMTU, struct.pack("16si", name.encode(), _MTU).ljust(_IFREQ, b"\0"))
    except OSError as error:
        os.close(tun)
        raise DeviceError(
            f"The interface {name} cannot be made: {error.strerror}.", "It takes root (CAP_NET_ADMIN)."
        ) from error
    try:
        yield tun
    finally:
        os.close(tun)
