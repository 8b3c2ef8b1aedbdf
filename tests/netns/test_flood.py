"""One laptop that floods the tunnel, and what the others notice of it: nothing."""

import contextlib
import socket
import subprocess
import sys
import time

import pytest
from agent_lab import Agent, AgentLab, wait_until
from laptops import Laptops
from tunnel_lab import Lab

from tpnet.model import Session
from tpnet.tunnel import AGENT_UDP_PORT

SECONDS = 6.0
HEARTBEAT = b"tH" + bytes(14)
FLOOD = """
import socket, sys, time
sock = socket.socket(fileno=int(sys.argv[1]))
until = time.monotonic() + float(sys.argv[2])
heartbeat = b"tH" + bytes(14)
sent = 0
while time.monotonic() < until:
    for _ in range(100):
        try:
            sock.send(heartbeat)
            sent += 1
        except OSError:
            pass
print(sent)
"""


@pytest.fixture
def lab():
    with contextlib.closing(Agent()) as agent:
        agent.start()
        with contextlib.closing(AgentLab(agent)) as lab, contextlib.closing(Laptops(agent)) as laptops:
            lab.laptops = laptops
            yield lab


@contextlib.contextmanager
def mallory(lab):
    """A socket of a session's, at the agent's heartbeat port, that speaks as it likes."""
    tunnels = Lab()
    try:
        laptop = tunnels.ns("mallory")
        node_ip, _ = tunnels.join(lab.laptops.node, laptop)
        end = tunnels.end(laptop)
        grant = lab.control.register_session(Session("mallory@laptop", "mallory", end.keys.public))
        end.add_peer(grant.agent_public_key, endpoint=(node_ip, AGENT_UDP_PORT), keepalive=25)
        with end.socket(socket.SOCK_DGRAM) as sock:
            sock.connect((grant.agent_address, grant.heartbeat_port))
            yield sock
    finally:
        tunnels.close()


@pytest.mark.slow
def test_heartbeats_of_one_session_by_the_ten_thousands_end_no_other(lab):
    bob = lab.laptops.user("bob")
    lab.nginx()
    bob.add(lab)

    def up():
        return {one.user: one.up for one in lab.control.status().sessions}

    with mallory(lab) as sock:

        def both_up():
            sock.send(HEARTBEAT)  # each time: the first ones may be lost while the tunnel comes up
            return up() == {bob.name: True, "mallory": True}

        wait_until(both_up, 20, up)
        flood = subprocess.Popen(
            [sys.executable, "-c", FLOOD, str(sock.fileno()), str(SECONDS)],
            pass_fds=[sock.fileno()], stdout=subprocess.PIPE,
        )  # fmt: skip
        began = time.monotonic()
        seen = []
        while time.monotonic() - began < SECONDS:
            seen.append(up())
            time.sleep(0.05)
        sent = int(flood.communicate()[0])
    assert sent > 20_000, "it was a flood"
    assert all(one[bob.name] for one in seen)
    assert f"session {bob.name}@laptop is down" not in lab.agent.words()
    assert all(one["mallory"] for one in seen), "what it may send it still has"
