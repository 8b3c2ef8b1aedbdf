import asyncio
import socket
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpnet.model import InvalidInput
from tpnet.session.handlers import Handler, HandlerWatch, is_served, parse_handler


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("localhost:1", "localhost", 1),
        ("[::1]:65535", "::1", 65535),
        (":3000", "127.0.0.1", 3000),
        ("my-host.example:80", "my-host.example", 80),
    ],
)
def test_handler_texts(text, host, port):
    assert parse_handler(text) == Handler(host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8080",
        "host",
        "host:",
        "host:0",
        "host:65536",
        "::1:80",
        "[::1]",
        "a b:1",
        "host:-1",
        "h:1\n",
        "h:\u0661",
    ],
)
def test_other_texts_are_refused_with_an_example(text):
    with pytest.raises(InvalidInput, match=r"is not HOST:PORT") as caught:
        parse_handler(text)
    assert "127.0.0.1:8080" in caught.value.hint


@given(st.text())
def test_any_text_is_a_handler_or_refused(text):
    try:
        handler = parse_handler(text)
    except InvalidInput:
        return
    assert parse_handler(str(handler)) == handler


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
        watch = HandlerWatch(lambda key, up: said.append((key, up)))
        server = socket.create_server(("127.0.0.1", 0))
        port = server.getsockname()[1]
        try:
            assert await watch.add("a", Handler("127.0.0.1", port))
            assert not await watch.add("b", Handler("unknown.invalid", port))
            task = asyncio.create_task(watch.run())
            watch.look_now()
            await asyncio.sleep(0.1)
            assert said == []
            server.close()
            watch.look_now()
            await asyncio.sleep(0.1)
            assert said == [("a", False)]
            assert not watch.up("a")
            watch.remove("a")
            watch.remove("a")
            assert not watch.up("a")
            task.cancel()
        finally:
            server.close()
            watch.close()

    asyncio.run(main())


def test_handlers_on_this_computer_are_not_connected_to():
    async def main():
        watch = HandlerWatch(lambda *_: None)
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setblocking(False)
            await watch.add("a", Handler("localhost", server.getsockname()[1]))
            assert watch.up("a")
            with pytest.raises(BlockingIOError):
                server.accept()
        watch.close()

    asyncio.run(main())


def test_an_end_that_comes_as_it_is_to_look_is_the_end():
    async def main():
        watch = HandlerWatch(lambda *_: None)
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
