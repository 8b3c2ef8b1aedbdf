import pytest

from tpnet.kernel.endpoint import ENDPOINT, pack_endpoint


def test_an_endpoint_is_20_bytes_in_network_order():
    packed = pack_endpoint("10.1.2.3", 0x1234)
    assert packed == bytes(10) + b"\xff\xff\x0a\x01\x02\x03" + b"\x12\x34" + bytes(2)
    assert pack_endpoint("fd00::1", 80) == b"\xfd" + bytes(14) + b"\x01" + b"\x00\x50" + bytes(2)
    assert ENDPOINT.size == 20


def test_ipv4_is_the_same_however_accept_shows_it():
    assert pack_endpoint("::ffff:10.1.2.3", 80) == pack_endpoint("10.1.2.3", 80)


def test_a_zone_does_not_matter():
    assert pack_endpoint("fe80::1%eth0", 80) == pack_endpoint("fe80::1", 80)


@pytest.mark.parametrize("text", ["", "host", "10.1.2", "10.1.2.3.4", "fd00:::1", "10.1.2.999"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(OSError):
        pack_endpoint(text, 80)
