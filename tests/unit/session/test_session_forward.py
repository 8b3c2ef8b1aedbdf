import asyncio
import contextlib
import errno
import fcntl
import os
import random
import resource
import socket
import struct
import sys
import termios
import time
from collections import Counter
from ipaddress import IPv6Address

import pytest

from tpnet.model import Handler
from tpnet.session.forward import Forward, dial
from tpnet.session.relay import CONNECTED, READ_SIZE, REFUSED, UNSEEN

LOCAL = IPv6Address("::1")


class Lane:
    """A door on loopback, a handler behind it, and what they said."""

    def __init__(self, agent=LOCAL, handler_port=None):
        self.handler = socket.create_server(("127.0.0.1", 0))
        self.handler.setblocking(False)
        listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        listener.bind(("::1", 0))
        self.refusals = []
        port = handler_port or self.handler.getsockname()[1]
        self.door = Forward(
            listener,
            str(agent).__eq__,
            Handler("127.0.0.1", port),
            lambda: self.refusals.append(1),
            lambda: 10,  # a handler that is there is never too late, however busy the machine
        )
        self.open = []

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.door.close()
        self.handler.close()
        for sock in self.open:
            sock.close()
        await asyncio.sleep(0)

    async def dial(self):
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.open.append(sock)
        await loop.sock_connect(sock, ("::1", self.door.port))
        return sock

    async def pair(self):
        """Both ends of a relay, the status byte taken."""
        loop = asyncio.get_running_loop()
        agent = await self.dial()
        served, _ = await loop.sock_accept(self.handler)
        self.open.append(served)
        assert await loop.sock_recv(agent, 1) == CONNECTED
        return agent, served


def run(main, seconds=30):
    async def bounded():
        async with asyncio.timeout(seconds):
            await main()

    asyncio.run(bounded())


async def receive(sock, count):
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) < count:
        chunk = await loop.sock_recv(sock, min(count - len(data), 1 << 20))
        if not chunk:
            break
        data += chunk
    return bytes(data)


async def until(condition):
    while not condition():  # noqa: ASYNC110 - what is awaited has no event
        await asyncio.sleep(0.005)


def test_bytes_go_both_ways_behind_the_status_byte():
    async def main():
        async with Lane() as lane:
            loop = asyncio.get_running_loop()
            agent, served = await lane.pair()
            await loop.sock_sendall(agent, b"question")
            assert await receive(served, 8) == b"question"
            await loop.sock_sendall(served, b"answer")
            assert await receive(agent, 6) == b"answer"
            assert (lane.door.open, lane.door.total, lane.door.refused) == (1, 1, 0)

    run(main)


def test_request_sent_before_the_status_byte_is_delivered():
    async def main():
        async with Lane() as lane:
            loop = asyncio.get_running_loop()
            agent = await lane.dial()
            await loop.sock_sendall(agent, b"early")
            served, _ = await loop.sock_accept(lane.handler)
            lane.open.append(served)
            assert await receive(served, 5) == b"early"

    run(main)


@pytest.mark.parametrize("first", ["agent", "handler"])
def test_half_close_goes_through_and_the_other_direction_stays_open(first):
    async def main():
        async with Lane() as lane:
            loop = asyncio.get_running_loop()
            ends = await lane.pair()
            one, other = ends if first == "agent" else ends[::-1]
            await loop.sock_sendall(one, b"last words")
            one.shutdown(socket.SHUT_WR)
            assert await receive(other, 100) == b"last words"
            await loop.sock_sendall(other, b"still here")
            assert await receive(one, 10) == b"still here"
            other.shutdown(socket.SHUT_WR)
            assert await receive(one, 1) == b""
            await until(lambda: lane.door.open == 0)

    run(main)


@pytest.mark.parametrize("first", ["agent", "handler"])
def test_reset_goes_through_as_reset(first):
    async def main():
        async with Lane() as lane:
            ends = await lane.pair()
            one, other = ends if first == "agent" else ends[::-1]
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()
            with pytest.raises(ConnectionResetError):
                await receive(other, 1)
            await until(lambda: lane.door.open == 0)

    run(main)


def test_handler_that_refuses_gives_the_refusal_byte_and_a_clean_end():
    async def main():
        probe = socket.create_server(("127.0.0.1", 0))
        closed = probe.getsockname()[1]
        probe.close()
        async with Lane(handler_port=closed) as lane:
            loop = asyncio.get_running_loop()
            agent = await lane.dial()
            await loop.sock_sendall(agent, b"q" * 10000)
            assert await receive(agent, 2) == REFUSED
            await until(lambda: lane.refusals)
            assert (lane.door.refused, lane.door.open) == (1, 0)

    run(main)


def test_t05_a_peer_that_is_not_the_agent_is_reset_and_reaches_nothing():
    async def main():
        async with Lane(agent=IPv6Address("fd00::1")) as lane:
            with pytest.raises(ConnectionResetError):
                await receive(await lane.dial(), 1)
            with pytest.raises(BlockingIOError):
                lane.handler.accept()
            assert lane.door.total == 0

    run(main)


def test_slow_receiver_stops_the_sender_and_nothing_is_lost_or_kept():
    async def main():
        async with Lane() as lane:
            loop = asyncio.get_running_loop()
            agent, served = await lane.pair()
            block = os.urandom(1 << 20)
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while sent < 1 << 28:
                    sent += agent.send(block[sent % len(block) :])
                    await asyncio.sleep(0.001)
            assert sent < 1 << 28, "the sender was stopped"
            (relay,) = lane.door._relays
            assert sum(len(flow._left or b"") for flow in relay._flows) <= READ_SIZE
            agent.shutdown(socket.SHUT_WR)
            got = await receive(served, sent + 1)
            assert len(got) == sent
            assert got == (block * (sent // len(block) + 1))[:sent]
            await loop.sock_sendall(served, b"done")
            assert await receive(agent, 4) == b"done"

    run(main)


@pytest.mark.slow
def test_reader_that_pauses_is_waited_for():
    async def main():
        async with Lane() as lane:
            sink, source = await lane.pair()
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    sent += source.send(bytes(1 << 16))
                    await asyncio.sleep(0.001)
            await asyncio.sleep(40)
            source.shutdown(socket.SHUT_WR)
            assert len(await receive(sink, sent + 1)) == sent

    run(main, 90)


def kept(sock):
    """Bytes of kernel memory that what waits in a socket takes, both ways (sock_diag(7): SO_MEMINFO)."""
    meminfo = struct.unpack("9I", sock.getsockopt(socket.SOL_SOCKET, 55, 36))
    received, queued = meminfo[0], meminfo[5]
    return received + queued


@pytest.mark.parametrize("slow", ["agent", "handler"])
def test_stream_whose_receiver_reads_nothing_takes_at_most_256_kib(slow):
    async def main():
        async with Lane() as lane:
            ends = await lane.pair()
            source = ends[0] if slow == "handler" else ends[1]
            (relay,) = lane.door._relays
            still, before = 0, -1
            while still < 20:  # until the sender has been stopped for a while
                with contextlib.suppress(BlockingIOError):
                    while True:
                        source.send(bytes(1 << 16))
                await asyncio.sleep(0.01)
                left = sum(len(flow._left or b"") for flow in relay._flows)
                total = kept(relay._tunnel) + kept(relay._handler) + left
                still, before = (still + 1, before) if total == before else (0, total)
            assert 64 * 1024 < total <= 256 * 1024

    run(main)


def test_both_directions_at_once():
    async def main():
        async with Lane() as lane:
            loop = asyncio.get_running_loop()
            agent, served = await lane.pair()
            up, down = os.urandom(6 << 20), os.urandom(6 << 20)
            *_, at_handler, at_agent = await asyncio.gather(
                loop.sock_sendall(agent, up),
                loop.sock_sendall(served, down),
                receive(served, len(up)),
                receive(agent, len(down)),
            )
            assert at_handler == up
            assert at_agent == down

    run(main)


def test_closing_a_door_resets_what_is_open_and_shutting_it_does_not():
    async def main():
        async with Lane() as lane:
            loop = asyncio.get_running_loop()
            agent, served = await lane.pair()
            lane.door.shut()
            lane.door.shut()
            with pytest.raises(ConnectionRefusedError):
                await lane.dial()
            await loop.sock_sendall(agent, b"x")
            assert await receive(served, 1) == b"x"
            lane.door.close()
            for sock in (agent, served):
                with pytest.raises(ConnectionResetError):
                    await receive(sock, 1)
            assert lane.door.open == 0

    run(main)


def test_door_closed_during_a_dial_leaves_no_task(monkeypatch):
    async def main():
        started = asyncio.Event()

        async def never(handler, seconds):
            started.set()
            await asyncio.sleep(60)

        monkeypatch.setattr("tpnet.session.forward.dial", never)
        async with Lane() as lane:
            await lane.dial()
            await started.wait()
            lane.door.close()
            await asyncio.sleep(0.01)
            assert len(asyncio.all_tasks()) == 1

    run(main)


def test_handler_that_does_not_answer_is_refused_when_the_patience_is_over():
    async def main():
        with socket.socket() as silent:  # bound, with a full backlog: further handshakes get no answer
            silent.bind(("127.0.0.1", 0))
            silent.listen(0)
            loop = asyncio.get_running_loop()
            filling = [socket.socket() for _ in range(4)]
            for sock in filling:
                sock.setblocking(False)
                sock.connect_ex(silent.getsockname())
            began = loop.time()
            with pytest.raises(OSError, match="no answer"):
                await dial(Handler("127.0.0.1", silent.getsockname()[1]), 0.3)
            assert 0.25 < loop.time() - began < 5
            for sock in filling:
                sock.close()

    run(main)


def test_descriptors_run_out_and_accepting_goes_on_by_itself_without_a_busy_loop(monkeypatch):
    async def main():
        async with Lane() as lane:
            real = lane.door._listener
            tries = []

            class Full:
                def accept(self):
                    tries.append(time.monotonic())
                    if len(tries) <= 3:
                        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                    return real.accept()

                def __getattr__(self, name):
                    return getattr(real, name)

            lane.door._listener = Full()
            await lane.pair()
            assert len(tries) < 8
            assert tries[2] - tries[0] > 0.15

    run(main)


def test_a_hundred_connections_at_once():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft >= 1024 or hard >= 1024

    async def main():
        async with Lane() as lane:
            loop = asyncio.get_running_loop()

            async def serve():
                for _ in range(100):
                    served, _ = await loop.sock_accept(lane.handler)
                    lane.open.append(served)
                    await loop.sock_sendall(served, await receive(served, 4))

            async def ask(number):
                agent = await lane.dial()
                await loop.sock_sendall(agent, b"%04d" % number)
                assert await receive(agent, 5) == CONNECTED + b"%04d" % number

            server = asyncio.create_task(serve())
            await asyncio.gather(*(ask(number) for number in range(100)))
            await server
            assert lane.door.total == 100

    run(main)


def refusing(lane, answer, *, reads=0):
    """A server that reads so much, answers, and closes with the rest unread: its kernel sends RST."""

    async def serve():
        loop = asyncio.get_running_loop()
        served, _ = await loop.sock_accept(lane.handler)
        await receive(served, reads)
        await loop.sock_sendall(served, answer)
        await until(
            lambda: not unsent(served)
        )  # what has not left the handler's computer dies with its reset
        served.close()

    return asyncio.create_task(serve())


async def read_out(sock):
    """All that comes, and how it ends: FIN or RST."""
    loop = asyncio.get_running_loop()
    data = bytearray()
    while True:
        try:
            chunk = await loop.sock_recv(sock, 1 << 20)
        except ConnectionResetError:
            return bytes(data), "reset"
        if not chunk:
            return bytes(data), "end"
        data += chunk


@pytest.mark.parametrize("size", [20_000, 200_000, 5_000_000])
def test_response_to_an_upload_that_the_handler_does_not_read_is_delivered(size):
    """Whichever comes first at the daemon, the handler's reset or the failing send."""

    async def main():
        async with Lane() as lane:
            loop = asyncio.get_running_loop()
            for pause in (0.0, 0.0, 0.02):
                server = refusing(lane, b"413", reads=10)
                agent = await lane.dial()
                # All of it goes out before anything is read, as clients do that only read when they have sent.
                told = ""
                try:
                    await loop.sock_sendall(agent, b"q" * size)
                except ConnectionResetError:
                    told = "reset"  # and reading will not tell it again
                await asyncio.sleep(pause)
                data, end = await read_out(agent)
                # What broke off is not told as a clean end.
                assert (data, told or end) == (CONNECTED + b"413", "reset")
                await server
            await until(lambda: lane.door.open == 0)

    run(main)


def test_handler_that_half_closes_after_its_response_gets_the_rest_of_the_upload():
    async def main():
        async with Lane() as lane:
            loop = asyncio.get_running_loop()
            agent, served = await lane.pair()
            await loop.sock_sendall(served, b"early")
            served.shutdown(socket.SHUT_WR)
            assert await receive(agent, 6) == b"early"
            upload = os.urandom(2_000_000)
            _, got = await asyncio.gather(loop.sock_sendall(agent, upload), receive(served, len(upload)))
            assert got == upload
            agent.shutdown(socket.SHUT_WR)
            assert await receive(served, 1) == b""
            await until(lambda: lane.door.open == 0)

    run(main)


def test_fin_of_a_handler_stays_a_clean_end_though_it_takes_no_more():
    async def main():
        async with Lane() as lane:
            loop = asyncio.get_running_loop()
            agent, served = await lane.pair()
            await loop.sock_sendall(agent, b"q")
            assert await receive(served, 1) == b"q"
            await loop.sock_sendall(served, b"until its end")
            served.close()  # everything is read: FIN. What comes now is answered with RST
            with contextlib.suppress(ConnectionError):
                for _ in range(100):
                    await loop.sock_sendall(agent, b"q" * 1000)
                    await asyncio.sleep(0.001)
            assert await read_out(agent) == (b"until its end", "end")
            await until(lambda: lane.door.open == 0)

    run(main)


def test_long_response_that_a_reset_follows_reaches_a_slow_agent_whole():
    async def main():
        async with Lane() as lane:
            answer = os.urandom(1_500_000)
            server = refusing(lane, answer, reads=10)
            agent = await lane.dial()
            agent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            upload = asyncio.create_task(asyncio.get_running_loop().sock_sendall(agent, b"q" * 100_000))
            data = bytearray()
            while chunk := await asyncio.get_running_loop().sock_recv(agent, 65536):
                data += chunk
                await asyncio.sleep(0.002)
                if len(data) == len(answer) + 1:
                    break
            assert data == CONNECTED + answer
            assert await read_out(agent) == (b"", "reset")
            await asyncio.gather(server, upload, return_exceptions=True)
            await until(lambda: lane.door.open == 0)

    run(main)


def unsent(sock):
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


# A request that meets the handler's end.


def mark(sock):
    """What was said beside the stream."""
    try:
        return sock.recv(1, socket.MSG_OOB)
    except OSError:
        return b""


async def talked(lane):
    """A relay over which a request was answered."""
    loop = asyncio.get_running_loop()
    agent, served = await lane.pair()
    await loop.sock_sendall(agent, b"1")
    assert await receive(served, 1) == b"1"
    await loop.sock_sendall(served, b"one")
    assert await receive(agent, 3) == b"one"
    return agent, served


async def at_end(sock):
    """Wait for the end: what was said beside the stream before it."""
    await until(lambda: ended(sock))
    said = mark(sock)
    assert sock.recv(1) == b""
    return said


def ended(sock):
    try:
        return not sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False


@pytest.mark.parametrize("behind", [b"", b"2", b"2" * 100_000], ids=["idle", "request", "upload"])
def test_what_is_sent_to_a_handler_that_has_closed_is_told_as_unseen(behind):
    async def main():
        async with Lane() as lane:
            loop = asyncio.get_running_loop()
            for _ in range(20):
                agent, served = await talked(lane)
                served.close()
                with contextlib.suppress(BlockingIOError):
                    agent.send(behind)
                assert await at_end(agent) == UNSEEN
                # What comes later meets no handler, and hears so.
                with contextlib.suppress(ConnectionError):
                    while True:
                        await loop.sock_sendall(agent, b"2")
                        await asyncio.sleep(0.001)
            await until(lambda: lane.door.open == 0)

    run(main)


def test_a_handler_that_closes_before_anything_was_said_has_seen_nothing():
    async def main():
        async with Lane() as lane:
            agent, served = await lane.pair()
            served.close()
            assert await at_end(agent) == UNSEEN

    run(main)


def test_a_handler_that_half_closes_may_read_on_and_nothing_is_said():
    async def main():
        async with Lane() as lane:
            loop = asyncio.get_running_loop()
            for soon in (False, True):
                agent, served = await talked(lane)
                served.shutdown(socket.SHUT_WR)
                if soon:
                    await loop.sock_sendall(agent, b"more")
                assert await at_end(agent) == b""
                if not soon:
                    await loop.sock_sendall(agent, b"more")
                assert await receive(served, 4) == b"more"
                agent.shutdown(socket.SHUT_WR)
                assert await receive(served, 1) == b""
            await until(lambda: lane.door.open == 0)

    run(main)


@pytest.mark.parametrize("seen", [1, 5])
def test_a_handler_that_closes_after_it_has_read_any_is_not_told_as_blind(seen):
    async def main():
        async with Lane() as lane:
            loop = asyncio.get_running_loop()
            agent, served = await talked(lane)
            await loop.sock_sendall(agent, b"again")
            assert await receive(served, seen) == b"again"[:seen]
            served.close()
            if seen == 5:
                assert await at_end(agent) == b""
            else:
                assert await read_out(agent) == (b"", "reset")

    run(main)


def test_a_reset_of_an_idle_handler_stays_one_though_a_request_meets_it():
    async def main():
        async with Lane() as lane:
            for _ in range(20):
                agent, served = await talked(lane)
                served.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                served.close()
                agent.send(b"2")
                assert await read_out(agent) == (b"", "reset")
            await until(lambda: lane.door.open == 0)

    run(main)


def test_a_long_response_in_front_of_the_end_is_whole_though_more_is_sent_meanwhile():
    """The end is known before all of the response could be passed on."""

    async def main():
        async with Lane() as lane:
            loop = asyncio.get_running_loop()
            agent, served = await lane.pair()
            answer = os.urandom(200_000)
            await loop.sock_sendall(agent, b"1")
            assert await receive(served, 1) == b"1"
            sending = asyncio.create_task(loop.sock_sendall(served, answer))
            await asyncio.sleep(0.05)  # the agent reads nothing
            await loop.sock_sendall(agent, b"2")
            assert await receive(served, 1) == b"2"
            got = await receive(agent, len(answer))
            await sending
            served.close()
            assert got == answer
            assert await receive(agent, 1) == b""

    run(main)


def test_nothing_that_is_told_as_unseen_was_seen_whenever_the_handler_closes():
    """Many ends at any moment around a request: the handler's book against what the agent is told."""

    async def main():
        rng = random.Random(10)
        async with Lane() as lane:
            loop = asyncio.get_running_loop()
            told = Counter()
            for _ in range(400):
                agent, served = await talked(lane)
                closing = rng.choice(["close", "close after a look", "half-close", "read one", "answer"])
                start = rng.uniform(0, 0.0005)

                async def handle(served=served, closing=closing, start=start):
                    await asyncio.sleep(start)
                    seen = b""
                    if closing in {"close after a look", "read one"}:
                        with contextlib.suppress(BlockingIOError):
                            seen = served.recv(1 if closing == "read one" else 100)
                    elif closing == "half-close":
                        served.shutdown(socket.SHUT_WR)
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(0.01):
                                seen = await loop.sock_recv(served, 100)
                    elif closing == "answer":
                        seen = await loop.sock_recv(served, 100)
                        await loop.sock_sendall(served, b"two")
                    served.close()
                    return seen

                handling = asyncio.create_task(handle())
                await asyncio.sleep(rng.uniform(0, 0.0005))
                agent.send(b"POST")
                seen = await handling
                data, end, said = b"", "", b""
                while not end:
                    said = mark(agent) or said
                    try:
                        chunk = agent.recv(100)
                        data, end = data + chunk, "" if chunk else "end"
                    except BlockingIOError:
                        await asyncio.sleep(0.0005)
                    except ConnectionResetError:
                        end = "reset"
                agent.close()
                if said == UNSEEN and not data:
                    assert not seen, closing
                told[closing, end, said, bool(seen)] += 1
            assert told["close", "end", UNSEEN, False] > 20, told

    run(main, 60)
