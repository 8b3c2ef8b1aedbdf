"""Where messages end, over any number of reads: one object per direction of a connection.

Called by ``state``, ``requests`` and ``responses``. A framing keeps only what it cannot tell about yet: the
beginning of a head, or of a unit of a chunked body. It must never route anything, nor keep a byte that is good to
pass on.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from tpnet.http.h1.body import BROKEN, DONE, MORE, ChunkedReader
from tpnet.http.h1.grammar import CHUNKED, UNTIL_EOF, Bad, PartialHead
from tpnet.http.h1.head import CONNECT, RequestHead, read_request
from tpnet.http.h1.response import read_response
from tpnet.http.verdict import Outcome

if TYPE_CHECKING:
    from tpnet.http.h1.response import ResponseHead

_BROKEN_BODY = Bad(Outcome.PIN, "its chunked body is malformed")


class RequestFraming:
    """Of the client's bytes."""

    __slots__ = ("_chunks", "body", "partial", "touched", "unit")

    def __init__(self) -> None:
        self.partial: PartialHead | None = None  # the beginning of a head
        self.body = 0  # what is left of the body under way: bytes, or CHUNKED
        self.touched = False  # a byte of that body has come
        self._chunks: ChunkedReader | None = None
        self.unit = b""  # the beginning of a unit of its chunks

    def take(self, data: bytes) -> bytes:
        """All of the body's bytes that were not passed on, ``data`` the last of them."""
        data = self.unit + data
        self.unit = b""
        return data

    def head(
        self, data: bytes, at: int, read: RequestHead | Bad | PartialHead | None
    ) -> RequestHead | Bad | None:
        """The head at an offset; ``None``, and kept, if it is not there in full.

        ``read`` is what ``read_request`` gave for it, if it was asked already.
        """
        head = read or read_request(data, at)
        if isinstance(head, PartialHead):
            self.partial = head
            return None
        return head

    def rest_of_head(self, data: bytes) -> bytes | None:
        """A head with all bytes since its beginning; ``None`` if it is not there in full yet."""
        partial = self.partial
        assert partial is not None
        if partial.feed(data) is None:
            return None
        self.partial = None
        return bytes(partial.buffer)

    def begin_body(self, length: int) -> None:
        """A body follows: bytes, or ``CHUNKED``."""
        self.body = length
        self.touched = False
        if length == CHUNKED:
            self._chunks = ChunkedReader()

    def follow(self, data: bytes, at: int) -> tuple[int, int]:
        """The offset up to which the body is good to pass on, and ``MORE``, ``DONE`` or ``BROKEN``."""
        self.touched = self.touched or at < len(data)
        left = self.body
        if left > 0:
            stop = min(len(data), at + left)
            self.body = left = left - (stop - at)
            return stop, MORE if left else DONE
        assert self._chunks is not None
        stop, status = self._chunks.feed(data, at)
        if status == MORE:
            self.unit = data[stop:]
        elif status == DONE:
            self.body = 0
            self._chunks = None
        return stop, status

    def spliced(self, count: int) -> None:
        """So many bytes of the body have gone their way unseen."""
        self.body -= count
        self.touched = True

    def forget(self) -> bytes:
        """Give up following, and what was kept."""
        kept = self.unit
        if self.partial is not None:
            kept += self.partial.buffer
        self.body = 0
        self.partial = self._chunks = None
        self.unit = b""
        return kept


class Part(Enum):
    """What ends at an offset of a side's bytes."""

    MORE = auto()
    """Nothing: more is to come."""
    CONTINUE = auto()
    """The head of a 100."""
    INTERIM = auto()
    """The head of another interim response (1xx)."""
    SWITCH = auto()
    """The head of a 101."""
    TUNNEL = auto()
    """The head of a 2xx to a CONNECT."""
    HEAD = auto()
    """The head of a final response; its body follows."""
    END = auto()
    """A final response."""


MORE_TO_COME, CONTINUE_HEAD, INTERIM_HEAD, SWITCH_HEAD, TUNNEL_HEAD, FINAL_HEAD, RESPONSE_ENDS = Part
_INTERIM: Final = {100: CONTINUE_HEAD, 101: SWITCH_HEAD}


class ResponseFraming:
    """Of one side's bytes.

    ``left`` is what is left of the response under way; ``None``: its head is awaited. ``interim``: interim
    responses to the request that had one last; ``continued``: one of them was 100.
    """

    __slots__ = ("_chunks", "_tail", "closes", "continued", "interim", "left", "partial")

    def __init__(self) -> None:
        self.partial: PartialHead | None = None
        self.left: int | None = None
        self.interim = 0
        self.continued = False
        self.closes = False  # nothing follows the response under way
        self._chunks: ChunkedReader | None = None
        self._tail = b""

    def take(self, data: bytes) -> bytes:
        """All bytes that were not passed on, ``data`` the last of them; empty if they are no whole head yet."""
        if self.partial is not None:
            if self.partial.feed(data) is None:
                return b""
            data = bytes(self.partial.buffer)
            self.partial = None
        elif self._tail:
            data = self._tail + data
            self._tail = b""
        return data

    def head(
        self, data: bytes, at: int, kind: int, read: ResponseHead | Bad | PartialHead | None
    ) -> tuple[int, Part | Bad]:
        """What the head at an offset is, and where it ends.

        ``kind`` is the request's. ``read`` is what ``read_response`` gave for it, if it was asked already.
        """
        head = read or read_response(data, at, kind)
        if isinstance(head, PartialHead):
            self.partial = head
            return at, MORE_TO_COME
        if isinstance(head, Bad):
            return at, head
        end, status, left, closes = head
        if status < 200:
            return end, _INTERIM.get(status, INTERIM_HEAD)
        if kind == CONNECT and status < 300:
            return end, TUNNEL_HEAD
        self.closes = closes
        self.left = left
        if left == CHUNKED:
            self._chunks = ChunkedReader()
        return end, FINAL_HEAD

    def body(self, data: bytes, at: int) -> tuple[int, Part | Bad]:
        """Up to which offset the body under way is good to pass on, and whether it ends there."""
        left, size = self.left, len(data)
        if left == CHUNKED:
            assert self._chunks is not None
            stop, status = self._chunks.feed(data, at)
            if status == DONE:
                return stop, RESPONSE_ENDS
            if status == BROKEN:
                return stop, _BROKEN_BODY
            self._tail = data[stop:]
            return stop, MORE_TO_COME
        if left == UNTIL_EOF:
            return size, MORE_TO_COME
        assert left is not None
        if left > size - at:
            self.left = left - (size - at)
            return size, MORE_TO_COME
        return at + left, RESPONSE_ENDS

    def next(self) -> None:
        """Await the next head."""
        self.left = self._chunks = None

    def forget(self) -> bytes:
        """Give up following, and what was kept."""
        kept = self._tail if self.partial is None else bytes(self.partial.buffer)
        self.left = self.partial = self._chunks = None
        self._tail = b""
        return kept
