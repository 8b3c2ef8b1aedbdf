"""Two other parsers read what we pass on as we do; where they differ from our table, it says so here."""

from __future__ import annotations

import h11
import httptools
import pytest
from http_wire import NEXT, TO_APP, Wire
from hypothesis import given, settings
from hypothesis import strategies as st
from test_http_rows import ROWS
from test_http_splits import exchanges

# Why they differ from the table. In rows that we refuse, they trust what not everybody reads alike.
H11_DIFFERS = {
    # It refuses: lengths of more than 20 digits; codings other than chunked; white space before an extension;
    # HTTP/1.1 without a Host; targets beyond ASCII; blank lines before a request.
    *(
        "S07-many",
        "S13",
        "S13-tight",
        "S13-case",
        "S16-bws",
        "S59-trailers",
        "S31",
        "S31-field",
        "S35-8bit-target",
    ),
    *("S36", "S36-many", "S36-body"),
    # It lets Transfer-Encoding override a Content-Length; merges equal lengths; knows no bound of a length;
    # unfolds lines, framing ones too, and believes in bare line feeds.
    *(
        "S01",
        "S02",
        "S01-case",
        "S01-zero",
        "S22-two-framings",
        "S04",
        "S04-case",
        "S04-list",
        "S04-list-tight",
    ),
    *("S08-2^63", "S08-2^64+5", "S14-folded", "S26-smuggled", "S26-smuggled-te", "S26-length"),
    *("S35-conflict", "S35-conflict-te"),
    # In chunks it takes control characters in extensions, 20 hexadecimal digits, bare line feeds after trailers, and
    # folded ones; its bounds are others. It checks a Content-Length in trailers.
    *("S17-15", "S17-16", "S17-18", "S17-19", "S18-end", "S20", "S20-big", "S20-2^63", "S60-host"),
    *("S20-2^64-1", "S21-fold", "S21-lf", "S16-too-long", "S21-too-long", "S62", "S62-blanks"),
    # It takes a line of white space for one that goes on with the line before.
    *("S61", "S61-tab", "S61-lf"),
}
HTTPTOOLS_DIFFERS = {
    # It refuses white space after a coding, after a chunk's size and before an extension, framing trailers, extensions
    # and targets beyond ASCII, and methods that it has not heard of.
    *("S59", "S59-tabs", "S59-trailers", "S60", "S60-coding", "S60-host"),
    *("S14-white", "S16-bws", "S16-obs-text", "S35-8bit-target", "S34", "S34-token"),
    # It has no bound of ours; it is content if the last coding is chunked, and sees none before or around it.
    *(
        "S08-2^63",
        "S11-lines-differ",
        "S12-first",
        "S14-odd-8",
        "S14-odd-10",
        "S14-odd-11",
        "S14-odd-22",
        "S15-keep",
    ),
    *(
        "S35-conflict",
        "S35-conflict-te",
        "S20",
        "S20-2^63",
        "S20-2^64-1",
        "S16-too-long",
        "S21-too-long",
        "S62",
    ),
}


def by_h11(data):
    """(method, target, body) of each message, or ``None`` if it refuses one."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=70_000)
    connection.receive_data(data)
    messages = []
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                messages.append([event.method, event.target, b""])
            elif isinstance(event, h11.Data):
                messages[-1][2] += event.data
            elif isinstance(event, h11.EndOfMessage):
                if connection.their_state is h11.DONE:
                    connection.send(h11.Response(status_code=200, headers=[(b"content-length", b"0")]))
                    connection.send(h11.EndOfMessage())
                    if connection.our_state is not h11.DONE:
                        return messages
                    connection.start_next_cycle()
            elif event in {h11.NEED_DATA, h11.PAUSED}:
                return messages
    except h11.RemoteProtocolError:
        return None


def by_httptools(data):
    messages = []

    class Reader:
        def on_message_begin(self):
            messages.append([None, b"", b""])

        def on_url(self, url):
            messages[-1][1] += url

        def on_headers_complete(self):
            messages[-1][0] = parser.get_method()

        def on_body(self, body):
            messages[-1][2] += body

    parser = httptools.HttpRequestParser(Reader())
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        return messages
    except (httptools.HttpParserError, httptools.HttpParserInvalidMethodError):
        return None
    return messages


def agrees(read, row):
    # After a message that ends its connection they stop.
    alone = row.ends or row.id == "S40"
    messages = read(row.data if alone else row.data + NEXT)
    if row.verdict != "F":
        return messages is None
    return messages is not None and len(messages) == (1 if alone else 2)


@pytest.mark.parametrize("row", [row for row in ROWS if row.verdict in "FRB"], ids=lambda row: row.id)
def test_table_against_h11(row):
    assert agrees(by_h11, row) != (row.id in H11_DIFFERS)


@pytest.mark.parametrize("row", [row for row in ROWS if row.verdict in "FRB"], ids=lambda row: row.id)
def test_table_against_httptools(row):
    assert agrees(by_httptools, row) != (row.id in HTTPTOOLS_DIFFERS)


@settings(max_examples=150, deadline=None)
@given(st.lists(exchanges(), min_size=1, max_size=4))
def test_generated_conversations_are_read_alike(conversation):
    # Without what h11 does not read: blank lines before a request, white space before an extension, and what
    # follows the last message.
    last = next((at for at, one in enumerate(conversation) if one.ends), len(conversation) - 1)
    data = b"".join(one.asked.lstrip(b"\r\n") for one in conversation[: last + 1]).replace(b" ; q", b";  q")
    seen = []
    Wire(lambda head: seen.append([head.method, head.target]) or TO_APP).write(data)
    messages = by_h11(data)
    assert messages is not None
    assert [message[:2] for message in messages] == seen
