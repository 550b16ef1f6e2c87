"""The server's half of a connection: what a client sends, and which events come of it."""

import struct

import pytest
from hpack import Encoder
from raw_http2 import (
    HEADERS,
    LIMITS,
    REQUEST,
    TRAILERS,
    Harness,
    data,
    frames,
    goaway,
    numbers,
    opening,
    request,
    reset,
    settings,
    window_update,
)

from batcher.http2.sansio.connection import Connection
from batcher.http2.sansio.frames import (
    ACK,
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    MAX_FRAME_SIZE,
    MAX_WINDOW,
    PADDED,
    PREFACE,
    PRIORITY,
    Error,
    Frame,
    Setting,
    frame,
)
from batcher.http2.sansio.hpack import encode
from batcher.http2.sansio.streams import (
    HEADER_READ_FACTOR,
    MAX_HEADER_FRAMES,
    UNFINISHED_FACTOR,
    ConnectionCounters,
    DataReceived,
    RequestReceived,
    StreamEnded,
    StreamReset,
)


def parts(number, block):
    """A block in frames of the largest size."""
    pieces = [
        block[at : at + DEFAULT_FRAME_SIZE] for at in range(0, len(block), DEFAULT_FRAME_SIZE)
    ]
    return [
        frame(
            Frame.CONTINUATION if place else Frame.HEADERS,
            END_HEADERS if place == len(pieces) - 1 else 0,
            number,
            piece,
        )
        for place, piece in enumerate(pieces)
    ]


class TestGreeting:
    def test_the_server_speaks_first(self, harness):
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

    def test_the_client_is_greeted_with_its_first_frame(self):
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
    def test_another_protocol_is_told_which_one_is_spoken(self, start):
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

    def test_unknown_frames_count_for_nothing(self, harness):
        for stream in (0, 1, 2):
            assert harness.receive(frame(0xEE, 0xFF, stream, b"anything")) == []
        assert harness.written() == []

    def test_a_client_that_leaves_waits_for_its_answers(self, harness):
        stream = harness.open()
        assert harness.receive(frame(Frame.GOAWAY, 0, 0, numbers(0, 0))) == []
        harness.answer(stream, b"x")
        assert not harness.connection.closing
        harness.connection.release(stream)
        assert harness.connection.closing
        assert harness.connection.error is Error.NO_ERROR
        assert harness.connection.counters == ConnectionCounters(goaways_received=1, goaways_sent=1)
        assert harness.written()[3:] == [goaway(1)]

    def test_a_client_that_leaves_with_nothing_open_is_let_go(self, harness):
        ping = frame(Frame.PING, 0, 0, bytes(8))
        assert harness.receive(frame(Frame.GOAWAY, 0, 0, numbers(0, 99) + b"why"), ping) == []
        assert harness.connection.closing
        assert harness.written() == [(Frame.PING, ACK, 0, bytes(8)), goaway(0)]

    def test_the_reserved_bit_of_a_stream_counts_for_nothing(self, harness):
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
    def test_a_frame_may_be_as_large_as_the_least_that_peers_take(self, harness, kind):
        head = struct.pack(">BHBBI", 0, DEFAULT_FRAME_SIZE + 1, kind, 0, 0)
        harness.receive(frame(0xEE, 0, 0, bytes(DEFAULT_FRAME_SIZE)))
        assert not harness.connection.closing
        harness.receive(head)
        assert harness.failed() is Error.FRAME_SIZE_ERROR

    def test_what_came_before_the_fault_counts(self, harness):
        events = harness.receive(opening(1, END_STREAM), window_update(0, 0), opening(3))
        assert [type(event) for event in events] == [RequestReceived, StreamEnded]
        assert harness.failed(1) is Error.PROTOCOL_ERROR

    def test_a_priority_counts_for_nothing(self, harness):
        assert harness.receive(frame(Frame.PRIORITY, 0, 7, bytes(5))) == []
        assert harness.written() == []


class TestRequests:
    def test_a_request_opens_is_received_and_ends(self, harness):
        events = harness.receive(
            opening(1), data(1, b"ab"), data(1, b""), data(1, b"c"), data(1, b"d", END_STREAM)
        )
        stream = harness.connection.streams[1]
        assert events == [
            RequestReceived(stream, request()),
            DataReceived(stream, b"ab"),
            DataReceived(stream, b"c"),
            DataReceived(stream, b"d"),
            StreamEnded(stream),
        ]
        assert stream.request_ended

    def test_a_request_may_have_no_body(self, harness):
        (opened, ended) = harness.receive(opening(1, END_STREAM))
        assert ended == StreamEnded(opened.stream)

    def test_an_empty_frame_may_end_it(self, harness):
        stream = harness.open(flags=0)
        assert harness.receive(data(1, b"", END_STREAM)) == [StreamEnded(stream)]

    def test_requests_come_side_by_side(self, harness):
        events = harness.receive(opening(1), opening(7), data(7, b"7"), data(1, b"1"))
        assert [event.stream.id for event in events] == [1, 7, 7, 1]

    def test_trailers_end_a_request(self, harness):
        stream = harness.open(flags=0)
        assert harness.receive(opening(1, END_STREAM, TRAILERS)) == [StreamEnded(stream)]

    def test_trailers_that_do_not_end_it_are_a_fault(self, harness):
        stream = harness.open(flags=0)
        assert harness.receive(opening(1, 0, TRAILERS)) == [StreamReset(stream)]
        assert harness.written() == [(Frame.RST_STREAM, 0, 1, numbers(Error.PROTOCOL_ERROR))]

    def test_a_block_may_go_on_in_other_frames(self, harness):
        block = encode(HEADERS)
        events = harness.receive(
            frame(Frame.HEADERS, END_STREAM, 1, block[:3]),
            frame(Frame.CONTINUATION, 0, 1, block[3:9]),
            frame(Frame.CONTINUATION, END_HEADERS, 1, block[9:]),
        )
        stream = harness.connection.streams[1]
        assert events == [RequestReceived(stream, request()), StreamEnded(stream)]
        assert harness.receive(opening(3)) == [
            RequestReceived(harness.connection.streams[3], request())
        ]

    @pytest.mark.parametrize(
        "other",
        [
            data(1, b"x"),
            opening(3),
            settings(),
            frame(0xEE, 0, 0),
            frame(Frame.CONTINUATION, END_HEADERS, 3, b"x"),
        ],
    )
    def test_nothing_comes_between_its_frames(self, harness, other):
        assert harness.receive(frame(Frame.HEADERS, 0, 1, b"\x82"), other) == []
        assert harness.failed() is Error.PROTOCOL_ERROR

    def test_a_block_has_an_end(self, harness):
        harness.receive(frame(Frame.HEADERS, 0, 1, b"\0"))
        part = frame(Frame.CONTINUATION, 0, 1, bytes(500))
        for _ in range(HEADER_READ_FACTOR * LIMITS.max_headers // 500 - 1):
            harness.receive(part)
            assert not harness.connection.closing
        harness.receive(part)
        assert harness.failed() is Error.ENHANCE_YOUR_CALM

    def test_a_block_has_so_many_frames(self, harness):
        empty = frame(Frame.CONTINUATION, 0, 1, b"")
        harness.receive(frame(Frame.HEADERS, 0, 1, REQUEST), empty * MAX_HEADER_FRAMES)
        assert not harness.connection.closing
        harness.receive(empty)
        assert harness.failed() is Error.ENHANCE_YOUR_CALM

    def test_the_next_block_has_as_many_again(self, harness):
        parts = frame(Frame.CONTINUATION, 0, 1, b"") * (MAX_HEADER_FRAMES - 1)
        for number in (1, 3):
            events = harness.receive(
                frame(Frame.HEADERS, 0, number, REQUEST),
                parts.replace(b"\x00\x00\x00\x01", bytes([0, 0, 0, number])),
                frame(Frame.CONTINUATION, END_HEADERS, number, b""),
            )
            assert events == [RequestReceived(harness.connection.streams[number], request())]

    def test_fields_over_the_limit_are_left_out_so_that_the_call_can_be_told(self, harness):
        held = [harness.open()]
        for number, size in enumerate(
            (1000, 3000, 5000, HEADER_READ_FACTOR * LIMITS.max_headers // 2)
        ):
            block = encode((*HEADERS, ("x", "v" * size)))
            (opened,) = harness.receive(*parts(3 + 2 * number, block))
            assert opened.request.headers == HEADERS
            assert opened.request.size > size
            held.append(opened.stream)
            harness.connection.send_trailers(opened.stream, TRAILERS)
        assert not harness.connection.closing
        assert not held[0].closed

    def test_far_beyond_it_the_connection_ends(self, harness):
        block = encode((*HEADERS, ("x", "v" * (HEADER_READ_FACTOR * LIMITS.max_headers - 100))))
        harness.receive(*parts(1, block))
        assert harness.failed() is Error.ENHANCE_YOUR_CALM

    def test_a_block_that_cannot_be_read_ends_the_connection(self, harness):
        harness.receive(opening(1, 0, b"\0\x05a"))
        assert harness.failed() is Error.COMPRESSION_ERROR

    @pytest.mark.parametrize("padding", [0, 1, 255])
    def test_padding_and_priority_count_for_nothing(self, harness, padding):
        before, after = bytes([padding]), bytes(padding)
        flags = END_HEADERS | PADDED
        (opened, received) = harness.receive(
            frame(Frame.HEADERS, flags | PRIORITY, 1, before + bytes(5) + encode(HEADERS) + after),
            data(1, before + b"body" + after, PADDED),
        )
        assert opened.request.headers == HEADERS
        assert received.data == b"body"
        assert harness.receive(data(1, before + after, PADDED)) == []

    @pytest.mark.parametrize("payload", [b"", b"\x01", b"\x05abcd", b"\xff" + bytes(200)])
    @pytest.mark.parametrize("kind", [Frame.DATA, Frame.HEADERS])
    def test_padding_is_not_more_than_there_is(self, harness, kind, payload):
        harness.open(flags=0)
        assert harness.receive(frame(kind, PADDED | END_HEADERS, 1, payload)) == []
        assert harness.failed(1) is Error.PROTOCOL_ERROR

    def test_a_priority_is_whole(self, harness):
        harness.receive(frame(Frame.HEADERS, PRIORITY | END_HEADERS, 1, bytes(4)))
        assert harness.failed() is Error.FRAME_SIZE_ERROR


class TestNumbersOfStreams:
    def test_a_client_opens_odd_streams(self, harness):
        harness.receive(opening(2))
        assert harness.failed() is Error.PROTOCOL_ERROR

    def test_a_request_that_has_ended_has_no_trailers(self, harness):
        stream = harness.open(5)
        assert harness.receive(opening(5)) == [StreamReset(stream)]
        assert harness.written() == [(Frame.RST_STREAM, 0, 5, numbers(Error.STREAM_CLOSED))]
        assert harness.connection.counters == ConnectionCounters(malformed=1)

    def test_nor_has_one_that_was_answered(self, harness):
        stream = harness.open(5)
        harness.answer(stream, b"x")
        harness.receive(opening(5))
        assert harness.failed(5) is Error.STREAM_CLOSED

    @pytest.mark.parametrize("number", [1, 3])
    def test_their_numbers_rise(self, harness, number):
        harness.open(5)
        harness.receive(opening(number))
        assert harness.failed(5) is Error.PROTOCOL_ERROR

    @pytest.mark.parametrize("number", [3, 2])
    def test_a_stream_is_opened_by_headers_alone(self, number):
        for piece in (data(number, b"x"), reset(number), window_update(number, 1)):
            harness = Harness()
            harness.open(1)
            assert harness.receive(piece) == []
            assert harness.failed(1) is Error.PROTOCOL_ERROR

    def test_a_request_that_has_ended_does_not_go_on(self, harness):
        stream = harness.open(1)
        assert harness.receive(data(1, b"x"), data(1, b"y")) == [StreamReset(stream)]
        assert harness.written() == [(Frame.RST_STREAM, 0, 1, numbers(Error.STREAM_CLOSED))]
        assert not harness.connection.closing

    def test_nor_does_one_that_was_answered_or_reset(self, harness):
        for number, end in ((1, END_STREAM), (3, 0)):
            stream = harness.open(number, end)
            if end:
                harness.answer(stream, b"x")
            else:
                harness.receive(reset(number))
            harness.connection.release(stream)
            harness.written()
            assert harness.receive(data(number, b"x"), data(number, b"y")) == []
            assert harness.written() == [
                (Frame.RST_STREAM, 0, number, numbers(Error.STREAM_CLOSED))
            ]
        assert harness.connection.counters == ConnectionCounters(resets_received=1, malformed=2)

    def test_data_on_its_way_to_a_stream_that_the_server_ended_counts_for_nothing(self, harness):
        for number in range(1, 2000, 2):
            stream = harness.open(number, 0)
            harness.connection.send_trailers(stream, TRAILERS)
            harness.connection.release(stream)
        harness.written()
        for number in range(1, 2000, 2):
            assert harness.receive(data(number, b"x", END_STREAM)) == []
        assert harness.written() == []

    def test_more_than_may_be_open_are_refused(self, harness):
        opened = [harness.open(number) for number in (1, 3, 5, 7)]
        assert harness.receive(opening(9), data(9, b"x")) == []
        assert harness.written() == [(Frame.RST_STREAM, 0, 9, numbers(Error.REFUSED_STREAM))]

        harness.answer(opened[1], b"x")
        assert [type(event) for event in harness.receive(opening(11))] == [RequestReceived]
        assert harness.receive(opening(13)) == []
        assert harness.connection.counters == ConnectionCounters(refused=2)

    def test_the_fields_of_a_refused_stream_enter_the_table(self, harness):
        encoder = Encoder()
        for number in (1, 3, 5, 7):
            harness.open(number)
        assert harness.receive(opening(9, 0, encoder.encode([("a", "b")]))) == []
        harness.connection.reset(harness.connection.streams[1], Error.CANCEL)
        block = encoder.encode([*HEADERS, ("c", "d"), ("a", "b")])
        (opened,) = harness.receive(opening(11, 0, block))
        assert opened.request.headers == (*HEADERS, ("c", "d"), ("a", "b"))

    def test_a_stream_that_is_reset_frees_its_place_at_once(self, harness):
        for first in (1, 9):
            for number in range(first, first + 8, 2):
                stream = harness.open(number)
            assert stream.id == first + 6
            for number in range(first, first + 8, 2):
                assert len(harness.receive(reset(number))) == 1
        assert harness.written() == []

    def test_but_those_that_are_worked_on_are_bounded(self, harness):
        streams = []
        for number in range(1, 2 * UNFINISHED_FACTOR * LIMITS.max_streams, 2):
            streams.append(harness.open(number))
            harness.receive(reset(number))
        assert harness.receive(opening(99)) == []
        assert harness.written() == [(Frame.RST_STREAM, 0, 99, numbers(Error.REFUSED_STREAM))]
        harness.connection.release(streams[3])
        assert [type(event) for event in harness.receive(opening(101))] == [RequestReceived]
