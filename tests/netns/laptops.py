"""Developers for tests of a whole agent: laptops joined to its node, session daemons and handlers, all real."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from uuid import uuid4

from agent_lab import GET
from podnet import App
from tunnel_lab import Lab

from tpnet.datapath.netns import NetNs
from tpnet.model import TpnetError
from tpnet.session.client import SessionClient, ensure_session


class Laptops:
    """Laptops, each joined to the agent's node, and their users' session daemons."""

    def __init__(self, agent):
        self.agent = agent
        self._lab = Lab()
        self._node = self._lab.keep(NetNs.from_name(agent.node))
        self._users = []
        self._apps = []

    def user(self, name):
        return User(self, name)

    def connect(self, laptop):
        self._lab.join(self._node, laptop)

    def keep(self, user, app):
        self._users.append(user)
        self._apps.append(app)

    def ns(self, label):
        return self._lab.ns(label)

    def close(self):
        for user in self._users:
            with contextlib.suppress(TpnetError):
                SessionClient(self.agent.run_dir, user).quit()
        for app in self._apps:
            app.close()
        self._lab.close()


class User:
    """A developer with a laptop, a handler on its port 8080, and a session."""

    def __init__(self, laptops, name):
        self.name = f"{name}{uuid4().hex[:4]}"
        self.laptop = laptops.ns(self.name)
        laptops.connect(self.laptop)
        self.start_handler()
        laptops.keep(self.name, self)
        self._run_dir = laptops.agent.run_dir
        self.start_session()

    def start_session(self):
        """Unless one runs: it ends by itself some seconds after its last intercept."""
        with self.laptop.entered():
            self.client = ensure_session(self._run_dir, self.name, name=f"{self.name}@laptop")

    def start_handler(self):
        self.handler = App(self.laptop, 8080, self.name, "http", "127.0.0.1")

    def draft(self, lab, name, **more):
        base = lab.intercept(f"{name}-{self.name}", self.name, handler="127.0.0.1:8080")
        return replace(base, session="", **more)

    def add(self, lab, name="orders", **more):
        return self.client.add(self.draft(lab, name, **more))

    def matched(self):
        return GET % b"coder: %s\r\n" % self.name.encode()

    def close(self):
        self.handler.close()
