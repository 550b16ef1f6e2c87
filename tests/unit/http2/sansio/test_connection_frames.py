"""The preface, and frames of the connection: settings, pings, GOAWAY, and frames that are broken."""

import struct

import pytest
from raw_http2 import (
    LIMITS,
    data,
    frames,
    goaway,
    numbers,
    opening,
    settings,
    window_update,
)

from batcher.http2.sansio.connection import Connection
from batcher.http2.sansio.frames import (
    ACK,
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    END_STREAM,
    MAX_FRAME_SIZE,
    MAX_WINDOW,
    PREFACE,
    Error,
    Frame,
    Setting,
    frame,
)
from batcher.http2.sansio.streams import (
    ConnectionCounters,
    RequestReceived,
    StreamEnded,
)


class TestPreface:
    def test_the_server_sends_its_preface_first(self, harness):
        (first, second) = harness.server_preface
        assert first[:3] == (Frame.SETTINGS, 0, 0)
        assert dict(struct.iter_unpack(">HI", first[3])) == {
            Setting.MAX_CONCURRENT_STREAMS: 4,
            Setting.INITIAL_WINDOW_SIZE: 100_000,
            Setting.MAX_HEADER_LIST_SIZE: 1000,
        }
        assert second == (
            Frame.WINDOW_UPDATE,
            0,
            0,
            numbers(MAX_WINDOW - DEFAULT_WINDOW),
        )

    def test_the_preface_is_received_with_the_first_frame(self):
        connection = Connection(LIMITS)
        whole = PREFACE + settings()
        for byte in whole[:-1]:
            connection.receive(bytes([byte]))
            assert not connection.preface_received
        connection.receive(whole[-1:])
        assert connection.preface_received
        assert not connection.closing

    @pytest.mark.parametrize(
        "start",
        [b"GET / HTTP/1.1\r\n\r\n", b"X", PREFACE[:-1] + b"X", b"\x16\x03\x01"],
    )
    def test_another_protocol_gets_the_reason(self, start):
        connection = Connection(LIMITS)
        connection.data_to_send()
        assert connection.receive(start) == []
        assert frames(connection.data_to_send()) == [
            goaway(
                0, Error.PROTOCOL_ERROR, "no HTTP/2 preface: this port speaks gRPC over HTTP/2 only"
            )
        ]
        assert connection.closing
        assert not connection.preface_received

    @pytest.mark.parametrize(
        "first",
        [opening(1), frame(Frame.PING, 0, 0, bytes(8)), frame(Frame.SETTINGS, ACK, 0)],
    )
    def test_settings_come_first(self, first):
        connection = Connection(LIMITS)
        connection.data_to_send()
        assert connection.receive(PREFACE + first) == []
        assert frames(connection.data_to_send()) == [
            goaway(0, Error.PROTOCOL_ERROR, "the first frame of a connection must be SETTINGS")
        ]


class TestConnectionFrames:
    def test_a_ping_is_answered_but_not_an_answer(self, harness):
        harness.receive(
            frame(Frame.PING, 0, 0, b"12345678"), frame(Frame.PING, ACK, 0, b"87654321")
        )
        assert harness.written() == [(Frame.PING, ACK, 0, b"12345678")]

    def test_settings_are_acknowledged_each_time(self, harness):
        harness.receive(settings((Setting.MAX_CONCURRENT_STREAMS, 7), (99, 99)), settings())
        assert harness.written() == [(Frame.SETTINGS, ACK, 0, b"")] * 2

    def test_an_acknowledgement_is_not_answered(self, harness):
        harness.receive(frame(Frame.SETTINGS, ACK, 0))
        assert harness.written() == []

    def test_unknown_frames_are_ignored(self, harness):
        for stream in (0, 1, 2):
            assert harness.receive(frame(0xEE, 0xFF, stream, b"anything")) == []
        assert harness.written() == []

    def test_a_connection_closes_after_the_clients_goaway_when_all_is_answered(self, harness):
        stream = harness.open()
        assert harness.receive(frame(Frame.GOAWAY, 0, 0, numbers(0, 0))) == []
        harness.answer(stream, b"x")
        assert not harness.connection.closing
        harness.connection.release(stream)
        assert harness.connection.closing
        assert harness.connection.error is Error.NO_ERROR
        assert harness.connection.counters == ConnectionCounters(goaways_received=1, goaways_sent=1)
        assert harness.written()[3:] == [goaway(1)]

    def test_a_connection_without_streams_closes_at_the_clients_goaway(self, harness):
        ping = frame(Frame.PING, 0, 0, bytes(8))
        assert harness.receive(frame(Frame.GOAWAY, 0, 0, numbers(0, 99) + b"why"), ping) == []
        assert harness.connection.closing
        assert harness.written() == [(Frame.PING, ACK, 0, bytes(8)), goaway(0)]

    def test_the_reserved_bit_of_a_stream_is_ignored(self, harness):
        (opened,) = harness.receive(opening(2**31 + 1))
        assert opened.stream.id == 1

    @pytest.mark.parametrize(
        ("broken", "error"),
        [
            (frame(Frame.PING, 0, 0, b"1234567"), Error.FRAME_SIZE_ERROR),
            (frame(Frame.PING, 0, 1, bytes(8)), Error.PROTOCOL_ERROR),
            (frame(Frame.SETTINGS, ACK, 0, bytes(6)), Error.FRAME_SIZE_ERROR),
            (frame(Frame.SETTINGS, 0, 0, bytes(7)), Error.FRAME_SIZE_ERROR),
            (frame(Frame.SETTINGS, 0, 1), Error.PROTOCOL_ERROR),
            (settings((Setting.ENABLE_PUSH, 2)), Error.PROTOCOL_ERROR),
            (settings((Setting.INITIAL_WINDOW_SIZE, 2**31)), Error.FLOW_CONTROL_ERROR),
            (settings((Setting.MAX_FRAME_SIZE, DEFAULT_FRAME_SIZE - 1)), Error.PROTOCOL_ERROR),
            (settings((Setting.MAX_FRAME_SIZE, MAX_FRAME_SIZE + 1)), Error.PROTOCOL_ERROR),
            (window_update(0, 0), Error.PROTOCOL_ERROR),
            (window_update(0, MAX_WINDOW), Error.FLOW_CONTROL_ERROR),
            (frame(Frame.WINDOW_UPDATE, 0, 0, bytes(3)), Error.FRAME_SIZE_ERROR),
            (frame(Frame.PRIORITY, 0, 0, bytes(5)), Error.PROTOCOL_ERROR),
            (frame(Frame.PRIORITY, 0, 1, bytes(4)), Error.FRAME_SIZE_ERROR),
            (frame(Frame.RST_STREAM, 0, 0, bytes(4)), Error.PROTOCOL_ERROR),
            (frame(Frame.CONTINUATION, 0, 0, b""), Error.PROTOCOL_ERROR),
            (frame(Frame.CONTINUATION, 0, 1, b""), Error.PROTOCOL_ERROR),
            (frame(Frame.PUSH_PROMISE, 0, 0, bytes(4)), Error.PROTOCOL_ERROR),
            (frame(Frame.PUSH_PROMISE, 0, 1, bytes(4)), Error.PROTOCOL_ERROR),
            (frame(Frame.GOAWAY, 0, 1, bytes(8)), Error.PROTOCOL_ERROR),
            (frame(Frame.GOAWAY, 0, 0, bytes(7)), Error.FRAME_SIZE_ERROR),
            (frame(Frame.PRIORITY, 0, 1, numbers(1) + b"x"), Error.PROTOCOL_ERROR),
            (data(0, b""), Error.PROTOCOL_ERROR),
            (opening(0), Error.PROTOCOL_ERROR),
        ],
    )
    def test_a_broken_frame_ends_the_connection(self, harness, broken, error):
        assert harness.receive(broken) == []
        assert harness.failed() is error

    @pytest.mark.parametrize("kind", [Frame.DATA, Frame.SETTINGS, 0xEE])
    def test_a_frame_may_have_the_default_maximum_size(self, harness, kind):
        head = struct.pack(">BHBBI", 0, DEFAULT_FRAME_SIZE + 1, kind, 0, 0)
        harness.receive(frame(0xEE, 0, 0, bytes(DEFAULT_FRAME_SIZE)))
        assert not harness.connection.closing
        harness.receive(head)
        assert harness.failed() is Error.FRAME_SIZE_ERROR

    def test_frames_before_a_broken_one_are_handled(self, harness):
        events = harness.receive(opening(1, END_STREAM), window_update(0, 0), opening(3))
        assert [type(event) for event in events] == [RequestReceived, StreamEnded]
        assert harness.failed(1) is Error.PROTOCOL_ERROR

    def test_a_priority_is_ignored(self, harness):
        assert harness.receive(frame(Frame.PRIORITY, 0, 7, bytes(5))) == []
        assert harness.written() == []
