"""curl, which asks each server for HTTP/2, and servers that would give it: no request goes where another one went."""

import subprocess

import h2.config
import h2.connection
import h2.events
import pytest
from worker_lab import Server, WorkerLab, behind_tunnel, intercept, read_request, until

PORT = 8080
TUNNEL = 20001
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"


def speaking_h2c(name, log):
    """A server's connection: answers in HTTP/1.1 until it is asked for HTTP/2, and tells ``log`` what it was asked."""

    def serve(sock):
        while request := read_request(sock):
            head = request[0]
            fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
            log.append((1, head.split(b" ")[1].decode()))
            if fields.get(b"Upgrade") == b"h2c":
                sock.sendall(SWITCHING)
                speak_http_2(sock, fields[b"HTTP2-Settings"])
                return
            sock.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(name) + 1, name.encode() + b"\n")
            )

    def speak_http_2(sock, settings):
        http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        http.initiate_upgrade_connection(settings)
        answer(http, 1)
        sock.sendall(http.data_to_send())
        while data := sock.recv(65536):
            for event in http.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    log.append((2, dict(event.headers)[b":path"].decode()))
                    answer(http, event.stream_id)
            sock.sendall(http.data_to_send())

    def answer(http, stream):
        http.send_headers(stream, [(":status", "200")])
        http.send_data(stream, f"{name} h2\n".encode(), end_stream=True)

    return serve


@pytest.fixture
def lab():
    lab = WorkerLab()
    yield lab
    assert lab.close() == ""


@pytest.fixture
def asked(net, lab, program):
    """What the app and the handler were asked: version, path."""
    asked = {"app": [], "handler": []}
    servers = [
        Server(net.pod.netns, PORT, speaking_h2c("app", asked["app"])),
        Server(net.client, TUNNEL, behind_tunnel(speaking_h2c("handler", asked["handler"]))),
    ]
    lab.add_target(net.pod.netns, PORT, program, intercepts=[intercept(PORT, TUNNEL)])
    lab.session(net.client, (TUNNEL,))
    yield asked
    for server in servers:
        server.close()


def curl(net, *options):
    base = f"http://{net.pod.address[4]}:{PORT}"
    words = [word.replace("U/", f"{base}/") for word in options]
    done = subprocess.run(
        ["ip", "netns", "exec", net.client_name, "curl", "-sS", "-m", "10", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


ME = ("--http2", "-H", "X-Me: me")


def test_a_matched_request_that_asks_for_http_2_takes_no_other_along(net, lab, asked):  # S66
    assert curl(net, *ME, "U/a", "--next", "--http2", "U/b", "--next", *ME, "U/c") == [
        "handler",
        "app h2",
        "app h2",
    ]
    assert asked["handler"] == [(1, "/a")]
    assert asked["app"] == [(1, "/b"), (2, "/c")]
    # The app has taken all that follows, and that is counted.
    reason = "the app switched to a protocol that carries requests"
    until(lambda: lab.target.get("reasons", {}).get(reason) == 1)
    assert lab.target["verdicts"]["P"] == 1


def test_matched_requests_that_ask_for_http_2_are_served_by_the_handler_in_http_1(net, lab, asked):
    assert curl(net, *ME, "U/a", "U/b") == ["handler", "handler"]
    assert curl(net, "-H", "X-Me: me", "U/c") == ["handler"]
    assert curl(net, *ME, "--data", "x" * 1000, "-H", "Expect: 100-continue", "U/d") == ["handler"]
    assert asked["handler"] == [(1, "/a"), (1, "/b"), (1, "/c"), (1, "/d")]
    assert asked["app"] == []
