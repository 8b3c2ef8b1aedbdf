"""Servers that others wrote, started in a namespace as people start them: gunicorn, Node, http.server, nghttpx.

Each answers a request with a word, so that a test sees who it was. They must never listen outside the namespace given.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from agent_lab import wait_until

from tpnet.datapath.listening import listening

WSGI = """
import time
def app(environ, start_response):
    body = {word!r}.encode()
    if environ.get("CONTENT_LENGTH"):
        environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    start_response("200 OK", [("content-type", "text/plain"), ("content-length", str(len(body)))])
    return [body]
"""

NODE = """
const http = require('node:http');
const server = http.createServer({options}, (request, response) => {{
    request.resume();
    request.on('end', () => response.end({word}));
}});
server.listen({port}, {address});
"""

ONE_AT_A_TIME = """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = {word!r}.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
HTTPServer(("0.0.0.0", {port}), Handler).serve_forever()
"""


class RealServer:
    """A command that listens on ``port`` in ``netns``, and is ended by ``close``. ``words()`` is what it wrote."""

    def __init__(self, netns, port, command, folder):
        self.port = port
        self._log = Path(folder) / f"{Path(command[0]).name}-{port}.log"
        with netns.entered(), self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder
            )
        try:
            wait_until(lambda: self.process.poll() is not None or port in listening(netns), 20, self.words)
            assert self.process.poll() is None, self.words()
        except BaseException:
            self.close()
            raise

    def words(self):
        return self._log.read_text(errors="replace")

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait()


def gunicorn(netns, port, folder, word="gunicorn", workers=2):
    """gunicorn with its default kind of worker, which serves one connection at a time."""
    (Path(folder) / "shop.py").write_text(WSGI.format(word=word))
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "-k",
        "sync",
        "-w",
        workers,
        "-b",
        f"0.0.0.0:{port}",
        "shop:app",
    ]
    return RealServer(netns, port, command, folder)


def node(netns, port, folder, word="node", address="0.0.0.0", **options):
    """Node's HTTP server; ``options`` are those of ``http.createServer``."""
    values = ", ".join(f"{name}: {value}" for name, value in options.items())
    script = NODE.format(options=f"{{{values}}}", word=repr(word), port=port, address=repr(address))
    return RealServer(netns, port, ["node", "-e", script], folder)


def one_at_a_time(netns, port, folder, word="one"):
    """Python's HTTPServer without threads: it serves one connection until that ends."""
    return RealServer(netns, port, [sys.executable, "-c", ONE_AT_A_TIME.format(word=word, port=port)], folder)


def http_server(netns, port, folder, address="127.0.0.1"):
    """``python -m http.server``: an empty folder, and 501 for a method it does not know, its body unread."""
    root = Path(folder) / f"root-{port}"
    root.mkdir()
    command = [sys.executable, "-m", "http.server", port, "--bind", address, "--directory", root]
    return RealServer(netns, port, command, folder)


def nghttpx(netns, port, folder, backend_port, address="0.0.0.0"):
    """nghttpx, which takes ``Upgrade: h2c``, in front of a server on the loopback address."""
    command = [
        "nghttpx", "--conf=/dev/null", f"--frontend={address},{port};no-tls", f"--backend=127.0.0.1,{backend_port}",
        "--workers=1", f"--pid-file={folder}/nghttpx-{port}.pid",
        f"--accesslog-file={folder}/access-{port}.log", "--accesslog-format=$request $alpn",
        f"--errorlog-file={folder}/error-{port}.log",
    ]  # fmt: skip
    return RealServer(netns, port, command, folder)
