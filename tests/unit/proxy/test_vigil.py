from types import SimpleNamespace

import pytest

from tpnet.kernel.tcp import TcpInfo
from tpnet.proxy import vigil
from tpnet.proxy.vigil import GONE, ROUND, Vigil


class Client:
    def __init__(self, info):
        self.info = info
        self.done = False
        self.looked_at = 0
        self.client = SimpleNamespace(sock=self)

    def abort(self):
        self.done = True


@pytest.fixture(autouse=True)
def infos(monkeypatch):
    def tcp_info(client):
        client.looked_at += 1
        if client.info is None:
            raise OSError
        return client.info

    monkeypatch.setattr(vigil, "tcp_info", tcp_info)


def test_who_confirms_nothing_of_what_was_sent_is_gone_and_nobody_else():
    gone = Client(TcpInfo(1, GONE + 1))
    others = [
        Client(TcpInfo(0, GONE * 100)),  # idle, or with a closed window
        Client(TcpInfo(5, GONE - 1)),
        Client(None),
    ]
    watch = Vigil({gone, *others})
    for _ in range(ROUND):
        watch.tick()
    assert gone.done
    assert not any(client.done for client in others)


@pytest.mark.parametrize("count", [1, ROUND - 1, ROUND, 1000])
def test_everybody_is_looked_at_once_in_a_round(count):
    clients = {Client(TcpInfo(0, 0)) for _ in range(count)}
    watch = Vigil(clients)
    for _ in range(ROUND):
        watch.tick()
        assert sum(client.looked_at for client in clients) <= count or count < ROUND
    assert all(client.looked_at for client in clients)
