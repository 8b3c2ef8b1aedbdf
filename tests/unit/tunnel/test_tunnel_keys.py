import base64
import hashlib
import pickle
from ipaddress import IPv6Address, IPv6Network

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tpnet.model import InvalidInput
from tpnet.tunnel.keys import KeyPair, address_of, check_public_key, prefix_of

KEY = base64.b64encode(bytes(range(32))).decode()


def test_public_key_belongs_to_the_private_one():
    pair = KeyPair()
    private = X25519PrivateKey.from_private_bytes(pair.private_bytes())
    assert check_public_key(pair.public) == private.public_key().public_bytes_raw()


def test_pairs_are_fresh():
    assert len({KeyPair().public for _ in range(20)}) == 20


def test_private_key_is_neither_shown_nor_pickled():
    pair = KeyPair()
    for text in (repr(pair), str(pair), f"{pair}"):
        assert pair.public in text
        assert pair.private_bytes().hex() not in text
        assert base64.b64encode(pair.private_bytes()).decode() not in text
    assert not hasattr(pair, "__dict__")
    with pytest.raises(TypeError, match="does not leave its process"):
        pickle.dumps(pair)


def test_prefix_is_unique_local_and_follows_from_the_install():
    assert prefix_of("a") == prefix_of("a") != prefix_of("b")
    assert prefix_of() == prefix_of("tpnet local")
    assert prefix_of("a").prefixlen == 48
    assert prefix_of("a").subnet_of(IPv6Network("fd00::/8"))
    assert prefix_of("a").network_address.packed[1:6] == hashlib.sha256(b"a").digest()[:5]


def test_address_is_the_prefix_and_eighty_bits_of_the_keys_hash():
    prefix = prefix_of("a")
    address = address_of(KEY, prefix)
    assert address in prefix
    digest = hashlib.sha256(b"tpnet tunnel address v1\0" + bytes(range(32))).digest()
    assert address == IPv6Address(prefix.network_address.packed[:6] + digest[:10])
    assert address_of(KeyPair().public, prefix) != address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "short",
        base64.b64encode(bytes(31)).decode(),
        base64.b64encode(bytes(33)).decode(),
        KEY + "\n",
        KEY[:-1],
        KEY.replace("=", ""),
        KEY[:20] + "\n" + KEY[20:],
        KEY[:-2] + "9=",  # the same bytes, written with stray low bits
        "é" * 44,
    ],
)
def test_anything_but_the_one_text_of_a_key_is_refused(text):
    with pytest.raises(InvalidInput, match="not a WireGuard key"):
        check_public_key(text)
