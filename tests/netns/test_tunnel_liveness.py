import asyncio
import socket
import time

import pytest
from tunnel_lab import Lab, Pair

from tpnet.tunnel import HEARTBEAT_PORT, HeartbeatReceiver, HeartbeatSender


@pytest.fixture
def pair():
    lab = Lab()
    try:
        yield Pair(lab)
    finally:
        lab.close()


class Watch:
    """Both halves of the heartbeat over a pair of ends, and what they said, with the time."""

    def __init__(self, pair):
        self.pair = pair
        self.agent_said, self.session_said = [], []
        inbox = pair.agent.socket(socket.SOCK_DGRAM)
        inbox.bind((str(pair.agent.address), HEARTBEAT_PORT))
        self.receiver = HeartbeatReceiver(
            inbox, lambda address, up: self.agent_said.append((time.monotonic(), address, up))
        )
        self.sender = self.new_sender()

    def new_sender(self):
        out = self.pair.session.socket(socket.SOCK_DGRAM)
        out.connect((str(self.pair.agent.address), HEARTBEAT_PORT))
        return HeartbeatSender(out, lambda up: self.session_said.append((time.monotonic(), up)))

    async def __aenter__(self):
        self.receiver.expect(self.pair.session.address)
        await self.receiver.start()
        await self.sender.start()
        return self

    async def __aexit__(self, *_):
        self.sender.close()
        self.receiver.close()
        await asyncio.sleep(0)


async def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


def test_f02_silence_is_known_within_three_seconds_and_return_at_once(pair):
    async def main():
        async with Watch(pair) as watch:
            await until(lambda: watch.agent_said and watch.session_said)
            assert watch.agent_said[0][1:] == (pair.session.address, True)
            assert watch.session_said[0][1] is True
            await until(lambda: watch.receiver.presence(pair.session.address).rtt_ms > 0)
            assert 0 < watch.sender.rtt_ms < 1000
            watch.sender.close()
            silent = time.monotonic()
            await until(lambda: len(watch.agent_said) == 2)
            assert watch.agent_said[1][1:] == (pair.session.address, False)
            assert 1.0 < watch.agent_said[1][0] - silent < 5.0
            watch.sender = watch.new_sender()
            await watch.sender.start()
            await until(lambda: len(watch.agent_said) == 3)
            assert watch.agent_said[2][2] is True

    asyncio.run(main())


def test_daemon_knows_a_silent_agent_within_three_seconds(pair):
    async def main():
        async with Watch(pair) as watch:
            await until(lambda: watch.sender.up)
            pair.agent.remove_peer(pair.session.keys.public)
            silent = time.monotonic()
            await until(lambda: not watch.sender.up)
            assert 1.0 < time.monotonic() - silent < 5.0
            assert watch.session_said[-1][1] is False

    asyncio.run(main())


def test_goodbye_is_known_at_once_and_nothing_is_echoed_any_more(pair):
    async def main():
        async with Watch(pair) as watch:
            await until(lambda: watch.sender.up)
            watch.receiver.goodbye()
            said = time.monotonic()
            await until(lambda: not watch.sender.up)
            assert time.monotonic() - said < 1.5, "sooner than silence would tell"
            assert watch.sender.gone
            await asyncio.sleep(1.2)
            assert not watch.sender.up
            assert len(watch.session_said) == 2
            assert watch.receiver.presence(pair.session.address).up, "who ends still hears"

    asyncio.run(main())


def test_nobody_is_told_of_a_forgotten_session(pair):
    async def main():
        async with Watch(pair) as watch:
            await until(lambda: watch.agent_said)
            watch.receiver.forget(pair.session.address)
            assert not watch.receiver.presence(pair.session.address).up
            await asyncio.sleep(0.7)
            assert len(watch.agent_said) == 1
            assert watch.receiver.presence(pair.session.address).seen == 0

    asyncio.run(main())


def test_hostile_datagrams_are_ignored(pair):
    async def main():
        async with Watch(pair) as watch:
            await until(lambda: watch.sender.up)
            with pair.session.socket(socket.SOCK_DGRAM) as hostile:
                hostile.setblocking(False)
                hostile.connect((str(pair.agent.address), HEARTBEAT_PORT))
                for data in (
                    b"",
                    b"tH",
                    b"tH" + bytes(13),
                    b"tH" + bytes(1231),
                    b"tE" + bytes(14),
                    b"x" * 1200,
                ):
                    hostile.send(data)
                await asyncio.sleep(0.3)
                with pytest.raises(BlockingIOError):
                    hostile.recv(100)
            assert watch.sender.up

    asyncio.run(main())
