"""The developer's end: a daemon that takes intercepted connections out of the tunnel to the handlers.

The command line starts it and speaks to it (``ensure_session``, ``SessionClient``). It must never let
anything but the agent in, nor anything in at a port that no intercept declares.
"""

from tpnet.session.client import SessionClient, ensure_session

__all__ = ["SessionClient", "ensure_session"]
