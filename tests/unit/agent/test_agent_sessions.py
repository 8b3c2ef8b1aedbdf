"""What the agent remembers of its sessions while their tunnel's device dies and is made anew."""

import asyncio
import os
import time
from types import SimpleNamespace

import pytest

from tpnet.agent.sessions import KEEPALIVE, Sessions
from tpnet.model import Session
from tpnet.tunnel import KeyPair, PeerStats
from tpnet.tunnel.device import DeviceError

HOME, CAFE = ("10.0.0.7", 4000), ("10.9.9.9", 5000)


class Book:
    def __init__(self, *names):
        self.sessions = {name: self.entry(name) for name in names}

    @staticmethod
    def entry(name):
        return SimpleNamespace(session=Session(f"{name}@laptop", name, KeyPair().public))

    def key(self, name):
        return self.sessions[name].session.public_key


class End:
    """A tunnel end. ``added`` has the peers of each of its devices with what they were added with; ``steps`` is what is
    waited for before a revival goes on, ``failures`` are raised by ``add_peer`` in turn."""

    def __init__(self):
        self._pipe = os.pipe()
        self.device = SimpleNamespace(watch=self._pipe[0], kind="wireguard-go")
        self.living = True
        self.at = {}
        self.added = [{}]
        self.revived = asyncio.Event()
        self.go_on = asyncio.Event()
        self.failures = []

    def alive(self):
        return self.living

    def die(self):
        self.living, self.at = False, {}
        os.write(self._pipe[1], b"x")  # what a pidfd does when its process ends

    async def revive(self):
        os.read(self._pipe[0], 1)
        self.living = True
        self.added.append({})
        self.revived.set()
        await self.go_on.wait()

    def peers(self):
        return {key: PeerStats(key, None, at, 0, 0, 0) for key, at in self.at.items()}

    def add_peer(self, key, *, endpoint=None, keepalive=0):
        if self.failures and (failure := self.failures.pop(0)):
            raise failure
        self.added[-1][key] = endpoint, keepalive
        self.at[key] = endpoint

    def close(self):
        for fd in self._pipe:
            os.close(fd)


def play(story, *names):
    async def main():
        book, end = Book(*names), End()
        sessions = Sessions(book, None, 0, range(1))
        sessions._end, sessions._heartbeat = end, SimpleNamespace(close=lambda: None)
        sessions._watch(end)
        try:
            async with asyncio.timeout(20):
                await story(sessions, book, end)
        finally:
            sessions.close()

    asyncio.run(main())


def test_a_look_while_the_device_is_made_anew_does_not_forget_where_the_sessions_are():
    async def story(sessions, book, end):
        end.at = {book.key("ann"): HOME, book.key("bob"): CAFE}
        await sessions.mend()
        end.die()
        await end.revived.wait()
        looks = [asyncio.create_task(sessions.mend()) for _ in range(3)]  # each second's, which find it alive
        await asyncio.sleep(0)
        end.go_on.set()
        await asyncio.gather(*looks)
        assert end.added[1] == {book.key("ann"): (HOME, KEEPALIVE), book.key("bob"): (CAFE, KEEPALIVE)}

    play(story, "ann", "bob")


def test_where_a_session_is_that_the_new_device_has_not_heard_yet_is_known_when_that_dies_as_well():
    async def story(sessions, book, end):
        end.at = {book.key("ann"): HOME}
        end.go_on.set()
        await sessions.mend()
        for number in (1, 2, 3):
            end.die()
            await end.revived.wait()
            end.revived.clear()
            sessions._retry_at = 0.0
            await sessions.mend()
            assert end.added[number] == {book.key("ann"): (HOME, KEEPALIVE)}
            end.at = {book.key("ann"): None}
            await sessions.mend()

    play(story, "ann")


def test_a_session_that_moved_is_sought_where_it_is_and_one_that_is_gone_is_forgotten():
    async def story(sessions, book, end):
        ann, bob = book.key("ann"), book.key("bob")
        end.at = {ann: HOME, bob: HOME}
        await sessions.mend()
        end.at = {ann: CAFE}
        del book.sessions["bob"]
        await sessions.mend()
        assert sessions._endpoints == {ann: CAFE}

    play(story, "ann", "bob")


def test_a_session_that_comes_up_is_remembered_at_once():
    async def story(sessions, book, end):
        end.at = {book.key("ann"): HOME}
        sessions._names["its address"] = "ann"
        sessions.tell = lambda name: None
        sessions._changed("its address", True)
        await asyncio.gather(*sessions._looks)
        assert sessions._endpoints == {book.key("ann"): HOME}

    play(story, "ann")


@pytest.mark.parametrize("failed", [0, 1])
def test_who_could_not_be_let_in_is_at_the_next_look(failed):
    """A device on a busy machine may not answer in time; it lives on, and nobody else would try."""

    async def story(sessions, book, end):
        end.at = {book.key("ann"): HOME, book.key("bob"): CAFE}
        await sessions.mend()
        end.go_on.set()
        end.failures = [*[None] * failed, DeviceError("It does not answer.")]
        end.die()
        await end.revived.wait()
        await asyncio.gather(*sessions._looks)
        assert set(end.added[1]) < {book.key("ann"), book.key("bob")}
        await sessions.mend()
        assert end.added[1] == {book.key("ann"): (HOME, KEEPALIVE), book.key("bob"): (CAFE, KEEPALIVE)}
        assert len(end.added) == 2, "the device is the same"

    play(story, "ann", "bob")


def test_one_that_dies_at_once_again_is_made_anew_after_a_while():
    async def story(sessions, book, end):
        end.go_on.set()
        end.die()
        await end.revived.wait()
        await sessions.mend()
        end.die()
        await sessions.mend()
        assert len(end.added) == 2
        sessions._retry_at = time.monotonic()
        await sessions.mend()
        assert len(end.added) == 3

    play(story, "ann")
