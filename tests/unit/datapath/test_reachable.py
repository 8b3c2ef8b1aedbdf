import pytest

from tpnet.datapath.listening import reachable


@pytest.mark.parametrize(
    ("addresses", "answer"),
    [
        ({"127.0.0.1"}, False),
        ({"::1", "127.0.0.53"}, False),
        ({"::1", "10.0.0.1"}, True),
        ({"0.0.0.0"}, True),
        ({"::"}, True),
    ],
)
def test_loopback_listeners_cannot_be_reached_by_others(addresses, answer):
    assert reachable(frozenset(addresses)) is answer
