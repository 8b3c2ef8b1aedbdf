"""A client connection's own connection to the app: dialled as the client comes, from the client's address.

Must never outlive its bypass entry's need for it: an entry that stays would let a stranger's connection pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpnet.http.conversation import APP
from tpnet.kernel.signs import Level
from tpnet.proxy.lingering import close_upstream
from tpnet.proxy.loop import OUT
from tpnet.proxy.stream import Stream

if TYPE_CHECKING:
    from tpnet.proxy.dialler import AppDialler, Peer
    from tpnet.proxy.transport import Socket
    from tpnet.proxy.upstream import Owner


class AppUpstream:
    """One connection to the app."""

    __slots__ = ("_dialler", "_peer", "owner", "stream")

    side = APP
    unseen = False
    """Nobody says so."""

    def __init__(self, owner: Owner, dialler: AppDialler, peer: Peer) -> None:
        self.owner = owner
        self.stream = Stream(owner.context.loop, owner.context.pipes)
        self._dialler = dialler
        self._peer = peer

    @property
    def kept(self) -> bool:
        """An app may have few connections, or one: an idle one must not keep its other clients waiting.

        Where sockets to dial it again with run low, and nobody makes more, it is kept all the same.
        """
        low = self._dialler.pool(self._peer).level < Level.SERVES
        return low and not self.stream.connecting and not self.owner.context.supplied

    def dial(self) -> None:
        """See ``Upstream.dial``. Without a prepared socket, wait for one."""
        sock = self._dialler.pool(self._peer).take()
        if sock is not None:
            self._connect(sock)
        else:
            self._dialler.pool(self._peer).wait(self)

    def given(self, sock: Socket) -> None:
        """Here is a prepared socket that was waited for."""
        self._connect(sock)
        self.owner.settle()

    def _connect(self, sock: Socket) -> None:
        established = self._dialler.dial(sock, self._peer)
        if established is None:
            self.owner.abort()
            return
        self.stream.attach(sock, self.on_events, connecting=not established)
        if not established:
            self.owner.calm = False

    def on_events(self, events: int) -> None:
        """The socket is ready for something."""
        if self.stream.connecting and not self._established(events):
            return
        self.owner.mover.on_upstream(self, events)

    def _established(self, events: int) -> bool:
        """The app answers the dial. ``True`` if its events are worth a further look."""
        stream = self.stream
        if error := stream.error():
            self._dialler.refused(error)
            self.owner.abort()
            return False
        if not events & OUT:
            return False
        stream.connecting = False
        self.owner.calm = False
        self._dialler.dialled(stream.sock)
        return True

    def sent(self) -> None:
        """See ``Upstream.sent``: the app is at the other end of loopback."""

    def fail(self) -> None:
        """Something of ours went wrong."""
        self.owner.fail()

    def close(self, *, reset: bool = False) -> None:
        """See ``Upstream.close``."""
        context, stream = self.owner.context, self.stream
        if not stream.attached:
            self._dialler.pool(self._peer).waiting.pop(self, None)
        elif stream.connecting:
            self._dialler.dialled(stream.sock)
        close_upstream(context, stream, reset=reset)
