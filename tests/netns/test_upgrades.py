"""A protocol switch is one request's affair: what follows it is decided anew, or never forwarded."""

import subprocess

import pytest
from agent_lab import wait_until
from laptops import head_of, request
from servers import nghttpx
from worker_lab import Server, answering, read, read_all, read_head

WEBSOCKET = (
    b"connection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.fixture
def h2c(scene):
    """App and handler both offer ``Upgrade: h2c``; the logs have what each was asked, behind its proxy."""
    logs = {"app": [], "bob": []}
    scene.bob.handler.close()
    for name, netns, address in (("app", scene.pod.netns, "0.0.0.0"), ("bob", scene.bob.laptop, "127.0.0.1")):
        scene.keep(Server(netns, 8081, answering(name, logs[name]), "::ffff:127.0.0.1"))
        scene.keep(nghttpx(netns, 8080, scene.lab.folder, 8081, address))
    scene.intercept()
    return logs


def curl(scene, *words):
    """What curl says of each of its requests: who answered, and over which version of HTTP."""
    with scene.net.client.entered():
        done = subprocess.run(
            ["curl", "--silent", "--show-error", "--max-time", "10", *words],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return [tuple(line.split()) for line in done.stdout.splitlines()]


def asking(scene, path, *more):
    """curl's words for one request that offers HTTP/2."""
    url = f"http://{scene.pod.address[4]}:8080{path}"
    return ["--http2", *more, "--write-out", " %{http_version} %{num_connects}\n", url]


def paths(log):
    return [head.split()[1].decode() for head, _ in log]


def test_upgrade_to_http_2_takes_no_later_request_to_a_developer(scene, h2c):
    mine = ["--header", f"Coder: {scene.bob.name}"]
    first, second = curl(scene, *asking(scene, "/a", *mine), "--next", *asking(scene, "/b"))
    assert first[0] == "bob"
    assert second[0] == "app"
    assert paths(h2c["bob"]) == ["/a"]
    assert paths(h2c["app"]) == ["/b"]


def test_upgrade_to_http_2_of_nobody_s_request_is_the_app_s_as_without_an_intercept(scene, h2c):
    first, second = curl(scene, *asking(scene, "/a"), "--next", *asking(scene, "/b"))
    assert (first[0], first[2]) == ("app", "2")
    assert (second[0], second[2]) == ("app", "2")
    assert paths(h2c["app"]) == ["/a", "/b"]
    assert h2c["bob"] == []


@pytest.mark.parametrize("side", ["bob", "app"])
def test_what_stands_behind_a_refused_upgrade_is_no_request(stage, side):
    got = {"bob": [], "app": []}

    def refusing(name):
        def serve(sock):
            if not (head := head_of(sock)):
                return
            got[name].append(head)
            sock.sendall(b"HTTP/1.1 426 Upgrade Required\r\ncontent-length: 4\r\n\r\nwhy?")
            got[name].append(read_all(sock))

        return serve

    stage.plays(refusing("app"), refusing("bob"))
    mine, other = (stage.bob.header, b"") if side == "bob" else (b"", stage.bob.header)
    upgrade = request(more=mine + WEBSOCKET)
    with stage.connect() as sock:
        sock.sendall(upgrade + request(more=other, path=b"/behind"))
        assert read_head(sock).startswith(b"HTTP/1.1 426 ")
        assert read(sock, lambda data: len(data) == 4) == b"why?"
        assert read_all(sock) == b""
    wait_until(lambda: len(got[side]) == 2)
    assert got[side] == [upgrade, b""]
    assert got["bob" if side == "app" else "app"] == []


@pytest.mark.parametrize("side", ["bob", "app"])
def test_an_upgrade_that_is_accepted_takes_what_stands_behind_it_along(stage, side):
    def accepting(name):
        def serve(sock):
            if not head_of(sock):
                return
            sock.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
            )
            while data := sock.recv(65536):
                sock.sendall(data + name)

        return serve

    stage.plays(accepting(b"app"), accepting(b"bob"))
    with stage.connect() as sock:
        sock.sendall(request(more=(stage.bob.header if side == "bob" else b"") + WEBSOCKET) + b"\x81\x00")
        assert b" 101 " in read_head(sock)
        assert read(sock, lambda data: data.endswith(side.encode())).startswith(b"\x81\x00")
