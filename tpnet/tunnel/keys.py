"""Key pairs, and the tunnel address that follows from a public key.

Both ends of a tunnel call this, and compute each other's address from the public key alone: nobody can
claim an address that is not theirs, since WireGuard lets only the key's holder send from it. Must never
write a private key anywhere, nor show it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from ipaddress import IPv6Address, IPv6Network

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tpnet.model import InvalidInput

LOCAL_INSTALL = "tpnet local"
"""The install id without a cluster. The prefix only keeps two *clusters* apart for a laptop that uses both;
agents without a cluster never share a namespace with each other's addresses, so that one constant serves
them all."""

_ADDRESS_TAG = b"tpnet tunnel address v1\0"


class KeyPair:
    """A WireGuard key pair (X25519, RFC 7748). It lives as long as its tunnel end, in memory only."""

    __slots__ = ("_private", "public")

    def __init__(self) -> None:
        key = X25519PrivateKey.generate()
        self._private = key.private_bytes_raw()
        self.public: str = base64.b64encode(key.public_key().public_bytes_raw()).decode()
        """The public half, in base64 as WireGuard's own tools write it."""

    def private_bytes(self) -> bytes:
        """The 32 private bytes, for a device's configuration and nothing else."""
        return self._private

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public!r})"

    def __reduce__(self) -> str:
        raise TypeError("a key pair does not leave its process")


def check_public_key(public_key: str) -> bytes:
    """The 32 bytes of a public key in base64.

    Raises ``InvalidInput`` for anything but the one canonical text of 32 bytes: two texts never mean one key.
    """
    try:
        raw = base64.b64decode(public_key, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 32 or base64.b64encode(raw).decode() != public_key:
        raise InvalidInput("The public key is not a WireGuard key: 32 bytes in base64 are wanted.")
    return raw


def prefix_of(install_id: str = LOCAL_INSTALL) -> IPv6Network:
    """The /48 of an install's tunnel addresses: fd (RFC 4193), then 40 bits of SHA-256 of its id."""
    digest = hashlib.sha256(install_id.encode()).digest()
    return IPv6Network((b"\xfd" + digest[:5] + bytes(10), 48))


def address_of(public_key: str, prefix: IPv6Network) -> IPv6Address:
    """The tunnel address of a key's holder: the prefix, then 80 bits of SHA-256 of a domain tag and the key.

    Raises ``InvalidInput`` when the key is malformed.
    """
    digest = hashlib.sha256(_ADDRESS_TAG + check_public_key(public_key)).digest()
    return IPv6Address(prefix.network_address.packed[:6] + digest[:10])
