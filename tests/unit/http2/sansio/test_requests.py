"""The receiving half of a connection: header blocks, bodies and trailers, and the events that come of them."""

import pytest
from hpack import Encoder
from raw_http2 import (
    HEADERS,
    LIMITS,
    REQUEST,
    TRAILERS,
    Harness,
    data,
    numbers,
    opening,
    request,
    reset,
    settings,
    window_update,
)

from batcher.http2.sansio.frames import (
    DEFAULT_FRAME_SIZE,
    END_HEADERS,
    END_STREAM,
    PADDED,
    PRIORITY,
    Error,
    Frame,
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
    """The frames of a block, each of the largest size."""
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

    def test_requests_may_interleave(self, harness):
        events = harness.receive(opening(1), opening(7), data(7, b"7"), data(1, b"1"))
        assert [event.stream.id for event in events] == [1, 7, 7, 1]

    def test_trailers_end_a_request(self, harness):
        stream = harness.open(flags=0)
        assert harness.receive(opening(1, END_STREAM, TRAILERS)) == [StreamEnded(stream)]

    def test_trailers_that_do_not_end_the_request_are_an_error(self, harness):
        stream = harness.open(flags=0)
        assert harness.receive(opening(1, 0, TRAILERS)) == [StreamReset(stream)]
        assert harness.written() == [(Frame.RST_STREAM, 0, 1, numbers(Error.PROTOCOL_ERROR))]

    def test_a_block_may_be_continued(self, harness):
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
    def test_no_other_frame_may_interrupt_a_block(self, harness, other):
        assert harness.receive(frame(Frame.HEADERS, 0, 1, b"\x82"), other) == []
        assert harness.failed() is Error.PROTOCOL_ERROR

    def test_the_bytes_of_a_block_are_bounded(self, harness):
        harness.receive(frame(Frame.HEADERS, 0, 1, b"\0"))
        part = frame(Frame.CONTINUATION, 0, 1, bytes(500))
        for _ in range(HEADER_READ_FACTOR * LIMITS.max_headers // 500 - 1):
            harness.receive(part)
            assert not harness.connection.closing
        harness.receive(part)
        assert harness.failed() is Error.ENHANCE_YOUR_CALM

    def test_the_frames_of_a_block_are_bounded(self, harness):
        empty = frame(Frame.CONTINUATION, 0, 1, b"")
        harness.receive(frame(Frame.HEADERS, 0, 1, REQUEST), empty * MAX_HEADER_FRAMES)
        assert not harness.connection.closing
        harness.receive(empty)
        assert harness.failed() is Error.ENHANCE_YOUR_CALM

    def test_each_block_has_a_bound_of_its_own(self, harness):
        parts = frame(Frame.CONTINUATION, 0, 1, b"") * (MAX_HEADER_FRAMES - 1)
        for number in (1, 3):
            events = harness.receive(
                frame(Frame.HEADERS, 0, number, REQUEST),
                parts.replace(b"\x00\x00\x00\x01", bytes([0, 0, 0, number])),
                frame(Frame.CONTINUATION, END_HEADERS, number, b""),
            )
            assert events == [RequestReceived(harness.connection.streams[number], request())]

    def test_fields_over_the_limit_are_dropped_and_the_call_is_opened(self, harness):
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

    def test_fields_far_over_the_limit_end_the_connection(self, harness):
        block = encode((*HEADERS, ("x", "v" * (HEADER_READ_FACTOR * LIMITS.max_headers - 100))))
        harness.receive(*parts(1, block))
        assert harness.failed() is Error.ENHANCE_YOUR_CALM

    def test_a_block_that_cannot_be_read_ends_the_connection(self, harness):
        harness.receive(opening(1, 0, b"\0\x05a"))
        assert harness.failed() is Error.COMPRESSION_ERROR

    @pytest.mark.parametrize("padding", [0, 1, 255])
    def test_padding_and_priority_are_ignored(self, harness, padding):
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
    def test_more_padding_than_payload_is_an_error(self, harness, kind, payload):
        harness.open(flags=0)
        assert harness.receive(frame(kind, PADDED | END_HEADERS, 1, payload)) == []
        assert harness.failed(1) is Error.PROTOCOL_ERROR

    def test_a_truncated_priority_is_an_error(self, harness):
        harness.receive(frame(Frame.HEADERS, PRIORITY | END_HEADERS, 1, bytes(4)))
        assert harness.failed() is Error.FRAME_SIZE_ERROR


class TestStreamNumbers:
    def test_a_client_opens_odd_streams(self, harness):
        harness.receive(opening(2))
        assert harness.failed() is Error.PROTOCOL_ERROR

    def test_a_request_that_has_ended_has_no_trailers(self, harness):
        stream = harness.open(5)
        assert harness.receive(opening(5)) == [StreamReset(stream)]
        assert harness.written() == [(Frame.RST_STREAM, 0, 5, numbers(Error.STREAM_CLOSED))]
        assert harness.connection.counters == ConnectionCounters(malformed=1)

    def test_an_answered_request_has_no_trailers(self, harness):
        stream = harness.open(5)
        harness.answer(stream, b"x")
        harness.receive(opening(5))
        assert harness.failed(5) is Error.STREAM_CLOSED

    @pytest.mark.parametrize("number", [1, 3])
    def test_stream_numbers_rise(self, harness, number):
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

    def test_data_after_the_end_of_a_request_is_an_error(self, harness):
        stream = harness.open(1)
        assert harness.receive(data(1, b"x"), data(1, b"y")) == [StreamReset(stream)]
        assert harness.written() == [(Frame.RST_STREAM, 0, 1, numbers(Error.STREAM_CLOSED))]
        assert not harness.connection.closing

    def test_data_after_an_answer_or_a_reset_is_an_error(self, harness):
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

    def test_data_for_a_stream_that_the_server_closed_is_ignored(self, harness):
        for number in range(1, 2000, 2):
            stream = harness.open(number, 0)
            harness.connection.send_trailers(stream, TRAILERS)
            harness.connection.release(stream)
        harness.written()
        for number in range(1, 2000, 2):
            assert harness.receive(data(number, b"x", END_STREAM)) == []
        assert harness.written() == []

    def test_streams_beyond_the_limit_are_refused(self, harness):
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

    def test_streams_with_unfinished_work_are_bounded(self, harness):
        streams = []
        for number in range(1, 2 * UNFINISHED_FACTOR * LIMITS.max_streams, 2):
            streams.append(harness.open(number))
            harness.receive(reset(number))
        assert harness.receive(opening(99)) == []
        assert harness.written() == [(Frame.RST_STREAM, 0, 99, numbers(Error.REFUSED_STREAM))]
        harness.connection.release(streams[3])
        assert [type(event) for event in harness.receive(opening(101))] == [RequestReceived]


class TestLateFrames:
    def test_late_trailers_of_a_closed_stream_are_ignored(self, harness):
        first, second = harness.open(1, flags=0), harness.open(3, flags=0)
        harness.connection.reset(first, Error.CANCEL)
        harness.connection.release(first)
        assert harness.receive(opening(1, END_STREAM, TRAILERS)) == []
        assert not harness.connection.closing
        assert harness.receive(data(3, b"x")) == [DataReceived(second, b"x")]

    def test_late_trailers_of_a_refused_stream_are_ignored(self, harness):
        for number in (1, 3, 5, 7):
            harness.open(number)
        harness.receive(opening(9), opening(9, END_STREAM, TRAILERS))
        assert not harness.connection.closing

    def test_an_empty_frame_may_end_a_block(self, harness):
        events = harness.receive(
            frame(Frame.HEADERS, 0, 1, encode(HEADERS)),
            frame(Frame.CONTINUATION, END_HEADERS, 1, b""),
        )
        assert events == [RequestReceived(harness.connection.streams[1], request())]

    def test_a_closed_stream_gets_no_window_update(self, harness):
        stream = harness.open(flags=0)
        harness.receive(data(1, bytes(10_000)) * 6)
        harness.connection.reset(stream, Error.CANCEL)
        harness.written()
        harness.connection.consume(stream, 60_000)
        assert harness.written() == []
