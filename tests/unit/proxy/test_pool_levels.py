"""How many more clients a pool of prepared sockets can serve, as it tells the kernel."""

import pytest

from tpnet.kernel.signs import Level
from tpnet.proxy.loop import Loop
from tpnet.proxy.pool import LATE, SocketPool


class Sock:
    def fileno(self):
        return 1_000_000

    def close(self):
        pass


class Client:
    def __init__(self):
        self.sock = None

    def given(self, sock):
        self.sock = sock


class Bed:
    """A pool, and who makes its sockets: ``asked`` are those not made yet."""

    def __init__(self, least=32, most=512):
        self.loop = Loop()
        self.loop.now = 1000.0
        self.asked = 0
        self.room = 1_000_000
        self.levels = []
        self.pool = SocketPool(self.loop, least, most, self._ask, self.levels.append)

    def _ask(self, count):
        count = min(count, self.room)
        self.room -= count
        self.asked += count
        return count

    def make(self, count=None):
        count = self.asked if count is None else count
        self.asked -= count
        self.pool.add([Sock() for _ in range(count)])

    def take(self, count=1):
        """So many clients come; those that wait."""
        waiting = []
        for _ in range(count):
            if self.pool.take() is None:
                client = Client()
                self.pool.waiting[client] = None
                waiting.append(client)
        return waiting

    def close(self):
        self.loop.epoll.close()


@pytest.fixture
def bed():
    bed = Bed()
    bed.pool.refill()
    yield bed
    bed.close()


def test_a_full_pool_serves_whoever_makes_sockets_lives_or_not(bed):
    bed.make()
    assert bed.levels == [Level.SERVES]
    bed.take(15)
    assert bed.levels == [Level.SERVES]


def test_at_half_it_is_low_until_it_is_refilled(bed):
    bed.make()
    bed.take(16)
    assert bed.levels == [Level.SERVES, Level.LOW]
    bed.make()
    assert bed.levels == [Level.SERVES, Level.LOW, Level.SERVES]


def test_empty_it_is_low_as_long_as_sockets_come_soon(bed):
    bed.make()
    waiting = bed.take(40)
    assert bed.levels[-1] is Level.LOW
    bed.loop.now += LATE / 2
    bed.make()
    assert all(client.sock for client in waiting)
    assert bed.levels[-1] is Level.SERVES
    assert Level.AWAY not in bed.levels


def test_nearly_empty_it_is_away_when_sockets_do_not_come_and_nobody_has_waited(bed):
    bed.make()
    bed.take(16)
    bed.loop.now += 2 * LATE
    bed.take(11)
    assert bed.levels[-1] is Level.LOW
    assert bed.take() == []
    assert bed.levels[-1] is Level.AWAY
    bed.make(10)
    assert bed.levels[-1] is Level.LOW
    bed.make()
    assert bed.levels[-1] is Level.SERVES


def test_nearly_empty_it_is_away_at_once_when_there_is_no_room_for_more(bed):
    bed.make()
    bed.room = 0
    bed.take(27)
    assert bed.levels[-1] is Level.LOW
    assert bed.take() == []
    assert bed.levels[-1] is Level.AWAY
    bed.room = 1000
    bed.loop.now += 1
    bed.pool.tick()
    bed.make()
    assert bed.levels[-1] is Level.SERVES


def test_those_who_wait_come_first_and_new_clients_when_there_is_more(bed):
    bed.make()
    waiting = bed.take(40)
    bed.loop.now += 2 * LATE
    bed.take()
    assert bed.levels[-1] is Level.AWAY
    bed.make(4)  # part of a batch: it all goes to those who wait
    assert sum(client.sock is not None for client in waiting) == 4
    bed.loop.now += 2 * LATE
    bed.pool.tick()
    assert bed.levels[-1] is Level.AWAY
    bed.make()
    assert all(client.sock for client in waiting)
    assert bed.levels[-1] is Level.SERVES


def test_nobody_has_to_come_for_it_to_be_away(bed):
    bed.make()
    bed.take(33)
    bed.loop.now += 1
    bed.pool.tick()
    assert bed.levels[-1] is Level.AWAY


def test_a_level_is_told_once(bed):
    bed.make()
    for _ in range(300):
        bed.take()
        bed.make()
    assert all(one is not other for one, other in zip(bed.levels, bed.levels[1:], strict=False))


def test_what_goes_in_a_second_is_prepared_ahead_and_not_for_ever(bed):
    bed.make()
    for _ in range(5):
        for _ in range(400):
            bed.take()
            bed.make()
        bed.pool.tick()
        bed.make()
    assert len(bed.pool.ready) >= 256
    assert len(bed.pool.ready) <= 512
    for _ in range(10):
        bed.pool.tick()
    assert len(bed.pool.ready) == 32, "what is too many is closed"


def test_it_grows_within_the_second(bed):
    bed.make()
    for _ in range(200):
        bed.take()
        bed.make()
    assert bed.pool._want >= 200


def test_it_never_has_more_ahead_than_it_may(bed):
    bed.make()
    for _ in range(5):
        for _ in range(5000):
            bed.take()
            bed.make()
        bed.pool.tick()
        bed.make()
    assert len(bed.pool.ready) <= 512


def test_who_has_too_many_clients_declines_whatever_it_has_until_there_is_room(bed):
    bed.make()
    bed.pool.decline(declines=True)
    assert bed.levels[-1] is Level.AWAY
    bed.take(20)
    bed.make()
    assert bed.levels[-1] is Level.AWAY
    bed.pool.decline(declines=False)
    assert bed.levels[-1] is Level.SERVES


def test_who_waits_gets_a_socket_however_late_it_comes(bed):
    bed.asked = 0  # as if nobody had heard
    client = Client()
    assert bed.pool.take() is None
    bed.pool.wait(client)
    for _ in range(30):
        bed.loop.now += 1
        bed.pool.tick()
    assert client.sock is None
    assert bed.levels[-1] is Level.AWAY
    bed.make()
    assert client.sock is not None
    assert bed.levels[-1] is Level.SERVES
