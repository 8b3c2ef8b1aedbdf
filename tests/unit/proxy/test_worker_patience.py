"""How long a session is waited for: while it is heard, up to a bound; while it is quiet, a second at most."""

import socket

import pytest
from worker_home import MINE, POST_MINE, Signs, kept_session, response

from tpnet.kernel.tcp import TcpInfo
from tpnet.proxy import session_upstream
from tpnet.proxy.context import UNCONFIRMED


def full(home):
    """A session's end that accepts nobody: its queue is full."""
    listener = socket.create_server(("::1", 0), family=socket.AF_INET6, backlog=0)
    fillers = []
    for _ in range(4):
        sock = socket.socket(socket.AF_INET6)
        sock.setblocking(False)
        sock.connect_ex(listener.getsockname())
        fillers.append(sock)
    return listener, fillers


@pytest.mark.parametrize("phase", ["connection", "status byte"])
@pytest.mark.parametrize("what", ["patience", "quiet", "nobody prepares"])
def test_a_session_that_is_heard_is_waited_for_up_to_the_intercept_s_bound(home, phase, what):
    fillers = []
    if phase == "connection":
        home.session.sock.close()
        home.session.sock, fillers = full(home)
        home.session.port = home.session.sock.getsockname()[1]
        home.set_session()
    home.rules(connect_timeout=4)
    client, _ = home.client()
    client.send(MINE)
    home.spin()
    delivered = phase == "status byte"
    for _ in range(3):
        home.later(1.1)
        assert home.reasons() == {}
    if what == "patience":
        home.later(1.1)
    elif what == "quiet":
        home.state.quiet = True
        (upstream,) = home.state.upstreams
        upstream.session_quiet()
    else:
        home.context.signs = Signs()
        home.later(0.6)
        home.later(0.5)
    home.spin()
    reason = "handler not reached in time" if delivered else "session not reached in time"
    assert home.reasons() == {reason: 1}
    app = [app for _ in range(2) if (app := home.app.accept()) is not None][-1]
    assert app.got() == MINE
    for sock in fillers:
        sock.close()


def test_a_quiet_session_is_waited_for_a_second_at_most(home):
    home.set_session()
    home.state.quiet = True
    client, _ = home.client()
    client.send(MINE)
    home.spin()
    home.later(0.9)
    assert home.reasons() == {}
    home.later(0.2)
    assert home.reasons() == {"handler not reached in time": 1}


@pytest.fixture
def tunnel(monkeypatch):
    """What the kernel says of connections to sessions; ``None``: the truth."""
    said = []
    truth = session_upstream.tcp_info
    monkeypatch.setattr(session_upstream, "tcp_info", lambda sock: said[-1] if said else truth(sock))
    return said


@pytest.mark.parametrize("first", ["quiet", "unconfirmed"])
def test_what_a_quiet_session_does_not_confirm_in_time_is_the_apps_at_once(home, tunnel, first):
    client, _ = kept_session(home)
    client.send(MINE)
    home.spin()
    tunnel.append(TcpInfo(1, 1.0))
    if first == "quiet":
        home.state.quiet = True
        home.later(0.6)
        assert home.reasons() == {}
        home.later(UNCONFIRMED - 0.5)
    else:
        home.later(UNCONFIRMED + 0.01)
        assert home.reasons() == {}, "a lost packet, perhaps"
        home.state.quiet = True
        (upstream,) = home.state.upstreams
        upstream.session_quiet()
        home.spin()
    assert home.reasons() == {"session silent": 1}
    assert home.app.accept().got() == b""
    assert home.app.accept().got() == MINE
    assert home.state.silent
    other, _ = home.client()
    other.send(MINE)
    home.spin()
    assert home.app.accept().got() == MINE, "nor is the next one sent there"
    assert home.reasons() == {"session silent": 1, "session down": 1}


def test_what_was_perhaps_delivered_and_must_not_be_repeated_is_not(home, tunnel):
    client, _ = kept_session(home)
    client.send(POST_MINE)
    home.spin()
    tunnel.append(TcpInfo(1, 1.0))
    home.state.quiet = True
    home.later(UNCONFIRMED + 0.01)
    assert client.got().startswith(b"HTTP/1.1 502 ")


def test_what_was_confirmed_is_waited_for_however_quiet_the_session_is(home, tunnel):
    client, handler = kept_session(home)
    client.send(MINE)
    home.spin()
    home.state.quiet = True
    home.later(UNCONFIRMED * 3)  # loopback confirms at once
    assert home.reasons() == {}
    tunnel.append(TcpInfo(1, 0.1))  # and here confirmations still come
    client.send(MINE)
    home.spin()
    for times in range(1, 5):
        home.later(times)
    assert home.reasons() == {}
    handler.got()
    handler.send(response(b"2") + response(b"3"))
    home.spin()
    assert client.got() == response(b"2") + response(b"3")
    assert len(home.context.unconfirmed) == 0
