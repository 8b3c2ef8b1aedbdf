"""Request heads: read them strictly, keep their bytes, and look fields up only when somebody asks.

Called by ``framing`` and ``conversation`` (and by tests). A head whose lines are all right is accepted line by line,
each from memory if it was seen before (``grammar.Memo``); whatever is not accepted is classified on the slow path, by
``_classify``. Must never alter a byte, and never takes part in routing: a head only says how it may be routed
(``reason`` empty: by rules; otherwise: to the app).
"""

from __future__ import annotations

import re
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from tpnet.http.h1.grammar import (
    CRLF,
    FIELD,
    HEAD_END,
    MAX_HEAD,
    TOKEN,
    TOO_LONG,
    VALUE,
    Bad,
    Memo,
    PartialHead,
    body_length,
    persists,
)
from tpnet.http.h1.upgrade import names_carrier
from tpnet.http.verdict import OF_KUBELET, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

PLAIN, HEAD, CONNECT, UPGRADE = range(4)
"""Kinds of requests as to their responses. Nothing may follow the last two before they are answered."""

_NOT_HTTP: Final = Bad(Outcome.PIN, "its first line is not one of HTTP/1")

# Request line (section 3): single spaces, a version that we speak. Octets from 0x80 in a target are not in
# the grammar, but every server has its way with them and none frames a message by them.
_LINE: Final = rb"(" + TOKEN + rb"++) ([!-~\x80-\xff]++) HTTP/1\.([01])\r\n"
_start: Final = re.compile(rb"(?:\r\n)*+" + _LINE).match
_line: Final = re.compile(_LINE).fullmatch
_prefix: Final = re.compile(
    rb"\r?|" + TOKEN + rb"++(?: (?:[!-~\x80-\xff]++"
    rb"(?: (?:H(?:T(?:T(?:P(?:/(?:1(?:\.(?:[01]\r?)?)?)?)?)?)?)?)?)?)?)?"
).fullmatch
_absolute: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*+://([^/?#]*)([^?]*)").match
_authority: Final = re.compile(rb"[^/?#@]+").fullmatch

# The fields that framing, persistence or a verdict depend on, in a head turned to lower case.
_noted: Final = re.compile(
    rb"\n(connection|content-length|transfer-encoding|upgrade|expect|host"
    rb"|user-agent(?=:[ \t]*kube-(?:probe|lifecycle)/))"
    rb":[ \t]*([^\r\n]*)"
).findall
_field: Final = re.compile(FIELD).fullmatch
# Most field lines at one look: no name that begins like a noted one, the commonest letters first.
_unnoted_field: Final = re.compile(
    rb"(?:[ABDFGI-SV-Zabdfgi-sv-z]"
    + TOKEN
    + rb"*+|(?!(?i:connection|content-length|transfer-encoding|upgrade"
    rb"|expect|host|user-agent:[ \t]*+kube-(?:probe|lifecycle)/))" + TOKEN + rb"++):" + VALUE + rb"*+"
).fullmatch
_NOTED_NAMES: Final = frozenset(
    {b"content-length", b"transfer-encoding", b"upgrade", b"expect", b"user-agent"}
)

# What a field line is. The sum over a head's lines is ``_HOST`` if one is Host and the others mean nothing here, so
# much more as ``_CLOSE`` if one is ``Connection: close``, and below ``_MALFORMED`` if all are well-formed. (A head has
# less than 2**16 lines.)
_PLAIN_LINE, _HOST, _CLOSE, _NOTED, _MALFORMED = 0, 1, 1 << 16, 1 << 32, 1 << 48
_SIMPLE: Final = frozenset({_HOST, _HOST + _CLOSE})
_names: Final = re.compile(rb"\n([^:\r\n]++):").findall
_field_line: Final = re.compile(rb"(" + TOKEN + rb"++):([^\r\n\x00]*)").fullmatch
_controls: Final = re.compile(rb"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]").search
_framing_name: Final = re.compile(rb"(?:content-length|transfer-encoding)[ \t]*:", re.IGNORECASE).match
_FRAMING: Final = (b"content-length", b"transfer-encoding")


@lru_cache(maxsize=1024)
def _finder(name: bytes) -> Callable[[bytes, int], list[bytes]]:
    return re.compile(rb"\n(?i:" + re.escape(name) + rb"):[ \t]*+([^\r\n]*)").findall


def _read_line(line: bytes) -> tuple[int, bytes]:
    """What a field line is, and its name in lower case."""
    name = line[: line.find(b":")].lower()
    if _unnoted_field(line):
        return _PLAIN_LINE, name
    field = _field(line)
    if field is None:
        return _MALFORMED, b""
    if name == b"host":
        return _HOST, name
    if name == b"connection":
        return {b"keep-alive": _PLAIN_LINE, b"close": _CLOSE}.get(
            field[2].strip(b" \t").lower(), _NOTED
        ), name
    return _NOTED if name in _NOTED_NAMES else _PLAIN_LINE, name


_line_of: Final = Memo(_read_line).__getitem__
_kind: Final = itemgetter(0)
_name: Final = itemgetter(1)


def _read_fields(fields: bytes) -> tuple[int, frozenset[bytes]]:
    """The sum of what all field lines are, and their names."""
    lines = list(map(_line_of, fields.split(CRLF)))
    return sum(map(_kind, lines)), frozenset(map(_name, lines))


_fields_of: Final = Memo(_read_fields).__getitem__
_NO_FIELDS: Final = 0, frozenset[bytes]()


class RequestHead:
    """One request's head, as it came.

    ``raw`` holds its bytes, blank lines before it and the empty line at its end included. ``version`` is 10
    or 11. ``body`` is the body's length in bytes or ``grammar.CHUNKED``. ``close``: nothing follows this
    message on its connection. ``kind`` is one of ``PLAIN HEAD CONNECT UPGRADE``. ``carried``: it asks to
    upgrade to a protocol that carries requests (``upgrade``). ``expects``: it has an Expect field.
    ``reason``: why it goes to the app whatever the rules say; empty if rules decide.
    """

    __slots__ = (
        "_fields",
        "_names",
        "_text",
        "body",
        "carried",
        "close",
        "expects",
        "kind",
        "method",
        "raw",
        "reason",
        "target",
        "version",
    )

    def __init__(
        self,
        raw: bytes,
        method: bytes,
        target: bytes,
        version: int,
        fields: int,
        names: frozenset[bytes] | None,
    ) -> None:
        self.raw = raw
        self.method = method
        self.target = target
        self.version = version
        self.body = 0
        self.close = False
        self.kind = PLAIN
        self.carried = False
        self.expects = False
        self.reason = ""
        self._text = raw  # folded lines joined
        self._fields = fields  # where the first line ends in it
        self._names = names  # of its field lines, if they are all well-formed

    @property
    def path(self) -> bytes:
        """The raw path without its query; an absolute target's path; ``*`` for ``*``; empty for CONNECT."""
        target = self.target
        if target[0] == 0x2F:
            return target.partition(b"?")[0]
        if absolute := _absolute(target):
            return absolute[2] or b"/"
        return target if target == b"*" else b""

    def values(self, name: bytes) -> list[bytes]:
        """Each field line's value, white space around it trimmed, in order. ``name`` is in lower case.

        Of an absolute target, ``host`` is the target's authority (section 3.2.2).
        """
        if name == b"host" and self.target[0] != 0x2F and (absolute := _absolute(self.target)):
            return [absolute[1]]
        if self._names is not None and name not in self._names:
            return []
        return [value.rstrip(b" \t") for value in _finder(name)(self._text, self._fields)]

    def names(self) -> AbstractSet[bytes]:
        """The lower-case names that ``values`` has something for."""
        names = self._names
        if names is None:
            names = frozenset(_names(self._text.lower(), self._fields))
        return names | {b"host"} if self.target[0] != 0x2F and _absolute(self.target) else names


def partial_request() -> PartialHead:
    """A buffer for a request's head that has not arrived in full."""
    return PartialHead(_line, _prefix, _NOT_HTTP, blanks=True)


def read_request(data: bytes, at: int = 0) -> RequestHead | Bad | PartialHead:
    """The request head that begins at offset ``at`` of ``data``.

    A ``PartialHead`` that holds all bytes from ``at`` on when the head is not there in full.
    """
    start = _start(data, at)
    if start is not None:
        fields = start.end()
        end = data.find(HEAD_END, fields - 2)
        if end >= 0:
            said, names = _fields_of(data[fields:end]) if end > fields else _NO_FIELDS
            if said < _MALFORMED:
                end += 4
                if end - at > MAX_HEAD:
                    return TOO_LONG
                method, target, minor = start.groups()
                version = 11 if minor == b"1" else 10
                head = RequestHead(data[at:end], method, target, version, fields - 1 - at, names)
                if (target[0] != 0x2F or method == b"CONNECT") and (wrong := _check_target(head)):
                    return wrong
                if version == 10 or said not in _SIMPLE:
                    return _note(head, head.raw.lower())
                head.close = said != _HOST
                if method == b"HEAD":
                    head.kind = HEAD
                elif method == b"CONNECT":
                    head.kind = CONNECT
                return head
    scan = partial_request()
    end_or_bad = scan.feed(data[at:])
    if end_or_bad is None:
        return scan
    return end_or_bad if isinstance(end_or_bad, Bad) else _classify(bytes(scan.buffer[:end_or_bad]))


def _note(head: RequestHead, low: bytes) -> RequestHead | Bad:
    """Fill in what the noted fields say. ``low``: the head in lower case, folded lines joined."""
    noted = _noted(low)
    method = head.method
    if method == b"HEAD":
        head.kind = HEAD
    elif method == b"CONNECT":
        head.kind = CONNECT
    hosts = 0
    connection: list[bytes] = []
    lengths: list[bytes] = []
    codings: list[bytes] = []
    for name, value in noted:
        if name == b"host":
            hosts += 1
        elif name == b"connection":
            connection.append(value)
        elif name == b"content-length":
            lengths.append(value.rstrip(b" \t"))
        elif name == b"transfer-encoding":
            codings.append(value.rstrip(b" \t"))
        elif name == b"upgrade":
            # HTTP/1.0 knows no upgrade (RFC 9110, 7.8).
            if head.version == 11 and head.kind == PLAIN:
                head.kind = UPGRADE
            head.carried = head.carried or names_carrier(value)
        elif name == b"expect":
            head.expects = True
        else:
            head.reason = OF_KUBELET.reason
    if connection or head.version == 10:
        head.close = not persists(head.version, connection)
    if lengths or codings:
        body = body_length(head.version, lengths, codings)
        if isinstance(body, str):
            return Bad(Outcome.REFUSE, body)
        if body and head.kind == CONNECT:
            return Bad(Outcome.REFUSE, "a CONNECT has no body (RFC 9110, 9.3.6)")
        head.body = body
    if hosts > 1:
        head.reason = head.reason or "it has more than one Host line"
    return head


def _check_target(head: RequestHead) -> Bad | None:
    """What is wrong with a target that is not a plain path (section 3.2); notes what bars rules from it."""
    target = head.target
    if head.method == b"CONNECT":
        return None if _authority(target) else _NOT_HTTP
    absolute = _absolute(target)
    if absolute is None:
        return None if target == b"*" and head.method == b"OPTIONS" else _NOT_HTTP
    if not absolute[1] or b"@" in absolute[1]:
        # Recipients differ in which part they take for the host (RFC 9110, 4.2.4).
        head.reason = "its target names no plain host"
    return None


def _classify(raw: bytes) -> RequestHead | Bad:
    """A head whose first line is right and whose fields are not: refuse it, or say what leniency it needs."""
    start = len(raw) - len(raw.lstrip(b"\r\n"))
    line, _, rest = raw[start:].partition(b"\n")
    match = _line(line + b"\n")
    assert match is not None
    lines = rest.split(b"\n")[:-2]  # the empty line, and nothing after its end
    bare_lf = not rest.endswith(b"\r\n")
    controls = folded = False
    name = b""
    for line in lines:
        if line.endswith(b"\r"):
            line = line[:-1]
        else:
            bare_lf = True
        if b"\r" in line:
            return Bad(Outcome.REFUSE, "it has a carriage return inside a field line")
        if b"\x00" in line:
            return Bad(Outcome.REFUSE, "it has a NUL inside a field line")
        if not line.strip(b" \t"):
            # To some it ends the head, to others it goes on with the line before.
            return Bad(Outcome.REFUSE, "it has a line of white space only inside its head")
        if line[:1] in {b" ", b"\t"}:
            if not name:
                return Bad(Outcome.REFUSE, "its first field line starts with white space")
            if name in _FRAMING or _framing_name(line.lstrip(b" \t")):
                return Bad(Outcome.REFUSE, "its framing is in a folded line")
            folded = True
        else:
            field = _field_line(line)
            if field is None:
                return Bad(Outcome.REFUSE, "it has a line that is not a header field")
            name = field[1].lower()
        if _controls(line):
            if name in _FRAMING:
                return Bad(Outcome.REFUSE, "its framing fields hold control characters")
            controls = True
    method, target, minor = match.groups()
    head = RequestHead(raw, method, target, 11 if minor == b"1" else 10, start + match.end() - 1, None)
    if (target[0] != 0x2F or method == b"CONNECT") and (wrong := _check_target(head)):
        return wrong
    text = re.sub(rb"\r?\n[ \t]+", b" ", raw)
    head._text = text  # noqa: SLF001  # the maker of the object
    noted = _note(head, text.lower())
    if isinstance(noted, Bad):
        return noted
    if bare_lf:
        return Bad(Outcome.PIN, "it has lines that end in a bare line feed")
    assert folded or controls
    head.reason = "it has a folded field line" if folded else "it has control characters in a field"
    return head
