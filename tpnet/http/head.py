"""Request heads: read them strictly, keep their bytes, and look fields up only when somebody asks.

Called by ``tpnet.http.conversation`` (and by tests). One possessive regular expression accepts a head as a
whole; whatever it does not accept is told apart slowly, by ``_classify``. Must never alter a byte, and never
takes part in routing: a head only says how it may be routed (``reason`` empty: by rules; otherwise: to the
app).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from tpnet.http.grammar import FIELDS, MAX_HEAD, TOKEN, TOO_LONG, Bad, HeadScan, body_length, persists

if TYPE_CHECKING:
    from collections.abc import Callable

PLAIN, HEAD, CONNECT, UPGRADE = range(4)
"""Kinds of requests as to their answers. Nothing may follow the last two before they are answered."""

_NOT_HTTP: Final = Bad("P", "its first line is not one of HTTP/1")

# Request line (section 3): single spaces, a version that we speak. Octets from 0x80 in a target are not in
# the grammar, but every server has its way with them and none frames a message by them.
_LINE: Final = rb"(" + TOKEN + rb"++) ([!-~\x80-\xff]++) HTTP/1\.([01])\r\n"
_request: Final = re.compile(rb"(?:\r\n)*+" + _LINE + FIELDS).match
_line: Final = re.compile(_LINE).fullmatch
_prefix: Final = re.compile(
    rb"\r?|" + TOKEN + rb"++(?: (?:[!-~\x80-\xff]++"
    rb"(?: (?:H(?:T(?:T(?:P(?:/(?:1(?:\.(?:[01]\r?)?)?)?)?)?)?)?)?)?)?)?"
).fullmatch
_absolute: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*+://([^/?#]*)([^?]*)").match
_authority: Final = re.compile(rb"[^/?#@]+").fullmatch

# The fields that framing, persistence or a verdict hang on, in a head turned to lower case.
_noted: Final = re.compile(
    rb"\n(connection|content-length|transfer-encoding|upgrade|expect|host|user-agent(?=:[ \t]*kube-probe/))"
    rb":[ \t]*([^\r\n]*)"
).findall
_ONLY_HOST: Final = b"host"
_names: Final = re.compile(rb"\n([^:\r\n]++):").findall
_field_line: Final = re.compile(rb"(" + TOKEN + rb"++):([^\r\n\x00]*)").fullmatch
_controls: Final = re.compile(rb"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]").search
_framing_name: Final = re.compile(rb"(?:content-length|transfer-encoding)[ \t]*:", re.IGNORECASE).match
_FRAMING: Final = (b"content-length", b"transfer-encoding")


@lru_cache(maxsize=1024)
def _finder(name: bytes) -> Callable[[bytes, int], list[bytes]]:
    return re.compile(rb"\n(?i:" + re.escape(name) + rb"):[ \t]*+([^\r\n]*)").findall


class RequestHead:
    """One request's head, as it came.

    ``raw`` holds its bytes, blank lines before it and the empty line at its end included. ``version`` is 10
    or 11. ``body`` is the body's length in bytes or ``grammar.CHUNKED``. ``close``: nothing follows this
    message on its connection. ``kind`` is one of ``PLAIN HEAD CONNECT UPGRADE``. ``expects``: it has an
    Expect field. ``reason``: why it goes to the app whatever the rules say; empty if rules decide.
    """

    __slots__ = (
        "_fields",
        "_text",
        "body",
        "close",
        "expects",
        "kind",
        "method",
        "raw",
        "reason",
        "target",
        "version",
    )

    def __init__(self, raw: bytes, method: bytes, target: bytes, version: int, fields: int) -> None:
        self.raw = raw
        self.method = method
        self.target = target
        self.version = version
        self.body = 0
        self.close = False
        self.kind = PLAIN
        self.expects = False
        self.reason = ""
        self._text = raw
        self._fields = fields

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
        return [value.rstrip(b" \t") for value in _finder(name)(self._text, self._fields)]

    def names(self) -> set[bytes]:
        """The lower-case names that ``values`` has something for."""
        names = set(_names(self._text.lower(), self._fields))
        if self.target[0] != 0x2F and _absolute(self.target):
            names.add(b"host")
        return names


def request_scan() -> HeadScan:
    """A buffer for a request's head that has not arrived in full."""
    return HeadScan(_line, _prefix, _NOT_HTTP, blanks=True)


def read_request(data: bytes, at: int = 0) -> RequestHead | Bad | HeadScan:
    """The request head that begins at offset ``at`` of ``data``.

    A ``HeadScan`` that holds all bytes from ``at`` on when the head is not there in full.
    """
    match = _request(data, at)
    if match is not None:
        end = match.end()
        if end - at > MAX_HEAD:
            return TOO_LONG
        raw = data[at:end]
        method, target, minor = match.groups()
        head = RequestHead(raw, method, target, 11 if minor == b"1" else 10, match.end(3) + 1 - at)
        if (target[0] != 0x2F or method == b"CONNECT") and (wrong := _check_target(head)):
            return wrong
        return _note(head, raw.lower())
    scan = request_scan()
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
    if len(noted) == 1 and noted[0][0] == _ONLY_HOST and head.version == 11:
        return head
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
        elif name == b"expect":
            head.expects = True
        else:
            head.reason = "it is a probe of the kubelet"
    if connection or head.version == 10:
        head.close = not persists(head.version, connection)
    if lengths or codings:
        body = body_length(head.version, lengths, codings)
        if isinstance(body, str):
            return Bad("R", body)
        if body and head.kind == CONNECT:
            return Bad("R", "a CONNECT has no body (RFC 9110, 9.3.6)")
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
            return Bad("R", "it has a carriage return inside a field line")
        if b"\x00" in line:
            return Bad("R", "it has a NUL inside a field line")
        if line[:1] in {b" ", b"\t"}:
            if not name:
                return Bad("R", "its first field line starts with white space")
            if name in _FRAMING or _framing_name(line.lstrip(b" \t")):
                return Bad("R", "its framing is in a folded line")
            folded = True
        else:
            field = _field_line(line)
            if field is None:
                return Bad("R", "it has a line that is not a header field")
            name = field[1].lower()
        if _controls(line):
            if name in _FRAMING:
                return Bad("R", "its framing fields hold control characters")
            controls = True
    method, target, minor = match.groups()
    head = RequestHead(raw, method, target, 11 if minor == b"1" else 10, start + match.end() - 1)
    if (target[0] != 0x2F or method == b"CONNECT") and (wrong := _check_target(head)):
        return wrong
    text = re.sub(rb"\r?\n[ \t]+", b" ", raw)
    head._text = text  # noqa: SLF001  # the maker of the object
    noted = _note(head, text.lower())
    if isinstance(noted, Bad):
        return noted
    if bare_lf:
        return Bad("P", "it has lines that end in a bare line feed")
    assert folded or controls
    head.reason = "it has a folded field line" if folded else "it has control characters in a field"
    return head
