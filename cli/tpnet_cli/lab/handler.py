"""A developer's handler in the lab: answers every request with the developer's name and what it received.

``tpnet lab up`` runs it on each laptop: ``python -m tpnet_cli.lab.handler NAME PORT``. It listens on
127.0.0.1 alone, as a developer's own server does.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tpnet_cli.output import say


class Handler(BaseHTTPRequestHandler):
    """One connection. Keep-alive, so that a client which reuses connections does."""

    protocol_version = "HTTP/1.1"
    developer = ""

    def answer(self) -> None:
        """``bob's laptop: GET /api, client ...`` and a line for each header that was received."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        lines = [f"{self.developer}'s laptop: {self.command} {self.path}"]
        lines += [f"  {name}: {value}" for name, value in self.headers.items()]
        body = ("\n".join(lines) + "\n").encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    # The base class finds them by these names.
    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = answer  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class calls it so
        """One line per request, without the client's address: it is always the session daemon."""
        say(format % args)


def serve(developer: str, port: int) -> None:
    """Serve until killed."""
    handler = type("Handler", (Handler,), {"developer": developer})
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        server.serve_forever(poll_interval=60)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
