import asyncio
import socket
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpnet.model import Handler, parse_handler
from tpnet.session.forward import dial
from tpnet.session.handlers import HandlerWatch, UnknownHost, addresses_of, is_served

LOOPBACK = ["127.0.0.1", "::1"]


@pytest.mark.parametrize(
    ("host", "addresses"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("::1", ["::1"]),
        ("fd00::7", ["fd00::7"]),
        ("localhost", LOOPBACK),
        ("LocalHost.", LOOPBACK),
        ("app.localhost", LOOPBACK),
        ("0.0.0.0", LOOPBACK),  # what a server prints that listens on all addresses
        ("::", LOOPBACK),
    ],
)
def test_what_a_host_stands_for(host, addresses):
    assert [str(one) for one in asyncio.run(addresses_of(Handler(host, 80)))] == addresses


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "the host nosuch is unknown"),
        (
            socket.gaierror(socket.EAI_AGAIN, "Temporary failure"),
            "the host nosuch is unknown, names cannot be looked up now",
        ),
        (UnicodeError("label too long"), "the host nosuch is unknown"),
    ],
)
def test_unknown_host_is_told_as_such_by_watch_and_dial(error, words, monkeypatch):
    async def main():
        async def getaddrinfo(*_, **__):
            raise error

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        handler = Handler("nosuch", 80)
        watch = HandlerWatch(lambda: None)
        try:
            assert await watch.add("a", handler) == words
            assert watch.problem("a") == words
        finally:
            watch.close()
        with pytest.raises(UnknownHost, match=words):
            await dial(handler)

    asyncio.run(main())


@given(
    bound=st.sampled_from(["127.0.0.1", "::1", "0.0.0.0", "::"]),
    spelling=st.sampled_from(["", "localhost", "127.0.0.1", "::1", "[::1]", "0.0.0.0", "[::]"]),
)
@settings(max_examples=60, deadline=None)
def test_watch_and_dial_agree_on_every_spelling_and_way_to_listen(bound, spelling):
    """Whatever the watch finds, a dial finds; and who asks for localhost finds a server of either family."""

    async def main():
        family = socket.AF_INET6 if ":" in bound else socket.AF_INET
        with socket.create_server((bound, 0), family=family, dualstack_ipv6=False) as server:
            handler = parse_handler(spelling, server.getsockname()[1])
            watch = HandlerWatch(lambda: None)
            try:
                problem = await watch.add("a", handler)
            finally:
                watch.close()
            try:
                (await dial(handler)).close()
            except OSError:
                assert problem == f"nothing listens on {handler}"
            else:
                assert problem == ""
            wanted = {4: {"127.0.0.1"}, 6: {"::1", "[::1]"}}[4 if family == socket.AF_INET else 6]
            assert (not problem) == (spelling in wanted or spelling not in {"127.0.0.1", "::1", "[::1]"})

    asyncio.run(main())


@pytest.mark.parametrize(
    ("addresses", "bound", "served"),
    [
        (["127.0.0.1"], {"127.0.0.1"}, True),
        (["127.0.0.1"], {"0.0.0.0"}, True),
        (["127.0.0.1"], {"127.0.0.2"}, False),
        (["127.0.0.1"], {"::"}, False),
        (["::1"], {"::"}, True),
        (["::1"], {"0.0.0.0"}, False),
        (["127.0.0.1", "::1"], {"::1"}, True),
        (["127.0.0.1"], set(), False),
    ],
)
def test_which_listeners_serve_an_address(addresses, bound, served):
    table = {8080: frozenset(bound)}
    assert is_served([ip_address(address) for address in addresses], 8080, table) is served
    assert not is_served([ip_address(address) for address in addresses], 8081, table)


def test_watch_tells_changes_and_only_changes():
    async def main():
        said = []
        watch = HandlerWatch(lambda: said.append(watch.problem("a")))
        server = socket.create_server(("127.0.0.1", 0))
        handler = Handler("127.0.0.1", server.getsockname()[1])
        try:
            assert await watch.add("a", handler) == ""
            task = asyncio.create_task(watch.run())
            watch.look_now()
            await asyncio.sleep(0.1)
            assert said == []
            server.close()
            watch.look_now()
            await asyncio.sleep(0.1)
            assert said == [f"nothing listens on {handler}"]
            watch.remove("a")
            watch.remove("a")
            assert watch.problem("a") == "it is not looked for"
            task.cancel()
        finally:
            server.close()
            watch.close()

    asyncio.run(main())


def test_name_that_takes_long_to_look_up_keeps_no_other_handler_waiting(monkeypatch):
    async def main():
        said, slow = asyncio.Event(), asyncio.Event()
        watch = HandlerWatch(said.set)
        server = socket.create_server(("127.0.0.1", 0))
        try:
            await watch.add("a", Handler("127.0.0.1", server.getsockname()[1]))
            await watch.add("b", Handler("::1", 1))
            watch._handlers["b"] = Handler("slow.example", 80)
            lookups = []

            async def getaddrinfo(*args, **_):
                lookups.append(args)
                await slow.wait()

            monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
            task = asyncio.create_task(watch.run())
            watch.look_now()
            await asyncio.sleep(0.05)
            server.close()
            async with asyncio.timeout(5):
                await said.wait()
            assert watch.problem("a").startswith("nothing listens on")
            assert len(lookups) == 1, "one look at a time"
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        finally:
            watch.close()

    asyncio.run(main())


def test_handlers_on_this_computer_are_not_connected_to():
    async def main():
        watch = HandlerWatch(lambda: None)
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setblocking(False)
            await watch.add("a", Handler("localhost", server.getsockname()[1]))
            assert not watch.problem("a")
            with pytest.raises(BlockingIOError):
                server.accept()
        watch.close()

    asyncio.run(main())


def test_an_end_that_comes_as_it_is_to_look_is_the_end():
    async def main():
        watch = HandlerWatch(lambda: None)
        task = asyncio.create_task(watch.run())
        await asyncio.sleep(0.05)
        watch.look_now()
        await asyncio.sleep(0)
        task.cancel()
        _, going_on = await asyncio.wait({task}, timeout=1)
        task.cancel()
        watch.close()
        assert not going_on

    asyncio.run(main())
