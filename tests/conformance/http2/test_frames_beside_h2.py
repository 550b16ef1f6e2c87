"""`h2` and this server see the same requests in any frames of a client."""

import pytest
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.http2.sansio.connection import Connection
from batcher.http2.sansio.frames import (
    END_HEADERS,
    END_STREAM,
    PADDED,
    PREFACE,
    PRIORITY,
    SETTING,
    Frame,
    frame,
)
from batcher.http2.sansio.streams import (
    DataReceived,
    Limits,
    RequestReceived,
    StreamEnded,
    StreamReset,
)

connection_of_h2 = pytest.importorskip("h2.connection")
config = pytest.importorskip("h2.config")
events = pytest.importorskip("h2.events")
exceptions = pytest.importorskip("h2.exceptions")

pytestmark = pytest.mark.conformance

LIMITS = Limits(max_streams=100, max_headers=16_384, stream_window=65_535)
REQUEST = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/s/M"),
    (":authority", "a:1"),
    ("te", "trailers"),
)


class Both:
    """Passes the same bytes to both, and keeps the events of each."""

    def __init__(self):
        self.ours = Connection(LIMITS)
        self.theirs = connection_of_h2.H2Connection(
            config.H2Configuration(client_side=False, header_encoding="latin-1")
        )
        self.theirs.initiate_connection()
        self.theirs.increment_flow_control_window(2**31 - 1 - 65_535)
        self.broken = False
        """Whether `h2` has ended the connection: it never ends a stream alone."""
        self.mine = []
        self.others = []

    def receive(self, data):
        self.mine += map(ours, self.ours.receive(data))
        try:
            found = self.theirs.receive_data(data)
        except exceptions.ProtocolError:
            self.broken = True
            return
        self.others += filter(None, map(theirs, found))


def ours(event):
    name = event.stream.id
    match event:
        case RequestReceived():
            return name, "opened", event.request.headers
        case DataReceived():
            return name, "data", event.data
        case StreamEnded():
            return name, "ended"
        case StreamReset():
            return name, "reset"


def theirs(event):
    match event:
        case events.RequestReceived():
            return event.stream_id, "opened", tuple(map(tuple, event.headers))
        case events.DataReceived() if event.data:
            return event.stream_id, "data", event.data
        case events.StreamEnded():
            return event.stream_id, "ended"
        case events.StreamReset():
            return event.stream_id, "reset"
    return None


numbers = st.sampled_from([1, 1, 3, 3, 5, 7, 0, 2])
flags = st.sampled_from([0, END_STREAM])
payloads = st.binary(max_size=20) | st.just(b"")
more = st.lists(
    st.sampled_from(
        [
            ("x", "1"),
            ("x", "2"),
            ("host", "a:1"),
            ("host", "b:1"),
            ("connection", "close"),
            ("X", "1"),
            ("te", "gzip"),
            (":path", "/t"),
            (":unknown", "1"),
            ("x", "a\n"),
            ("x", " a"),
        ]
    ),
    max_size=2,
)


@st.composite
def frames(draw):
    """A frame, as what it is made from: the header block depends on those before it."""
    kind = draw(
        st.sampled_from(
            ["headers"] * 5
            + ["data"] * 4
            + ["trailers", "reset", "widen"]
            + ["settings", "ping", "priority", "unknown", "split", "padded", "any"]
        )
    )
    return kind, draw(numbers), draw(flags), draw(payloads), draw(more), draw(st.integers(1, 2**31))


def encoded(encoder, made):
    kind, number, flag, payload, extra, size = made
    word = size.to_bytes(4, "big")
    if kind in {"headers", "split", "padded"}:
        block = encoder.encode([*REQUEST, *extra], huffman=bool(size % 2))
        if kind == "headers":
            return frame(Frame.HEADERS, END_HEADERS | flag, number, block)
        if kind == "padded":
            padded = bytes([len(payload)]) + bytes(5) + block + bytes(len(payload))
            return frame(Frame.HEADERS, END_HEADERS | PADDED | PRIORITY | flag, number, padded)
        return frame(Frame.HEADERS, flag, number, block[:5]) + frame(
            Frame.CONTINUATION, END_HEADERS, number, block[5:]
        )
    if kind == "trailers":
        return frame(Frame.HEADERS, END_HEADERS | END_STREAM, number, encoder.encode(extra))
    simple = {
        "data": (Frame.DATA, flag, number, payload),
        "reset": (Frame.RST_STREAM, 0, number, word),
        "widen": (Frame.WINDOW_UPDATE, 0, number, word),
        "settings": (Frame.SETTINGS, 0, 0, SETTING.pack(size % 7, size)),
        "ping": (Frame.PING, flag, 0, bytes(8)),
        "priority": (Frame.PRIORITY, 0, number, word + b"\x01"),
        "unknown": (0xEE, flag, number, payload),
        "any": (size % 10, size % 256, number, payload),
    }
    return frame(*simple[kind])


@settings(max_examples=1000, deadline=None)
@given(st.lists(frames(), max_size=14))
def test_any_frames(story):
    both, encoder = Both(), Encoder()
    both.receive(PREFACE + frame(Frame.SETTINGS, 0, 0))
    for made in story:
        both.receive(encoded(encoder, made))
        counts = both.ours.counters
        if both.broken or both.ours.closing:
            assert both.ours.closing or counts.malformed or counts.refused
            break
        assert both.mine == both.others
        if counts.goaways_received:
            break
