"""One row per kind of bytes that a client may send, and the verdict it must get, whatever way the bytes are cut."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from http_wire import (
    APP,
    CLOSE_CLIENT,
    DEV,
    HOST,
    NEXT,
    PIN,
    RESET,
    TO_APP,
    TO_DEV,
    Wire,
    all_cuts,
    answer,
    byte_by_byte,
    chunked,
    post,
    request,
)

from tpnet.http.h1.grammar import MAX_HEAD

HELLO = b"5\r\nhello\r\n0\r\n\r\n"


@dataclass(frozen=True)
class Row:
    id: str
    verdict: str
    data: bytes
    good: bytes | None = None
    """B: how much of it is good to pass on."""
    ends: bool = False
    """F: nothing may follow it on its connection."""


def get(*fields: bytes, host: bytes = HOST) -> bytes:
    return request(b"GET / HTTP/1.1", *fields, host=host)


def length(value: bytes, body: bytes = b"hello") -> bytes:
    return post(b"Content-Length: " + value, body=body)


def coding(value: bytes, body: bytes = HELLO, *fields: bytes) -> bytes:
    return post(b"Transfer-Encoding: " + value, *fields, body=body)


def broken(id_: str, body: bytes, good: bytes = b"") -> Row:
    head = chunked(b"")
    return Row(id_, "B", head + body, good=head + good)


LONG_EXT = b"a" * 3000
ROWS = [
    # Two framings in one message.
    Row("S01", "R", post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n")),
    Row("S02", "R", post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n")),
    Row("S01-case", "R", post(b"content-length: 5", b"TRANSFER-ENCODING: Chunked", body=b"0\r\n\r\n")),
    Row("S01-zero", "R", post(b"Content-Length: 0", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n")),
    Row("S03", "R", post(b"Content-Length: 5", b"Content-Length: 0", body=b"hello")),
    Row("S04", "R", post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello")),
    Row("S04-case", "R", post(b"Content-Length: 5", b"CONTENT-LENGTH: 5", body=b"hello")),
    Row("S04-list", "R", length(b"5, 5")),
    Row("S04-list-tight", "R", length(b"5,5")),
    Row("S04-list-differs", "R", length(b"5, 0")),
    Row("S04-list-empty", "R", length(b"5,")),
    # What is not a number.
    *(
        Row(f"S05-{at}", "R", length(value))
        for at, value in enumerate(
            [
                b"+5",
                b"-1",
                b"1_0",
                b"0x5",
                b"5.0",
                b"5e0",
                b"5 5",
                b"5;",
                b'"5"',
                b"\xb2",
                b"five",
                b"-0",
                b"+0",
                b"5\x0b",
            ]
        )
    ),
    Row("S05-get", "R", get(b"Content-Length: -5")),
    Row("S06", "R", length(b"")),
    Row("S06-blank", "R", length(b" \t ")),
    Row("S07", "F", length(b"005")),
    Row("S07-many", "F", length(b"0" * 40 + b"5")),
    Row("S07-zero", "F", length(b"0", b"")),
    Row("S07-get", "F", request(b"GET / HTTP/1.1", b"Content-Length: 5", body=b"hello")),
    Row("S07-white", "F", length(b" \t 5 \t ")),
    Row("S07-tight", "F", post(b"Content-Length:5", body=b"hello")),
    Row("S07-request-in-body", "F", length(b"%d" % len(NEXT), NEXT)),
    Row("S08", "R", length(b"99999999999999999999999")),
    Row("S08-2^63", "R", length(b"9223372036854775808")),
    Row("S08-2^64+5", "R", length(b"18446744073709551621")),
    Row("S08-5000-digits", "R", length(b"9" * 5000)),
    Row("S09", "R", post(b"Content-Length : 5", body=b"hello")),
    Row("S09-tab", "R", post(b"Content-Length\t: 5", body=b"hello")),
    Row("S09-te", "R", post(b"Transfer-Encoding : chunked", body=HELLO)),
    Row("S09-te-cl", "R", post(b"Content-Length: 5", b"Transfer-Encoding : chunked", body=b"0\r\n\r\n")),
    Row("S09-ordinary", "R", get(b"X : a")),
    # Codings.
    Row("S10", "R", coding(b"xchunked", b"hello", b"Content-Length: 5")),
    Row("S10-alone", "R", coding(b"xchunked")),
    Row("S11", "R", coding(b"chunked, chunked")),
    Row("S11-lines", "R", coding(b"chunked", HELLO, b"Transfer-Encoding: chunked")),
    Row("S11-lines-differ", "R", coding(b"gzip", HELLO, b"Transfer-Encoding: chunked")),
    Row("S11-lines-swapped", "R", coding(b"chunked", HELLO, b"Transfer-Encoding: identity")),
    Row("S11-lines-x", "R", coding(b"chunked", HELLO, b"Transfer-Encoding: x")),
    Row("S12", "R", coding(b"identity", b"hello", b"Content-Length: 5")),
    Row("S12-alone", "R", coding(b"identity", b"")),
    Row("S12-first", "R", coding(b"identity, chunked")),
    Row("S12-last", "R", coding(b"chunked, identity")),
    Row("S13", "F", coding(b"gzip, chunked")),
    Row("S13-tight", "F", coding(b"gzip,chunked")),
    Row("S13-case", "F", coding(b"GZIP , Chunked")),
    Row("S13-gzip-last", "R", coding(b"chunked, gzip")),
    Row("S13-gzip", "R", coding(b"gzip", b"")),
    Row("S13-with-length", "R", coding(b"gzip, chunked", HELLO, b"Content-Length: 5")),
    Row("S14", "F", request(b"POST /x HTTP/1.1", b"TRANSFER-ENCODING: CHUNKED", body=HELLO)),
    *(
        Row(f"S14-odd-{at}", "R", coding(value))
        for at, value in enumerate(
            [
                b"",
                b"chunked;q=1",
                b"chunked; foo",
                b'"chunked"',
                b"'chunked'",
                b"\x0bchunked",
                b"\x0cchunked",
                b"chunked\x0b",
                b",chunked",
                b"chunked,",
                b", chunked",
                b"gzip,,chunked",
                b"chunked\xa0",
                b"\x85chunked",
                b"chunked \x01",
                b"chun\x7fked",
                b"chunk",
                b"chunkedd",
                b"chunked chunked",
                b"[chunked]",
                b"ch\x00unked",
                b"\x00chunked",
                b"gzip;q=1, chunked",
            ]
        )
    ),
    Row("S14-white", "F", coding(b" \t chunked \t ")),
    Row("S14-tight", "F", post(b"Transfer-Encoding:chunked", body=HELLO)),
    Row(
        "S14-other-names",
        "F",
        get(b"X-Transfer-Encoding: chunked", b"Transfer_Encoding: chunked", b"X-Content-Length: 9"),
    ),
    Row("S14-te", "F", get(b"TE: trailers, chunked")),
    Row("S14-folded", "R", post(b"Transfer-Encoding:\r\n chunked", body=HELLO)),
    Row("S14-folded-more", "R", post(b"Transfer-Encoding: chunked,\r\n\tgzip", body=HELLO)),
    Row("S15", "R", request(b"POST /x HTTP/1.0", b"Transfer-Encoding: chunked", body=HELLO)),
    Row(
        "S15-keep",
        "R",
        request(b"POST /x HTTP/1.0", b"Connection: keep-alive", b"Transfer-Encoding: chunked", body=HELLO),
    ),
    # Chunks.
    Row("S16", "F", chunked(b'5;a=b;c="d e"\r\nhello\r\n0\r\n\r\n')),
    Row("S16-last", "F", chunked(b"5\r\nhello\r\n0;end=1\r\n\r\n")),
    Row("S16-bws", "F", chunked(b"5 \t; a = b\r\nhello\r\n0\r\n\r\n")),
    Row("S59", "F", chunked(b"5 \r\nhello\r\n0\r\n\r\n")),
    Row("S59-tabs", "F", chunked(b"5\t \t\r\nhello\r\n0 \t \r\n\r\n")),
    Row("S59-trailers", "F", chunked(b"5 ; a\t\r\nhello\r\n0\t\r\nX: y\r\n\r\n")),
    Row("S16-obs-text", "F", chunked(b"5;a=\xff\r\nhello\r\n0\r\n\r\n")),
    Row("S16-long", "F", chunked(b"5;" + LONG_EXT + b"\r\nhello\r\n0\r\n\r\n")),
    Row("S62-fits", "F", chunked((b"1;" + b"a" * 1023 + b"\r\nx\r\n") * 16 + b"0\r\n\r\n")),
    broken(
        "S62",
        (b"1;" + b"a" * 1023 + b"\r\nx\r\n") * 1024 + b"0\r\n\r\n",
        (b"1;" + b"a" * 1023 + b"\r\nx\r\n") * 16,
    ),
    broken(
        "S62-blanks",
        (b"1" + b" " * 2048 + b"\r\nx\r\n") * 8 + b"0 \r\n\r\n",
        (b"1" + b" " * 2048 + b"\r\nx\r\n") * 8,
    ),
    broken("S16-too-long", b"5;" + LONG_EXT * 2 + b"\r\nhello\r\n0\r\n\r\n"),
    *(
        broken(f"S17-{at}", size + b"\r\nhello\r\n0\r\n\r\n")
        for at, size in enumerate(
            [
                b"0x5",
                b"+5",
                b"0_5",
                b" 5",
                b"\t5",
                b"-5",
                b"5h",
                b"",
                b";a",
                b"g",
                b"\x0b5",
                b"5\x0b",
                b"5 5",
                b"5,5",
                b"5\x00",
                b"5;a\rb",
                b"5;a\x00",
                b"5\r",
                b"5;\x01",
                b"5;a\x7f",
                b'"5"',
                b"5\xa0",
                b"\xb2",
            ]
        )
    ),
    broken("S18", b"5\nhello\r\n0\r\n\r\n"),
    broken("S18-ext", b"5;a\nhello\r\n0\r\n\r\n"),
    broken("S18-after-data", b"5\r\nhello\n0\r\n\r\n", b"5\r\nhello"),
    broken("S18-last-size", b"5\r\nhello\r\n0\n\r\n", b"5\r\nhello\r\n"),
    broken("S18-end", b"5\r\nhello\r\n0\r\n\n", b"5\r\nhello\r\n0\r\n"),
    broken("S18-all", b"5\nhello\n0\n\n"),
    broken("S18-cr", b"5\rhello\r0\r\r\n"),
    broken("S18-cr-after-data", b"5\r\nhello\r0\r\n\r\n", b"5\r\nhello"),
    broken("S19", b"5\r\nhelloX\r\n0\r\n\r\n", b"5\r\nhello"),
    broken("S19-short", b"6\r\nhello\r\n0\r\n\r\n", b"6\r\nhello\r"),
    broken("S19-second", b"5\r\nhello\r\n5\r\nhelloXX0\r\n\r\n", b"5\r\nhello\r\n5\r\nhello"),
    broken("S19-xx-after-zero", b"5\r\nhello\r\n0\r\nXX\r\n\r\n", b"5\r\nhello\r\n0\r\n"),
    broken("S20", b"00000000000000005\r\nhello\r\n0\r\n\r\n"),
    broken("S20-big", b"10000000000000000\r\nhello\r\n0\r\n\r\n"),
    broken("S20-2^63", b"8000000000000000\r\nhello\r\n0\r\n\r\n"),
    broken("S20-2^64-1", b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
    Row("S20-16", "F", chunked(b"0000000000000005\r\nhello\r\n0\r\n\r\n")),
    Row("S21", "F", chunked(b"0000A\r\n0123456789\r\n000\r\nX-Sum: 1\r\n\r\n")),
    Row("S21-case", "F", chunked(b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n")),
    Row("S21-empty", "F", chunked(b"0\r\n\r\n")),
    Row("S21-trailers", "F", chunked(b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nX: \r\ny:\xff\r\n\r\n")),
    Row("S21-crlf-data", "F", chunked(b"4\r\n\r\n\r\n\r\n0\r\n\r\n")),
    Row("S60", "F", chunked(b"5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n")),
    Row("S60-coding", "F", chunked(b"0\r\nX: 1\r\ntransfer-encoding: chunked\r\n\r\n")),
    Row("S60-host", "F", chunked(b"0\r\nHost: b.test\r\nConnection: close\r\nContent-Length: x\r\n\r\n")),
    broken("S21-space", b"0\r\nX : 1\r\n\r\n", b"0\r\n"),
    broken("S21-fold", b"0\r\nX: 1\r\n 2\r\n\r\n", b"0\r\nX: 1\r\n"),
    broken("S21-lf", b"0\r\nX: 1\n\r\n", b"0\r\n"),
    broken("S21-cr", b"0\r\nX: 1\rY: 2\r\n\r\n", b"0\r\n"),
    broken("S21-nul", b"0\r\nX: \x00\r\n\r\n", b"0\r\n"),
    broken("S21-no-name", b"0\r\n: 1\r\n\r\n", b"0\r\n"),
    broken("S21-no-end", b"5\r\nhello\r\n0\r\n", b"5\r\nhello\r\n0\r\n"),  # what follows is no trailer
    broken(
        "S21-too-long",
        b"0\r\n" + b"X: %s\r\n" % (b"a" * 900) * 80 + b"\r\n",
        b"0\r\n" + b"X: %s\r\n" % (b"a" * 900) * 70,
    ),
    # Lines.
    Row("S22", "P", b"GET / HTTP/1.1\nHost: a.test\n\n"),
    Row("S22-body", "P", b"POST / HTTP/1.1\nHost: a.test\nContent-Length: 5\n\nhello"),
    Row("S22-field", "P", b"GET / HTTP/1.1\r\nHost: a.test\nX: 1\r\n\r\n"),
    Row("S22-last-field", "P", b"GET / HTTP/1.1\r\nHost: a.test\n\r\n"),
    Row("S22-end", "P", b"GET / HTTP/1.1\r\nHost: a.test\r\n\n"),
    Row("S22-no-fields", "P", b"GET / HTTP/1.1\r\n\n"),
    Row("S22-blank", "P", b"\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    Row("S22-length", "P", b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\n\r\nhello"),
    Row(
        "S22-two-framings",
        "R",
        b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    Row("S22-fold", "P", b"GET / HTTP/1.1\r\nHost: a.test\r\nX: a\n b\r\n\r\n"),
    Row("S23", "R", get(b"X: a\rY: b")),
    Row("S23-end", "R", get(b"X: a\r")),
    Row("S23-name", "R", get(b"X\r: a")),
    Row("S23-framing", "R", get(b"X: a\rContent-Length: 5")),
    Row("S23-alone", "R", get(b"\rX: a")),
    Row("S24", "R", get(b"X: a\x00b")),
    Row("S24-name", "R", get(b"X\x00: a")),
    Row("S24-framing", "R", get(b"Content-Length\x00: 5")),
    Row("S25", "F", get(b"X: \xff\xfe")),
    Row("S25-tabs", "F", get(b"X:\t\ta\tb\t", b"Y:", b"Z: ~!")),
    Row("S25-many", "F", get(*(b"X-%d: %s" % (at, b"v" * 40) for at in range(20)))),
    Row("S25-control", "A", get(b"X: a\x01b")),
    Row("S25-vt", "A", get(b"X: a\x0bb", b"Y: \x7f")),
    Row("S26", "A", get(b"X: a\r\n b")),
    Row("S26-tab", "A", get(b"X: a\r\n\tb\r\n c")),
    Row("S26-body", "A", post(b"X: a\r\n b", b"Content-Length: 5", body=b"hello")),
    Row("S26-chunked", "A", post(b"Transfer-Encoding: chunked", b"X: a\r\n b", body=HELLO)),
    Row("S26-smuggled", "R", get(b"X: a\r\n Content-Length: 5")),
    Row("S26-smuggled-te", "R", get(b"X: a\r\n\tTransfer-Encoding : chunked")),
    Row("S26-length", "R", post(b"Content-Length:\r\n 5", body=b"hello")),
    Row("S26-length-goes-on", "R", post(b"Content-Length: 5\r\n 0", body=b"hello")),
    Row("S26-conflict", "R", post(b"X: a\r\n b", b"Content-Length: 5", b"Content-Length: 6", body=b"hello")),
    Row("S61", "R", get(b"X: a", b" ")),
    Row("S61-tab", "R", get(b"X: a", b"\t \t", b"Y: b")),
    Row("S61-first", "R", request(b"GET / HTTP/1.1", host=b" \r\nHost: a.test\r\n")),
    Row("S61-last", "R", get(b"\t", b"")),
    Row("S61-lf", "R", b"GET / HTTP/1.1\r\nHost: a.test\r\nX: a\n \n\r\n"),
    Row("S61-smuggled", "R", get(b" ", b"Content-Length: 5")),
    Row("S27", "R", request(b"GET / HTTP/1.1", host=b" Host: a.test\r\n")),
    Row("S27-tab", "R", request(b"GET / HTTP/1.1", host=b"\tHost: a.test\r\n")),
    Row(
        "S27-framing",
        "R",
        request(b"POST / HTTP/1.1", host=b" Content-Length: 5\r\nHost: a.test\r\n", body=b"hello"),
    ),
    Row("S28", "R", get(b"X")),
    Row("S28-length", "R", get(b"Content-Length 5")),
    Row("S28-no-name", "R", get(b": a")),
    Row("S28-name", "R", get(b"X(: a")),
    Row("S28-name-8bit", "R", get(b"\xa0Content-Length: 5")),
    Row("S28-name-space", "R", get(b"X Y: a")),
    Row("S28-request", "R", get(b"GET /hidden HTTP/1.1")),
    Row("S29", "F", get(b"X_User: v")),
    Row("S30", "A", get(b"Host: b.test")),
    Row("S30-same", "A", get(b"host: a.test")),
    Row("S30-body", "A", post(b"Host: b.test", b"Content-Length: 5", body=b"hello")),
    Row("S31", "F", b"GET / HTTP/1.1\r\n\r\n"),
    Row("S31-field", "F", b"GET / HTTP/1.1\r\nX: a\r\n\r\n"),
    Row("S31-empty", "F", get(host=b"Host:\r\n")),
    Row("S32", "F", request(b"GET http://b.test/x HTTP/1.1")),
    Row("S32-no-path", "F", request(b"GET http://b.test HTTP/1.1")),
    Row("S32-query", "F", request(b"GET HTTPS://b.test:80?q HTTP/1.1")),
    Row("S32-user", "A", request(b"GET http://a.test@b.test/x HTTP/1.1")),
    Row("S32-no-host", "A", request(b"GET http:///x HTTP/1.1")),
    Row("S33", "F", request(b"OPTIONS * HTTP/1.1")),
    Row("S34", "F", request(b"get / HTTP/1.1")),
    Row("S34-m-search", "F", request(b"M-SEARCH / HTTP/1.1")),
    Row("S34-token", "F", request(b"!#$%&'*+-.^_`|~09az / HTTP/1.1")),
    *(
        Row(f"S35-{at}", "P", request(line))
        for at, line in enumerate(
            [
                b"G(T / HTTP/1.1",
                b"GET /a b HTTP/1.1",
                b"GET / HTTP/1.1x",
                b"GET  / HTTP/1.1",
                b"GET / HTTP/1.1 ",
                b"GET\t/ HTTP/1.1",
                b"GET / http/1.1",
                b"GET / HTTP/2.0",
                b"GET / HTTP/1.2",
                b"GET / HTTP/1.10",
                b"GET / HTTP/0.9",
                b"GET / HTTP/01.1",
                b"GET /",
                b"GET",
                b" GET / HTTP/1.1",
                b"GET / HTTP/1,1",
                b"GET x HTTP/1.1",
                b"GET * HTTP/1.1",
                b"GET /\x00 HTTP/1.1",
                b"GET /\x7f HTTP/1.1",
                b"GET /\x0b HTTP/1.1",
                b"GET ?q HTTP/1.1",
                b"CONNECT /x HTTP/1.1",
                b"GET / HTTP/1.1\r",
                b"G\x80T / HTTP/1.1",
                b"GET / HTTPS/1.1",
                b"GET /a\rb HTTP/1.1",
                b"GET http:/x HTTP/1.1",
                b"\x00GET / HTTP/1.1",
                b"GET / " + b"x" * 600,
            ]
        )
    ),
    Row("S35-8bit-target", "F", request(b"GET /\xc3\xbc HTTP/1.1")),
    Row("S35-odd-target", "F", request(b'GET /a?b#c"<>\\^`{|} HTTP/1.1')),
    Row("S35-long-target", "F", request(b"GET /" + b"a" * 900 + b" HTTP/1.1")),
    Row("S35-conflict", "R", request(b"CONNECT a.test:443 HTTP/1.1", b"Content-Length: 5", body=b"hello")),
    Row(
        "S35-conflict-te",
        "R",
        request(b"CONNECT a.test:443 HTTP/1.1", b"Transfer-Encoding: chunked", body=HELLO),
    ),
    Row("S36", "F", b"\r\n" + get()),
    Row("S36-many", "F", b"\r\n\r\n\r\n" + get()),
    Row("S36-body", "F", b"\r\n" + length(b"5")),
    Row("S36-folded", "A", b"\r\n" + get(b"X: a\r\n b")),
    Row("S36-cr", "P", b"\r" + get()),
    Row("S36-space", "P", b" \r\n" + get()),
    Row("S39", "F", get(b"Connection: close"), ends=True),
    Row("S39-list", "F", get(b"Connection: keep-alive , Close"), ends=True),
    Row("S39-lines", "F", get(b"Connection: keep-alive", b"connection: close"), ends=True),
    Row("S39-body", "F", post(b"Connection: close", b"Content-Length: 5", body=b"hello"), ends=True),
    Row("S39-chunked", "F", post(b"Connection: close", b"Transfer-Encoding: chunked", body=HELLO), ends=True),
    Row("S39-not", "F", get(b"Connection: closed, x-close")),
    Row("S40", "F", request(b"GET / HTTP/1.0", b"Connection: Keep-Alive")),
    Row("S40-not", "F", request(b"GET / HTTP/1.0"), ends=True),
    Row("S40-bare", "F", b"GET / HTTP/1.0\r\n\r\n", ends=True),
    Row("S40-body", "F", request(b"POST / HTTP/1.0", b"Content-Length: 5", body=b"hello"), ends=True),
    Row(
        "S41", "F", post(b"Connection: close, Content-Length", b"Content-Length: 5", body=b"hello"), ends=True
    ),
    Row("S41-stays", "F", post(b"Connection: Content-Length, Host", b"Content-Length: 5", body=b"hello")),
    Row("S42", "F", post(b"Expect: 100-continue", b"Content-Length: 5", body=b"hello")),
    Row("S42-chunked", "F", post(b"Expect: 100-continue", b"Transfer-Encoding: chunked", body=HELLO)),
    Row("S55-tls", "P", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200))),
    Row("S55-ssh", "P", b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"),
    Row("S55-redis", "P", b"PING\r\n"),
    Row("S55-proxy", "P", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"),
    Row("S55-h2", "P", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    Row("S55-postgres", "P", b"\x00\x00\x00\x08\x04\xd2\x16\x2f"),
    Row("S55-rtsp", "P", b"OPTIONS rtsp://a.test/ RTSP/1.0\r\nCSeq: 1\r\n\r\n"),
    Row("S58", "P", get(b"X: " + b"a" * 65_000)),
    Row("S58-many", "P", get(*(b"X-%d: %s" % (at, b"a" * 1000) for at in range(70)))),
    Row("S58-target", "P", request(b"GET /" + b"a" * 65_000 + b" HTTP/1.1")),
    Row("S58-blank", "P", b"\r\n" * 33_000 + get()),
    Row("S58-broken", "P", get(b"X: " + b"a" * 65_000, b"Y: \r z")),
    Row("S58-fits", "F", get(b"X: " + b"a" * (MAX_HEAD - len(get(b"X: "))))),
    Row("S58-just-not", "P", get(b"X: " + b"a" * (MAX_HEAD - len(get(b"X: ")) + 1))),
    Row("probe", "A", get(b"User-Agent: kube-probe/1.31")),
    Row("hook", "A", get(b"User-Agent: kube-lifecycle/1.31")),
    Row("probe-not", "F", get(b"User-Agent: x-kube-probe/1.31")),
]

FIRST = answer(b"first")
SECOND = answer(b"second")
RULES = {
    "no rule": lambda _head: TO_APP,
    "matches": lambda _head: TO_DEV,
    "matches next only": lambda head: TO_DEV if head.path == b"/next" else TO_APP,
    "matches first only": lambda head: TO_APP if head.path == b"/next" else TO_DEV,
}


def check(row: Row, rule: str, pieces: list[bytes]) -> None:
    decide = RULES[rule]
    first = APP if row.verdict != "F" or rule in {"no rule", "matches next only"} else DEV
    second = APP if rule in {"no rule", "matches first only"} else DEV
    scripts: dict[object, list[tuple[bytes, bytes]]] = {APP: [], DEV: []}
    if row.verdict in {"F", "A"}:
        scripts[first].append((row.data, FIRST))
        scripts[second].append((NEXT, SECOND))
    wire = Wire(decide, scripts).write(*pieces)
    if row.verdict in {"F", "A"}:
        ends = row.ends
        assert wire.app == (row.data if first is APP else b"") + (NEXT if second is APP and not ends else b"")
        assert wire.dev == (row.data if first is DEV else b"") + (NEXT if second is DEV and not ends else b"")
        assert wire.client == FIRST + (b"" if ends else SECOND)
        assert wire.letters == [row.verdict] + ([] if ends else ["F"])
        assert wire.log == ([(CLOSE_CLIENT,)] if ends else [])
        assert wire.conversation.over == ends
        assert wire.conversation.idle != ends
    elif row.verdict == "P":
        assert wire.app == row.data + NEXT
        assert wire.dev == wire.client == b""
        assert wire.letters == ["P"]
        assert wire.log == [(PIN, APP)]
        assert wire.conversation.pinned
        assert wire.conversation.pinned_side is APP
    else:
        assert wire.dev == b""
        assert re.fullmatch(
            rb"HTTP/1\.1 400 Bad Request\r\n(?:[^\r]+\r\n)*Connection: close\r\n\r\ntpnet: [^\n]+\.\n",
            bytes(wire.client),
        )
        if row.verdict == "R":
            assert wire.app == b""
            assert wire.log == [(CLOSE_CLIENT,)]
            assert wire.letters == ["R"]
        else:
            assert wire.letters == ["F", "B"]
            if rule in {"no rule", "matches next only"}:
                assert wire.app == row.good
                assert wire.log == [(RESET, APP), (CLOSE_CLIENT,)]
            else:
                assert wire.app == b""
                assert wire.log == [(CLOSE_CLIENT,)]
        assert wire.conversation.over
        assert wire.conversation.reading_client


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_row_gets_its_verdict_however_it_is_cut(row, rule):
    for name, pieces in all_cuts(row.data + NEXT):
        try:
            check(row, rule, pieces)
        except AssertionError as error:
            raise AssertionError(f"{row.id}, {rule}, {name}: {error}") from error


LATER = [row for row in ROWS if row.verdict in "PR" and len(row.data) < 10_000]


@pytest.mark.parametrize("rule", ["no rule", "matches", "matches first only"])
@pytest.mark.parametrize("row", LATER, ids=lambda row: row.id)
def test_a_bad_message_is_the_same_at_any_position(row, rule):  # S68
    """It is refused after the responses before it, or the app's once no session owes one."""
    side = APP if rule == "no rule" else DEV
    for _, pieces in all_cuts(get() + row.data + NEXT, longest=100):
        wire = Wire(RULES[rule], {side: [(get(), FIRST)]}).write(*pieces)
        if row.verdict == "P":
            assert wire.app == (get() if side is APP else b"") + row.data + NEXT
            assert wire.dev == (get() if side == DEV else b"")
            assert wire.client == FIRST
            assert wire.log == [(PIN, APP)]
        else:
            assert wire.received[side] == get()
            assert wire.received[APP if side == DEV else DEV] == b""
            assert wire.client.startswith(FIRST + b"HTTP/1.1 400 Bad Request\r\n")
            assert wire.log == [(CLOSE_CLIENT,)]
        assert wire.letters == ["F", row.verdict]


@pytest.mark.parametrize("rule", ["no rule", "matches"])
@pytest.mark.parametrize("row", [row for row in LATER if row.verdict == "P"], ids=lambda row: row.id)
def test_what_is_not_http_waits_for_a_session_and_not_for_the_app(row, rule):
    side = APP if rule == "no rule" else DEV
    wire = Wire(RULES[rule]).write(get() + row.data, NEXT)
    assert wire.received[side] == get() + (row.data + NEXT if side is APP else b"")
    assert wire.conversation.reading_client == wire.conversation.pinned == (side is APP)
    wire.say(side, FIRST[:-3]).say(side, FIRST[-3:])
    assert wire.client == FIRST
    assert wire.app == (get() if side is APP else b"") + row.data + NEXT
    assert wire.log == [(PIN, APP)]


@pytest.mark.parametrize("side", [APP, DEV])
@pytest.mark.parametrize("row", [row for row in ROWS if row.id.startswith("S58")], ids=lambda row: row.id)
def test_a_later_head_that_is_too_long_is_the_apps_and_one_that_fits_is_not(row, side):  # S68
    data = get() + row.data
    for size in (len(data), 65_536, 4096):
        wire = Wire(RULES["no rule" if side is APP else "matches"]).write(
            *(data[at : at + size] for at in range(0, len(data), size))
        )
        wire.say(side, FIRST)
        if row.verdict == "P":
            assert wire.app == (data if side is APP else row.data)
            assert wire.log == [(PIN, APP)]
        else:
            assert wire.received[side] == data
            assert wire.log == []
        assert wire.client == FIRST


def test_what_came_of_a_response_before_a_pin_is_not_lost():
    for half in (b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r"):
        wire = Wire().write(get()).say(APP, half).write(b"\x16\x03\x01").say(APP, b"rest")
        assert wire.client == half + b"rest"
        assert wire.app == get() + b"\x16\x03\x01"
        assert wire.log == [(PIN, APP)]


@pytest.mark.parametrize("row", [row for row in ROWS if row.verdict in "RB"], ids=lambda row: row.id)
def test_nothing_is_refused_while_no_rule_stands(row):
    """Nobody can be smuggled anything: what would be R or B is a pipe to the app."""
    for before in (b"", get()):
        for _, pieces in all_cuts(before + row.data + NEXT, longest=100):
            wire = Wire(RULES["no rule"])
            wire.record.guarding = False
            wire.write(*pieces).say(APP, b"anything")
            assert wire.app == before + row.data + NEXT
            assert wire.client == b"anything"
            assert wire.log == [(PIN, APP)]
            assert wire.letters[-1] == "P"


@pytest.mark.parametrize("row", [row for row in ROWS if row.verdict in "PRB"], ids=lambda row: row.id)
def test_bytes_that_cannot_be_followed_never_wait_for_more(row):
    """The verdict falls on the row's own bytes, but for what only more bytes can tell from a good message."""
    undecided = {"S21-no-end", "S19-short"}
    wire = Wire().write(*byte_by_byte(row.data))
    assert wire.log or row.id in undecided
