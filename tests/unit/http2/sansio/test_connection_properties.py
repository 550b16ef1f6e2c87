"""Properties of a connection: any bytes in any pieces, and answers through any windows."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_http2 import (
    LIMITS,
    TRAILERS,
    Harness,
    data,
    frames,
    opening,
    reset,
    settings,
    window_update,
)

from batcher.http2.sansio.connection import Connection
from batcher.http2.sansio.frames import (
    ACK,
    DEFAULT_WINDOW,
    END_STREAM,
    PREFACE,
    Frame,
    Setting,
    frame,
)
from batcher.http2.sansio.streams import RequestReceived, StreamDrained

strange = st.builds(
    frame,
    st.integers(0, 10),
    st.integers(0, 255),
    st.integers(0, 9),
    st.binary(max_size=12),
)
sensible = st.one_of(
    st.builds(opening, st.sampled_from([1, 3, 5, 7]), st.sampled_from([0, END_STREAM])),
    st.builds(
        data, st.sampled_from([1, 3, 5]), st.binary(max_size=40), st.sampled_from([0, END_STREAM])
    ),
    st.builds(window_update, st.sampled_from([0, 1, 3, 5]), st.integers(1, 1000)),
    st.builds(reset, st.sampled_from([1, 3, 5])),
    st.builds(
        lambda size: settings((Setting.INITIAL_WINDOW_SIZE, size)),
        st.integers(0, 100_000),
    ),
    st.just(frame(Frame.PING, 0, 0, bytes(8))),
    st.just(frame(Frame.SETTINGS, ACK, 0)),
)
client_bytes = st.lists(st.one_of(sensible, sensible, sensible, strange), max_size=12).map(b"".join)


def plain(event):
    content = getattr(event, "data", getattr(event, "headers", None))
    return type(event), event.stream.id, content


def joined(events):
    return [plain(event) for event in events]


@pytest.mark.slow
@given(client_bytes, st.lists(st.integers(0, 400), max_size=20))
def test_events_do_not_depend_on_the_pieces(sent, cuts):
    whole = PREFACE + settings() + sent
    at_once, in_pieces = Connection(LIMITS), Connection(LIMITS)
    expected = joined(at_once.receive(whole))

    places = sorted({min(cut, len(whole)) for cut in cuts} | {0, len(whole)})
    found, written = [], b""
    for start, stop in pairwise(places):
        found += joined(in_pieces.receive(whole[start:stop]))
        written += in_pieces.data_to_send()
    assert found == expected
    assert written == at_once.data_to_send()
    assert in_pieces.closing == at_once.closing


@pytest.mark.slow
@given(client_bytes, st.binary(max_size=100))
def test_after_any_bytes_a_connection_works_or_closes(sent, rest):
    harness = Harness()
    for stream in [e.stream for e in harness.receive(sent, rest) if isinstance(e, RequestReceived)]:
        harness.answer(stream, b"body")
        harness.connection.release(stream)
    written = frames(harness.connection.data_to_send())
    if harness.connection.closing:
        assert [each[0] for each in written].count(Frame.GOAWAY) == 1
    elif not rest:
        harness.receive(frame(Frame.PING, 0, 0, b"12345678"))
        assert (Frame.PING, ACK, 0, b"12345678") in frames(harness.connection.data_to_send())


class Reader:
    """A client with four calls that counts its windows and keeps what it receives."""

    def __init__(self, first, flags):
        self.harness = Harness((Setting.INITIAL_WINDOW_SIZE, first))
        self.first = first
        self.window = DEFAULT_WINDOW
        self.streams = {number: self.harness.open(number, flags) for number in (1, 3, 5, 7)}
        self.windows = dict.fromkeys(self.streams, first)
        self.sent = dict.fromkeys(self.streams, b"")
        self.received = dict.fromkeys(self.streams, b"")
        self.closed = set()
        self.ended = set()
        self.waiting = set()

    # what the client may do

    def widen_all(self, _, size):
        self.window += size
        self._follow(window_update(0, size))

    def widen_one(self, number, size):
        self.windows[number] += size
        self._follow(window_update(number, size))

    def set_first(self, _, size):
        for number in self.windows:
            self.windows[number] += size - self.first
        self.first = size
        self._follow(settings((Setting.INITIAL_WINDOW_SIZE, size)))

    def send(self, number, size):
        if number not in self.closed:
            body = bytes([len(self.sent[number]) % 251]) * size
            self.sent[number] += body
            self.harness.connection.send_data(self.streams[number], body)
            if self.streams[number].outbox:
                self.waiting.add(number)
            self._follow(b"")

    def close(self, number, _):
        if number not in self.closed:
            self.closed.add(number)
            self.harness.connection.send_trailers(self.streams[number], TRAILERS)
            self._follow(b"")

    # what it receives

    def _follow(self, sent):
        for event in self.harness.receive(sent):
            assert isinstance(event, StreamDrained)
            self.waiting.remove(event.stream.id)
        for kind, flags, number, payload in self.harness.written():
            if kind is Frame.DATA:
                self._receive(number, payload)
            elif kind is Frame.HEADERS:
                assert flags & END_STREAM
                self.ended.add(number)
        for number, stream in self.streams.items():
            assert bool(stream.outbox) == (number in self.waiting)
            assert not stream.outbox or min(self.window, self.windows[number]) <= 0

    def _receive(self, number, payload):
        assert number not in self.ended
        self.window -= len(payload)
        self.windows[number] -= len(payload)
        assert not payload or min(self.window, self.windows[number]) >= 0
        self.received[number] += payload


steps = st.tuples(
    st.sampled_from(["widen_all", "widen_one", "set_first", "send", "send", "close"]),
    st.sampled_from([1, 3, 5, 7]),
    st.integers(1, 40_000),
)


@pytest.mark.slow
@given(st.sampled_from([0, END_STREAM]), st.integers(0, 50_000), st.lists(steps, max_size=30))
def test_answers_arrive_whole_and_never_beyond_a_window(flags, first, story):
    client = Reader(first, flags)
    for act, number, size in story:
        getattr(client, act)(number, size)
    for number in client.streams:
        client.widen_one(number, 10**7)
    client.widen_all(0, 10**8)
    assert client.received == client.sent
    assert client.ended == client.closed
    assert not client.waiting
