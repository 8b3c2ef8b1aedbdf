"""A developer's computer for the agents' tests, run in a machine of the lab: a tunnel to every agent, and a handler.

It says its public key, then takes a list of NodeAgent specs for each line of JSON on its standard input, and ends with
that. Requests at the tunnel port are answered with its name, and with 404 what asks for an app's health.
"""

import asyncio
import json
import socket
import sys
from ipaddress import ip_address

from tpnet.tunnel import HeartbeatSender, KeyPair, TunnelEnd


class Laptop:
    def __init__(self, name, port):
        self.name, self.port = name, port
        self.keys = KeyPair()
        self.pulses, self.endpoints = {}, {}

    async def run(self):
        self.end = await TunnelEnd.open_async(self.keys)
        inbox = self.end.socket()
        inbox.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        inbox.bind((str(self.end.address), self.port))
        inbox.setblocking(False)
        server = await asyncio.start_server(self.answer, sock=inbox)
        print(self.keys.public, flush=True)
        nudging = asyncio.create_task(self.nudge())
        reader = asyncio.StreamReader(limit=1 << 20)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            await self.meet(json.loads(line))
        nudging.cancel()
        server.close()
        self.end.close()

    async def meet(self, agents):
        """These are the agents from now on."""
        wanted = {agent["publicKey"]: agent for agent in agents}
        for key in self.pulses.keys() - wanted.keys():
            self.pulses.pop(key).close()
            self.end.remove_peer(key)
        for key in wanted.keys() - self.pulses.keys():
            agent = wanted[key]
            host, _, port = agent["endpoints"][0].rpartition(":")
            self.endpoints[key] = str(ip_address(host.strip("[]"))), int(port)
            address = self.end.add_peer(key, endpoint=self.endpoints[key], keepalive=25)
            assert str(address) == agent["tunnelAddress"]
            sock = self.end.socket(socket.SOCK_DGRAM)
            sock.connect((str(address), agent["heartbeatPort"]))
            self.pulses[key] = HeartbeatSender(sock, lambda up: None)
            await self.pulses[key].start()
        print("met", flush=True)

    async def nudge(self):
        """An agent lets us in only when an intercept has come to it; WireGuard itself would ask again after 5 s."""
        while True:
            await asyncio.sleep(0.5)
            for key, pulse in list(self.pulses.items()):
                if not pulse.up:
                    self.end.add_peer(key, endpoint=self.endpoints[key], keepalive=25)
                    pulse.send_now()

    async def answer(self, reader, writer):
        """One request and answer after another, after the status byte."""
        writer.write(b"\0")
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                status = b"404 Not Found" if head.split()[1].startswith(b"/probe") else b"200 OK"
                body = json.dumps({"handler": self.name}).encode()
                writer.write(b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body))
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        writer.close()


if __name__ == "__main__":
    asyncio.run(Laptop(sys.argv[1], int(sys.argv[2])).run())
