"""An agent's end for the session's tests: real tunnel, real control socket, and a store that keeps what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from uuid import uuid4

from tunnel_lab import Lab, wait_until

from tpnet.control.local.protocol import SOCKET_NAME, decode_call, encode_error, encode_ok
from tpnet.model import (
    AgentStatus,
    Conflict,
    Intercept,
    InterceptStatus,
    NotThere,
    Session,
    SessionGrant,
    Status,
    TpnetError,
)
from tpnet.model.codec import decode, encode
from tpnet.session.client import SessionClient, ensure_session
from tpnet.tunnel import HEARTBEAT_PORT, HeartbeatReceiver

LEASE = 30.0


class Agent:
    """Speaks the control socket's protocol, lets sessions into a tunnel end, echoes heartbeats."""

    def __init__(self, lab, node, address, run_dir):
        self.end = lab.end(node, port=21820)
        self.endpoints = (f"{address}:21820",)
        self.sessions, self.intercepts, self.handlers = {}, {}, {}
        self.says_goodbye = False
        self.calls = []
        self.news = []
        self.refuse = None
        self.path = run_dir / SOCKET_NAME
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._started = threading.Event()
        self._thread.start()
        assert self._started.wait(20)

    def close(self):
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
        self.end.close()

    def _run(self):
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main())
        self._loop.close()

    async def _main(self):
        self._stop = asyncio.Event()
        inbox = self.end.socket(socket.SOCK_DGRAM)
        inbox.bind((str(self.end.address), HEARTBEAT_PORT))
        self.receiver = HeartbeatReceiver(
            inbox, lambda address, up: self.news.append((time.monotonic(), str(address), up))
        )
        await self.receiver.start()
        self.path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._serve, self.path)
        self._started.set()
        await self._stop.wait()
        if self.says_goodbye:
            self.receiver.goodbye()
            await asyncio.sleep(0.05)
        server.close()
        self.path.unlink()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self.receiver.close()
        await asyncio.sleep(0)

    async def _serve(self, reader, writer):
        try:
            while line := await reader.readline():
                name, args = decode_call(line)
                self.calls.append(name)
                try:
                    writer.write(encode_ok(getattr(self, f"do_{name}")(**args)))
                except TpnetError as error:
                    writer.write(encode_error(error))
                await writer.drain()
        finally:
            writer.close()

    def do_info(self):
        return encode(AgentStatus("0", 1, "", "node", "", "", ""))

    def do_register_session(self, session):
        session = decode(Session, session)
        self.forget(session.name)
        address = self.end.add_peer(session.public_key)
        self.receiver.expect(address)
        self.sessions[session.name] = (session, address)
        ours = (self.end.keys.public, str(self.end.address), HEARTBEAT_PORT)
        return encode(SessionGrant(session.name, str(address), *ours, self.endpoints, LEASE, 1280))

    def forget(self, name):
        """What the end of a lease does."""
        session, address = self.sessions.pop(name, (None, None))
        if session is not None:
            self.end.remove_peer(session.public_key)
            self.receiver.forget(address)
        for intercept in [i for i in self.intercepts.values() if i.session == name]:
            del self.intercepts[intercept.name]
        self.handlers.pop(name, None)

    def in_loop(self, func, *args):
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (func(*args), done.set()))
        assert done.wait(20)

    def do_renew_session(self, name, handlers):
        if name not in self.sessions:
            raise NotThere(f"There is no session {name}.")
        self.handlers[name] = handlers
        return LEASE

    def do_end_session(self, name):
        self.forget(name)

    def do_create_intercept(self, intercept):
        intercept = decode(Intercept, intercept)
        if self.refuse is not None:
            raise self.refuse
        if intercept.session not in self.sessions:
            raise NotThere(f"There is no session {intercept.session}.")
        if intercept.name in self.intercepts:
            raise Conflict(f"{intercept.name} is taken.")
        self.intercepts[intercept.name] = intercept
        return encode(InterceptStatus(intercept, ready=1, total=1))

    def do_delete_intercept(self, name, user, force=False):
        if self.intercepts.pop(name, None) is None:
            raise NotThere(f"There is no intercept {name}.")
        return {"draining": 0}

    def do_status(self):
        return encode(
            Status(
                AgentStatus("0", 1, "", "node", "", "", ""),
                intercepts=tuple(InterceptStatus(i) for i in self.intercepts.values()),
            )
        )

    def dial(self, name, timeout=20.0):
        """What the worker does: connect to an intercept's door. Returns the socket, its status byte unread."""
        intercept = self.intercepts[name]
        sock = self.end.socket()
        sock.settimeout(timeout)
        sock.connect((str(self.sessions[intercept.session][1]), intercept.tunnel_port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock


class Computer:
    """A node with its agent, and a laptop whose session daemon is started as the command line starts it."""

    def __init__(self, run_dir):
        self.lab = Lab()
        self.run_dir = run_dir
        self.user = f"bob{uuid4().hex[:6]}"
        self.handlers = []
        self.agent = None
        try:
            self.node, self.laptop = self.lab.ns("node"), self.lab.ns("laptop")
            self.node_ip, self.laptop_ip = self.lab.join(self.node, self.laptop)
            self.agent = Agent(self.lab, self.node, self.node_ip, run_dir)
        except BaseException:
            self.close()
            raise

    def ensure(self, **more):
        with self.laptop.entered():
            return ensure_session(self.run_dir, self.user, **more)

    def draft(self, name="shop", handler="127.0.0.1:8080", **more):
        return dataclasses.replace(
            Intercept(name, self.user, "", "netns/shop", (), 80, handler=handler), **more
        )

    def restart_agent(self):
        self.agent.close()
        self.start_agent()

    def start_agent(self):
        self.agent = Agent(self.lab, self.node, self.node_ip, self.run_dir)

    def handler(self, port=8080, host="127.0.0.1"):
        """A listening socket on the laptop."""
        sock = self.laptop.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        self.handlers.append(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(256)
        sock.settimeout(20)
        return sock

    def close(self):
        with contextlib.suppress(TpnetError):
            SessionClient(self.run_dir, self.user).quit()
        for sock in self.handlers:
            sock.close()
        if self.agent is not None:
            self.agent.close()
        self.lab.close()


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def run_daemon(computer, *more):
    """The daemon as a child of the test, in the laptop's namespace."""
    with computer.laptop.entered():
        return subprocess.Popen(
            [sys.executable, "-m", "tpnet.session.daemon", "--run-dir", str(computer.run_dir), "--user", computer.user, *more],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip


__all__ = ["Agent", "Computer", "kill", "run_daemon", "wait_until"]
