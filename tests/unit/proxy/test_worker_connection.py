import contextlib
import fcntl
import gc
import os
import socket
import sys
import termios
import threading

import pytest
from worker_home import GET, MINE, POST_MINE, SESSION, Signs, handler_of, kept_session, response

from tpnet.kernel.signs import Level
from tpnet.proxy.channel import AppRefused, Purpose
from tpnet.proxy.context import UNDECIDED
from tpnet.proxy.dialler import Peer
from tpnet.proxy.loop import IN
from tpnet.proxy.session_upstream import UNSEEN

BIG = 32 << 20
PEER = Peer(True, ("", 0), ("", 0))


def exchange(home, client, far, request, text):
    """A request, and its response by ``far``."""
    client.send(request)
    home.spin()
    assert far.got() == request
    far.send(response(text))
    home.spin()
    assert client.got() == response(text)


def test_a_request_goes_to_the_app_and_its_response_comes_back_byte_for_byte(home):
    client, connection = home.client()
    app = home.app.accept()
    for number in range(3):
        exchange(home, client, app, GET, b"answer %d" % number)
    assert connection.calm
    assert connection.idle
    assert home.count.as_data()["verdicts"] == {"F:app": 3}


def test_a_matched_request_goes_to_the_session_and_the_next_one_to_the_app(home):
    client, _ = home.client()
    client.send(MINE)
    home.spin()
    handler = handler_of(home)
    assert handler.got() == MINE
    handler.send(response(b"mine"))
    home.spin()
    assert client.got() == response(b"mine")
    client.send(GET)
    home.spin()
    app = home.app.accept()
    assert app.got() == b""
    app = home.app.accept()
    assert app.got() == GET
    app.send(response(b"app"))
    home.spin()
    assert client.got() == response(b"app")
    exchange(home, client, handler, MINE, b"again")
    assert home.session.accept() is None, "the session's connection is kept for its client"
    assert home.context.book.intercepts["i1"].hits == 2


@pytest.mark.parametrize("request_", [MINE, POST_MINE, MINE[:-2]], ids=["GET", "POST", "in two reads"])
def test_the_app_is_let_go_of_when_a_request_goes_to_a_session_and_dialled_when_one_is_for_it(home, request_):
    client, connection = home.client()
    first = home.app.accept()
    exchange(home, client, first, GET, b"app")
    client.send(request_)
    home.spin()
    if request_ == MINE[:-2]:
        assert first.got() is None, "nothing is decided yet"
        client.send(b"\r\n")
        home.spin()
    assert first.got() == b"", "an orderly close"
    handler = handler_of(home)
    handler.got()
    handler.send(response(b"mine"))
    home.spin()
    assert client.got() == response(b"mine")
    assert home.app.accept() is None
    for _ in range(2):
        client.send(GET)
        home.spin()
    second = home.app.accept()
    assert second.got() == GET + GET
    assert home.app.accept() is None, "one connection at a time"
    second.send(response(b"1") + response(b"2"))
    home.spin()
    assert client.got() == response(b"1") + response(b"2")
    assert connection.calm
    assert handler.got() is None, "the handler's is kept"


def test_what_the_app_says_after_it_was_let_go_of_reaches_nobody(home):
    client, _ = home.client()
    app = home.app.accept()
    app.send(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
    client.send(MINE)
    (connection,) = home.connections
    connection.mover.on_client(1)  # the request was first
    home.spin()
    handler = handler_of(home)
    handler.send(response(b"mine"))
    home.spin()
    assert client.got() == response(b"mine")
    client.send(GET)
    home.spin()
    assert home.app.accept().got() == GET


def test_an_app_that_is_still_being_dialled_is_let_go_of_as_well(home):
    home.prepare = False
    while sock := home.dialler.pool(PEER).take():
        sock.close()
    client, connection = home.client()
    client.send(MINE)
    home.spin()
    home.prepare = True
    home.spin()
    assert handler_of(home).got() == MINE
    assert home.app.accept() is None, "nobody waits for a socket any more"
    assert home.dialler.pool(PEER).waiting == {}
    assert set(connection.upstreams) == {(SESSION, home.session.port, "i1", 10)}


def test_an_app_is_kept_while_sockets_to_dial_it_again_with_run_low_and_nobody_makes_more(home):
    clients = [home.client()[0] for _ in range(2)]
    apps = [home.app.accept() for _ in clients]
    home.context.signs = Signs()
    home.prepare = False
    home.spin()
    while home.dialler.pool(PEER).level is Level.SERVES:
        home.dialler.pool(PEER).take().close()
    clients[0].send(MINE)
    home.spin()
    assert apps[0].got() is None
    home.context.signs.alive = True
    clients[1].send(MINE)
    home.spin()
    assert apps[1].got() == b""


def test_a_request_that_is_pinned_after_one_to_a_session_finds_the_app(home):
    client, _ = home.client()
    home.app.accept()
    client.send(MINE)
    home.spin()
    handler = handler_of(home)
    handler.send(response(b"mine"))
    home.spin()
    assert client.got() == response(b"mine")
    assert handler.got() == MINE
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    home.spin()
    app = home.app.accept()
    assert app.got().startswith(b"GET / ")
    app.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    home.spin()
    assert client.got().startswith(b"HTTP/1.1 101 ")
    client.send(b"frame")
    home.spin()
    assert app.got() == b"frame"
    assert handler.got() == b"", "a pipe has two ends"


@pytest.mark.parametrize("request_", [MINE, POST_MINE], ids=["GET", "POST"])
@pytest.mark.parametrize("how", ["closed", "reset"])
def test_a_handler_that_closed_its_kept_connection_before_the_request_is_asked_over_a_fresh_one(
    home, request_, how
):
    client, connection = home.client()
    for number in range(3):
        client.send(request_)
        connection.mover.on_client(IN)  # whatever the order in which the loop tells of both
        home.spin()
        handler = handler_of(home)
        assert handler.got() == request_
        handler.send(response(b"%d" % number))
        home.spin()
        assert client.got() == response(b"%d" % number)
        handler.reset() if how == "reset" else handler.close()
    assert home.reasons() == {}
    assert home.context.book.intercepts["i1"].hits == 3


@pytest.mark.parametrize("how", ["closed", "reset"])
def test_a_handler_that_closes_as_the_request_arrives_is_asked_again_where_that_is_safe(home, how):
    client, _ = home.client()
    client.send(MINE)
    home.spin()
    handler = handler_of(home)
    handler.got()
    handler.send(response(b"1"))
    home.spin()
    client.send(MINE)
    home.spin()
    handler.got()
    handler.reset() if how == "reset" else handler.close()
    home.spin()
    handler = handler_of(home)
    assert handler.got() == MINE
    handler.send(response(b"2"))
    home.spin()
    assert client.got() == response(b"1") + response(b"2")
    client.send(POST_MINE)
    home.spin()
    handler.got()
    handler.reset() if how == "reset" else handler.close()
    home.spin()
    assert home.session.accept() is None
    assert client.got().startswith(b"HTTP/1.1 502 ")


def say_unseen(handler):
    """What the session daemon says when the handler has closed, and can see no more."""
    handler.sock.send(UNSEEN, socket.MSG_OOB)


@pytest.mark.parametrize("then", ["FIN", "FIN and RST"])
def test_a_post_that_the_handler_has_surely_not_seen_is_asked_over_a_fresh_connection(home, then):
    client, handler = kept_session(home)
    for number in range(3):
        client.send(POST_MINE)
        home.spin()
        if then == "FIN":
            handler.got()
        say_unseen(handler)
        handler.shut()
        if then == "FIN and RST":
            handler.reset()
        home.spin()
        handler = handler_of(home)
        assert handler.got() == POST_MINE
        handler.send(response(b"%d" % number))
        home.spin()
        assert client.got() == response(b"%d" % number)
    assert home.reasons() == {}


def test_what_is_said_beside_the_stream_is_no_byte_of_it(home):
    client, handler = kept_session(home)
    client.send(MINE)
    home.spin()
    handler.got()
    handler.send(response(b"whole")[:-2])
    say_unseen(handler)
    handler.send(response(b"whole")[-2:])
    handler.close()
    home.spin()
    assert client.got() == response(b"whole")
    client.send(POST_MINE)
    home.spin()
    assert handler_of(home).got() == POST_MINE


@pytest.mark.parametrize("read", ["all", "nothing"])
def test_another_mark_says_nothing(home, read):
    client, handler = kept_session(home)
    client.send(POST_MINE)
    home.spin()
    if read == "all":
        handler.got()
    handler.sock.send(b"x", socket.MSG_OOB)
    handler.close()
    home.spin()
    assert home.session.accept() is None
    assert client.got().startswith(b"HTTP/1.1 502 ")


def test_nothing_of_the_handler_reaches_the_client_before_the_status_byte(home):
    client, _ = home.client()
    client.send(MINE)
    home.spin()
    handler = home.session.accept()
    handler.send(b"\0" + response(b"at once"))
    home.spin()
    assert client.got() == response(b"at once")


@pytest.mark.parametrize(("request_", "status"), [(MINE, b"200"), (POST_MINE, b"200")], ids=["GET", "POST"])
@pytest.mark.parametrize(
    ("say", "reason"),
    [(b"\1", "handler refused"), (b"", "session closed before the handler was reached")],
    ids=["status byte 1", "closed"],
)
def test_what_the_handler_surely_did_not_get_goes_to_the_app(home, request_, status, say, reason):
    client, _ = home.client()
    client.send(request_)
    home.spin()
    end = home.session.accept()
    if say:
        end.send(say)
    end.close()
    home.spin()
    app = home.app.accept()
    app = home.app.accept() or app
    assert app.got() == request_
    app.send(response(b"app"))
    home.spin()
    assert status in client.got()
    assert home.reasons() == {reason: 1}
    assert home.context.book.intercepts["i1"].hits == 0


@pytest.mark.parametrize(
    ("state", "reason"), [({"ports": ()}, "handler not listening"), ({"up": False}, "session down")]
)
@pytest.mark.parametrize("on_failure", ["app", "error"])
def test_the_reason_is_that_of_the_request_itself(home, state, reason, on_failure):
    home.rules(on_failure=on_failure)
    home.set_session(**state)
    client, _ = home.client()
    client.send(MINE)
    home.spin()
    app = home.app.accept()
    if on_failure == "app":
        assert app.got() == MINE
    else:
        assert client.got().startswith(b"HTTP/1.1 502 ")
        assert app.got() in {None, b""}
    assert home.session.accept() is None, "nothing was dialled"
    assert home.reasons() == {reason: 1}


def test_a_request_that_waits_its_turn_to_fail_lends_its_reason_to_no_other(home):
    home.rules(on_failure="error")
    first, _ = home.client()
    app = home.app.accept()
    home.set_session(ports=())
    first.send(GET + MINE)  # the second one fails, once the first is answered
    home.spin()
    home.set_session()
    other, _ = home.client()
    other.send(MINE)
    home.spin()
    end = home.session.accept()
    end.send(b"\1")
    end.close()
    home.spin()
    assert other.got().startswith(b"HTTP/1.1 502 ")
    assert home.reasons() == {"handler not listening": 1, "handler refused": 1}
    app.send(response(b"app"))
    home.spin()
    got = first.got()
    assert got.startswith(response(b"app") + b"HTTP/1.1 502 ")
    assert b"not listening" in got
    assert home.reasons() == {"handler not listening": 1, "handler refused": 1}


def test_an_app_that_refuses_resets_its_client_and_is_told_of_once(home):
    home.app.sock.close()
    for _ in range(3):
        client, connection = home.client()
        home.spin()
        assert client.got() == "reset"
        assert connection.done
    assert dict(home.count.reasons) == {"app refused": 3}
    assert [message for message in home.told if isinstance(message, AppRefused)] == [AppRefused(1)]


def test_a_client_without_a_prepared_socket_waits_for_it_and_loses_nothing(home):
    home.prepare = False
    while sock := home.dialler.pool(PEER).take():
        sock.close()
    client, connection = home.client()
    client.send(GET)
    home.spin()
    assert home.app.accept() is None
    home.give(Purpose.APP4)
    home.spin()
    app = home.app.accept()
    assert app.got() == GET
    app.send(response(b"app"))
    home.spin()
    assert client.got() == response(b"app")
    assert connection.calm


def test_a_session_without_a_prepared_socket_gets_it_all_in_order(home):
    client, _ = home.client()
    home.prepare = False
    while sock := home.context.session_pool.take():
        sock.close()
    client.send(POST_MINE)
    home.spin()
    assert home.session.accept() is None
    home.give(Purpose.SESSION)
    home.spin()
    assert handler_of(home).got() == POST_MINE


def test_a_client_that_ends_is_half_closed_and_still_gets_its_response(home):
    client, connection = home.client()
    app = home.app.accept()
    client.send(GET)
    client.shut()
    home.spin()
    assert app.got() == GET
    assert app.got() == b""
    app.send(response(b"late"))
    home.spin()
    assert client.got() == response(b"late")
    assert client.got() == b""
    assert connection.done
    assert app.sock.recv(1) == b""


@pytest.mark.parametrize("who", ["client", "app"])
def test_a_reset_is_passed_on_as_a_reset(home, who):
    client, connection = home.client()
    app = home.app.accept()
    client.send(GET)
    home.spin()
    app.got()
    (client if who == "client" else app).reset()
    home.spin()
    assert (app if who == "client" else client).got() == "reset"
    assert connection.done


def test_a_session_that_is_lost_gives_an_idempotent_request_to_the_app_and_fails_another(home):
    clients = []
    for request in (MINE, POST_MINE):
        client, _ = home.client()
        client.send(request)
        home.spin()
        handler_of(home)
        clients.append(client)
    for upstream in list(home.state.upstreams):
        upstream.session_lost()
    home.spin()
    apps = [app for _ in range(4) if (app := home.app.accept()) is not None]
    assert [got for app in apps if (got := app.got())] == [MINE]
    assert clients[0].got() is None
    assert clients[1].got().startswith(b"HTTP/1.1 502 ")
    assert home.reasons() == {"session down": 2}


def test_an_app_that_speaks_first_is_a_pipe_with_each_end_passed_on_as_it_is(home):
    client, connection = home.client()
    app = home.app.accept()
    app.send(b"220 mail\r\n")
    home.spin()
    assert client.got() == b"220 mail\r\n"
    client.send(MINE)
    home.spin()
    assert app.got() == MINE, "a pipe looks at nothing"
    client.shut()
    home.spin()
    assert app.got() == b""
    app.send(b"bye")
    home.spin()
    assert client.got() == b"bye"
    assert not connection.done
    app.shut()
    home.spin()
    assert client.got() == b""
    assert connection.done


def test_what_is_not_http_in_time_is_a_pipe(home):
    client, connection = home.client()
    app = home.app.accept()
    client.send(b"GE")
    home.spin()
    assert app.got() is None
    home.later(UNDECIDED + 1)
    assert app.got() == b"GE"
    assert not connection.idle


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("side", ["app", "session"])
def test_a_reader_that_does_not_read_holds_the_writer_up_and_nothing_is_lost(home, way, side):
    client, _ = home.client()
    body = os.urandom(BIG)
    mark = b"X-Me: me\r\n" if side == "session" else b""
    if way == "up":
        head = b"PUT / HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n" % (mark, BIG)
    else:
        head = b"GET / HTTP/1.1\r\n%s\r\n" % mark
    client.send(head)
    home.spin()
    far = home.app.accept() if side == "app" else handler_of(home)
    got = bytearray(far.got() or b"")
    source, sink = (client, far) if way == "up" else (far, client)
    if way == "down":
        body = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (BIG, body)
        got.clear()
    else:
        body = head + body
    sender = threading.Thread(target=source.sock.sendall, args=(body[len(got) :],))
    sender.start()
    home.spin(0.2)
    (connection,) = home.connections
    streams = [connection.client, *(upstream.stream for upstream in connection.upstreams.values())]
    assert sum(stream.backlog for stream in streams) <= 1 << 20
    assert sender.is_alive(), "the writer is held up"
    while len(got) < len(body):
        got += sink.got() or b""
        home.spin(0.001)
    sender.join(5)
    assert got == body


def held(connection, side):
    """Bytes of an upload in the kernel and the worker: received, in user space, and on their way to a side."""
    stream = connection.upstreams[side].stream
    queued = [
        int.from_bytes(fcntl.ioctl(sock, request, bytes(4)), sys.byteorder)
        for sock, request in ((connection.client.sock, termios.FIONREAD), (stream.sock, termios.TIOCOUTQ))
    ]
    return sum(queued) + stream.backlog + connection.client.backlog


def test_what_a_client_sends_to_a_developer_who_does_not_read_does_not_pile_up(home):
    home.session.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # of those it accepts
    client, connection = home.client()
    client.send(b"PUT / HTTP/1.1\r\nX-Me: me\r\nContent-Length: %d\r\n\r\n" % BIG)
    home.spin()
    handler_of(home)
    client.sock.settimeout(0.2)

    def send():
        with contextlib.suppress(OSError):
            client.sock.sendall(bytes(BIG))

    sender = threading.Thread(target=send)
    sender.start()
    home.spin(0.3)
    (side,) = connection.upstreams
    assert 16 * 1024 < held(connection, side) <= 256 * 1024
    sender.join(5)


BUF_LOCK = 72  # SO_BUF_LOCK, include/uapi/asm-generic/socket.h


def test_only_what_goes_to_a_developer_is_held_to_little(home):
    client, connection = home.client()
    as_usual = connection.client.sock.getsockopt(socket.SOL_SOCKET, BUF_LOCK)
    client.send(MINE)
    home.spin()
    assert connection.client.sock.getsockopt(socket.SOL_SOCKET, BUF_LOCK) != as_usual
    handler = handler_of(home)
    handler.got()
    handler.send(response(b"1"))
    home.spin()
    client.send(GET)
    home.spin()
    assert connection.client.sock.getsockopt(socket.SOL_SOCKET, BUF_LOCK) == as_usual
    client.send(MINE)


def test_a_connection_leaves_nothing_for_the_collector(home):
    gc.collect()
    gc.disable()
    try:
        for request in (GET, MINE, b"\xff\xff"):
            client, connection = home.client()
            client.send(request)
            home.spin()
            seen = [id(connection), id(connection.mover)]
            client.reset()
            home.spin()
            assert connection.done
            del connection
            alive = {id(thing) for thing in gc.get_objects()}
            assert not alive & set(seen)
    finally:
        gc.enable()


def test_an_error_of_ours_ends_that_connection_alone(home):
    client, connection = home.client()
    other, _ = home.client()
    connection.mover.fail()
    home.spin()
    assert client.got() == "reset"
    assert dict(home.count.reasons) == {"internal error": 1}
    exchange(home, other, [home.app.accept() for _ in range(2)][1], GET, b"well")


def test_a_response_that_ends_its_connection_comes_with_the_end(home):
    client, connection = home.client()
    app = home.app.accept()
    client.send(GET)
    home.spin()
    app.got()
    app.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
    home.spin()
    assert connection.done
    assert client.got().endswith(b"ok")
    assert client.got() == b""
    assert app.got() == b""


def test_a_refused_request_is_answered_though_the_client_goes_on_sending(home):
    client, connection = home.client()
    exchange(home, client, home.app.accept(), GET, b"first")
    client.send(b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n")
    home.spin()
    client.send(b"x" * 1000)
    home.spin()
    assert connection.done
    assert client.got().startswith(b"HTTP/1.1 400 ")
    assert client.got() == b""
    assert len(home.closing) == 1
    client.shut()
    home.spin()
    assert home.closing == set()
