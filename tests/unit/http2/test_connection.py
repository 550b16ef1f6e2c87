"""The server's half of a connection: bytes in, events and bytes out."""

import struct
from itertools import pairwise

import pytest
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st

from batcher.http2.connection import (
    BEYOND,
    PARTS,
    Connection,
    Drained,
    Ended,
    Limits,
    Opened,
    Received,
    Reset,
)
from batcher.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    FIRST_WINDOW,
    LARGEST_FRAME_SIZE,
    LARGEST_WINDOW,
    LEAST_FRAME_SIZE,
    PADDED,
    PREFACE,
    PRIORITY,
    Error,
    Frame,
    Setting,
    frame,
)
from batcher.http2.headers import encode

LIMITS = Limits(max_streams=4, max_headers=1000, stream_window=100_000)
HEADERS = ((":method", "POST"), (":path", "/s/M"))
REQUEST = encode(HEADERS)
OPENING = encode(((":status", "200"),))
TRAILERS = encode((("grpc-status", "0"),))


def frames(data):
    """What was written, as `(type, flags, stream, payload)`."""
    found = []
    while data:
        size = int.from_bytes(data[:3], "big")
        kind, flags, stream = struct.unpack_from(">BBI", data, 3)
        assert len(data) >= 9 + size
        found.append((Frame(kind), flags, stream, data[9 : 9 + size]))
        data = data[9 + size :]
    return found


def numbers(*each):
    return b"".join(number.to_bytes(4, "big") for number in each)


def settings(*pairs):
    return frame(Frame.SETTINGS, 0, 0, b"".join(struct.pack(">HI", *each) for each in pairs))


def widen(stream, more):
    return frame(Frame.WINDOW_UPDATE, 0, stream, numbers(more))


def opening(stream, flags=0, block=REQUEST):
    return frame(Frame.HEADERS, END_HEADERS | flags, stream, block)


def data(stream, payload, flags=0):
    return frame(Frame.DATA, flags, stream, payload)


def reset(stream, error=Error.CANCEL):
    return frame(Frame.RST_STREAM, 0, stream, numbers(error))


def goodbye(last, error=Error.NO_ERROR, text=""):
    return (Frame.GOAWAY, 0, 0, numbers(last, error) + text.encode())


class Played:
    """A connection that was greeted, and what comes of it."""

    def __init__(self, *pairs, limits=LIMITS):
        self.connection = Connection(limits)
        self.greeting = frames(self.connection.take())
        assert self.receive(PREFACE, settings(*pairs)) == []
        assert self.written() == [(Frame.SETTINGS, ACK, 0, b"")]

    def receive(self, *pieces):
        return self.connection.receive(b"".join(pieces))

    def written(self):
        return frames(self.connection.take())

    def open(self, number=1, flags=END_STREAM):
        return self.receive(opening(number, flags))[0].stream

    def answer(self, stream, body):
        self.connection.send_headers(stream, OPENING)
        self.connection.send_data(stream, body)
        self.connection.send_trailers(stream, TRAILERS)

    def granted(self, number):
        return sum(
            int.from_bytes(payload, "big")
            for kind, _, stream, payload in self.written()
            if (kind, stream) == (Frame.WINDOW_UPDATE, number)
        )

    def failed(self, last=0):
        """With which error the connection ended; nothing is read after it."""
        (kind, _, _, payload) = self.written()[-1]
        assert kind is Frame.GOAWAY
        assert payload[:4] == numbers(last)
        assert self.connection.closing
        assert self.receive(opening(99)) == []
        assert self.written() == []
        return Error(int.from_bytes(payload[4:8], "big"))


@pytest.fixture
def played():
    return Played()


class TestGreeting:
    def test_the_server_speaks_first(self, played):
        (first, second) = played.greeting
        assert first[:3] == (Frame.SETTINGS, 0, 0)
        assert dict(struct.iter_unpack(">HI", first[3])) == {
            Setting.HEADER_TABLE_SIZE: 0,
            Setting.MAX_CONCURRENT_STREAMS: 4,
            Setting.INITIAL_WINDOW_SIZE: 100_000,
            Setting.MAX_HEADER_LIST_SIZE: 1000,
        }
        assert second == (
            Frame.WINDOW_UPDATE,
            0,
            0,
            numbers(LARGEST_WINDOW - FIRST_WINDOW),
        )

    def test_the_client_is_greeted_with_its_first_frame(self):
        connection = Connection(LIMITS)
        whole = PREFACE + settings()
        for byte in whole[:-1]:
            connection.receive(bytes([byte]))
            assert not connection.greeted
        connection.receive(whole[-1:])
        assert connection.greeted
        assert not connection.closing

    @pytest.mark.parametrize(
        "start",
        [b"GET / HTTP/1.1\r\n\r\n", b"X", PREFACE[:-1] + b"X", b"\x16\x03\x01"],
    )
    def test_another_protocol_is_told_which_one_is_spoken(self, start):
        connection = Connection(LIMITS)
        connection.take()
        assert connection.receive(start) == []
        assert frames(connection.take()) == [
            goodbye(0, Error.PROTOCOL_ERROR, "this port speaks HTTP/2")
        ]
        assert connection.closing
        assert not connection.greeted

    @pytest.mark.parametrize(
        "first",
        [opening(1), frame(Frame.PING, 0, 0, bytes(8)), frame(Frame.SETTINGS, ACK, 0)],
    )
    def test_settings_come_first(self, first):
        connection = Connection(LIMITS)
        connection.take()
        assert connection.receive(PREFACE + first) == []
        assert frames(connection.take()) == [
            goodbye(0, Error.PROTOCOL_ERROR, "SETTINGS come first")
        ]


class TestConnectionFrames:
    def test_a_ping_is_answered_but_not_an_answer(self, played):
        played.receive(frame(Frame.PING, 0, 0, b"12345678"), frame(Frame.PING, ACK, 0, b"87654321"))
        assert played.written() == [(Frame.PING, ACK, 0, b"12345678")]

    def test_settings_are_acknowledged_each_time(self, played):
        played.receive(settings((Setting.MAX_CONCURRENT_STREAMS, 7), (99, 99)), settings())
        assert played.written() == [(Frame.SETTINGS, ACK, 0, b"")] * 2

    def test_an_acknowledgement_is_not_answered(self, played):
        played.receive(frame(Frame.SETTINGS, ACK, 0))
        assert played.written() == []

    def test_the_table_is_gone_once_the_client_has_acknowledged_it(self, played):
        encoder = Encoder()
        played.receive(opening(1, 0, encoder.encode([("a", "b")])))
        played.receive(frame(Frame.SETTINGS, ACK, 0))
        played.receive(opening(3, 0, encoder.encode([("c", "d")])))
        assert played.failed(1) is Error.COMPRESSION_ERROR

    def test_unknown_frames_count_for_nothing(self, played):
        for stream in (0, 1, 2):
            assert played.receive(frame(0xEE, 0xFF, stream, b"anything")) == []
        assert played.written() == []

    def test_a_client_may_say_that_it_will_leave(self, played):
        stream = played.open()
        assert played.receive(frame(Frame.GOAWAY, 0, 0, numbers(0, 0))) == []
        played.answer(stream, b"x")
        assert len(played.written()) == 3

    def test_the_reserved_bit_of_a_stream_counts_for_nothing(self, played):
        (opened,) = played.receive(opening(2**31 + 1))
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
            (settings((Setting.MAX_FRAME_SIZE, LEAST_FRAME_SIZE - 1)), Error.PROTOCOL_ERROR),
            (settings((Setting.MAX_FRAME_SIZE, LARGEST_FRAME_SIZE + 1)), Error.PROTOCOL_ERROR),
            (widen(0, 0), Error.PROTOCOL_ERROR),
            (widen(0, LARGEST_WINDOW), Error.FLOW_CONTROL_ERROR),
            (frame(Frame.WINDOW_UPDATE, 0, 0, bytes(3)), Error.FRAME_SIZE_ERROR),
            (frame(Frame.PRIORITY, 0, 0, bytes(5)), Error.PROTOCOL_ERROR),
            (frame(Frame.PRIORITY, 0, 1, bytes(4)), Error.FRAME_SIZE_ERROR),
            (frame(Frame.RST_STREAM, 0, 0, bytes(4)), Error.PROTOCOL_ERROR),
            (frame(Frame.CONTINUATION, 0, 0, b""), Error.PROTOCOL_ERROR),
            (frame(Frame.CONTINUATION, 0, 1, b""), Error.PROTOCOL_ERROR),
            (frame(Frame.PUSH_PROMISE, 0, 0, bytes(4)), Error.PROTOCOL_ERROR),
            (frame(Frame.PUSH_PROMISE, 0, 1, bytes(4)), Error.PROTOCOL_ERROR),
            (frame(Frame.GOAWAY, 0, 1, bytes(8)), Error.PROTOCOL_ERROR),
            (data(0, b""), Error.PROTOCOL_ERROR),
            (opening(0), Error.PROTOCOL_ERROR),
        ],
    )
    def test_a_broken_frame_ends_the_connection(self, played, broken, error):
        assert played.receive(broken) == []
        assert played.failed() is error

    @pytest.mark.parametrize("kind", [Frame.DATA, Frame.SETTINGS, 0xEE])
    def test_a_frame_may_be_as_large_as_the_least_that_peers_take(self, played, kind):
        head = struct.pack(">BHBBI", 0, LEAST_FRAME_SIZE + 1, kind, 0, 0)
        played.receive(frame(0xEE, 0, 0, bytes(LEAST_FRAME_SIZE)))
        assert not played.connection.closing
        played.receive(head)
        assert played.failed() is Error.FRAME_SIZE_ERROR

    def test_what_came_before_the_fault_counts(self, played):
        events = played.receive(opening(1, END_STREAM), widen(0, 0), opening(3))
        assert [type(event) for event in events] == [Opened, Ended]
        assert played.failed(1) is Error.PROTOCOL_ERROR

    def test_a_priority_counts_for_nothing(self, played):
        assert played.receive(frame(Frame.PRIORITY, 0, 7, bytes(5))) == []
        assert played.written() == []


class TestRequests:
    def test_a_request_opens_is_received_and_ends(self, played):
        events = played.receive(
            opening(1), data(1, b"ab"), data(1, b""), data(1, b"c"), data(1, b"d", END_STREAM)
        )
        stream = played.connection.streams[1]
        assert events == [
            Opened(stream, HEADERS),
            Received(stream, b"ab"),
            Received(stream, b"c"),
            Received(stream, b"d"),
            Ended(stream),
        ]
        assert stream.ended

    def test_a_request_may_have_no_body(self, played):
        (opened, ended) = played.receive(opening(1, END_STREAM))
        assert ended == Ended(opened.stream)

    def test_an_empty_frame_may_end_it(self, played):
        stream = played.open(flags=0)
        assert played.receive(data(1, b"", END_STREAM)) == [Ended(stream)]

    def test_requests_come_side_by_side(self, played):
        events = played.receive(opening(1), opening(7), data(7, b"7"), data(1, b"1"))
        assert [event.stream.id for event in events] == [1, 7, 7, 1]

    def test_trailers_end_a_request(self, played):
        stream = played.open(flags=0)
        assert played.receive(opening(1, END_STREAM, TRAILERS)) == [Ended(stream)]

    def test_trailers_that_do_not_end_it_are_a_fault(self, played):
        played.open(flags=0)
        assert played.receive(opening(1, 0, TRAILERS)) == []
        assert played.failed(1) is Error.PROTOCOL_ERROR

    def test_a_block_may_go_on_in_other_frames(self, played):
        block = encode(HEADERS)
        events = played.receive(
            frame(Frame.HEADERS, END_STREAM, 1, block[:3]),
            frame(Frame.CONTINUATION, 0, 1, block[3:9]),
            frame(Frame.CONTINUATION, END_HEADERS, 1, block[9:]),
        )
        stream = played.connection.streams[1]
        assert events == [Opened(stream, HEADERS), Ended(stream)]
        assert played.receive(opening(3)) == [Opened(played.connection.streams[3], HEADERS)]

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
    def test_nothing_comes_between_its_frames(self, played, other):
        assert played.receive(frame(Frame.HEADERS, 0, 1, b"\x82"), other) == []
        assert played.failed() is Error.PROTOCOL_ERROR

    def test_a_block_has_an_end(self, played):
        played.receive(frame(Frame.HEADERS, 0, 1, b"\0"))
        part = frame(Frame.CONTINUATION, 0, 1, bytes(500))
        for _ in range(BEYOND * LIMITS.max_headers // 500 - 1):
            played.receive(part)
            assert not played.connection.closing
        played.receive(part)
        assert played.failed() is Error.ENHANCE_YOUR_CALM

    def test_a_block_has_so_many_frames(self, played):
        empty = frame(Frame.CONTINUATION, 0, 1, b"")
        played.receive(frame(Frame.HEADERS, 0, 1, REQUEST), empty * PARTS)
        assert not played.connection.closing
        played.receive(empty)
        assert played.failed() is Error.ENHANCE_YOUR_CALM

    def test_the_next_block_has_as_many_again(self, played):
        parts = frame(Frame.CONTINUATION, 0, 1, b"") * (PARTS - 1)
        for number in (1, 3):
            events = played.receive(
                frame(Frame.HEADERS, 0, number, REQUEST),
                parts.replace(b"\x00\x00\x00\x01", bytes([0, 0, 0, number])),
                frame(Frame.CONTINUATION, END_HEADERS, number, b""),
            )
            assert events == [Opened(played.connection.streams[number], HEADERS)]

    def test_fields_over_the_limit_are_read_so_that_the_call_can_be_told(self, played):
        headers = (("x", "v" * (BEYOND * LIMITS.max_headers - 33)),)
        assert played.receive(opening(1, 0, encode(headers)))[0].headers == headers
        played.receive(opening(3, 0, encode((*headers, ("", "")))))
        assert played.failed(1) is Error.COMPRESSION_ERROR

    def test_a_block_that_cannot_be_read_ends_the_connection(self, played):
        played.receive(opening(1, 0, b"\0\x05a"))
        assert played.failed() is Error.COMPRESSION_ERROR

    @pytest.mark.parametrize("padding", [0, 1, 255])
    def test_padding_and_priority_count_for_nothing(self, played, padding):
        before, after = bytes([padding]), bytes(padding)
        flags = END_HEADERS | PADDED
        (opened, received) = played.receive(
            frame(Frame.HEADERS, flags | PRIORITY, 1, before + bytes(5) + encode(HEADERS) + after),
            data(1, before + b"body" + after, PADDED),
        )
        assert opened.headers == HEADERS
        assert received.data == b"body"
        assert played.receive(data(1, before + after, PADDED)) == []

    @pytest.mark.parametrize("payload", [b"", b"\x01", b"\x05abcd", b"\xff" + bytes(200)])
    @pytest.mark.parametrize("kind", [Frame.DATA, Frame.HEADERS])
    def test_padding_is_not_more_than_there_is(self, played, kind, payload):
        played.open(flags=0)
        assert played.receive(frame(kind, PADDED | END_HEADERS, 1, payload)) == []
        assert played.failed(1) is Error.PROTOCOL_ERROR

    def test_a_priority_is_whole(self, played):
        played.receive(frame(Frame.HEADERS, PRIORITY | END_HEADERS, 1, bytes(4)))
        assert played.failed() is Error.FRAME_SIZE_ERROR


class TestNumbersOfStreams:
    def test_a_client_opens_odd_streams(self, played):
        played.receive(opening(2))
        assert played.failed() is Error.PROTOCOL_ERROR

    def test_a_request_that_has_ended_has_no_trailers(self, played):
        played.open(5)
        played.receive(opening(5))
        assert played.failed(5) is Error.STREAM_CLOSED

    @pytest.mark.parametrize("number", [1, 3])
    def test_their_numbers_rise(self, played, number):
        played.open(5)
        played.receive(opening(number))
        assert played.failed(5) is Error.PROTOCOL_ERROR

    @pytest.mark.parametrize("number", [3, 2])
    def test_a_stream_is_opened_by_headers_alone(self, number):
        for piece in (data(number, b"x"), reset(number), widen(number, 1)):
            played = Played()
            played.open(1)
            assert played.receive(piece) == []
            assert played.failed(1) is Error.PROTOCOL_ERROR

    def test_a_request_that_has_ended_does_not_go_on(self, played):
        played.open(1)
        assert played.receive(data(1, b"x")) == []
        assert played.failed(1) is Error.STREAM_CLOSED

    def test_more_than_may_be_open_are_refused(self, played):
        opened = [played.open(number) for number in (1, 3, 5, 7)]
        assert played.receive(opening(9), data(9, b"x")) == []
        assert played.written() == [(Frame.RST_STREAM, 0, 9, numbers(Error.REFUSED_STREAM))]

        played.answer(opened[1], b"x")
        assert played.receive(opening(11)) == []
        played.connection.release(opened[1])
        assert [type(event) for event in played.receive(opening(13))] == [Opened]

    def test_the_fields_of_a_refused_stream_enter_the_table(self, played):
        encoder = Encoder()
        for number in (1, 3, 5, 7):
            played.open(number)
        assert played.receive(opening(9, 0, encoder.encode([("a", "b")]))) == []
        played.connection.release(played.connection.streams[1])
        (opened,) = played.receive(opening(11, 0, encoder.encode([("c", "d"), ("a", "b")])))
        assert opened.headers == (("c", "d"), ("a", "b"))

    def test_a_client_may_reset_streams_as_fast_as_it_likes_but_opens_no_more(self, played):
        for number in (1, 3, 5, 7):
            stream = played.open(number)
            assert played.receive(reset(number)) == [Reset(stream)]
        assert played.receive(opening(9)) == []
        assert played.written()[-1][0] is Frame.RST_STREAM


class TestTheClientsData:
    def test_a_stream_may_send_its_window_and_no_more(self, played):
        stream = played.open(flags=0)
        part = LIMITS.stream_window // 10
        for _ in range(10):
            assert played.receive(data(1, bytes(part))) == [Received(stream, bytes(part))]
        assert played.receive(data(1, b"x")) == []
        assert played.failed(1) is Error.FLOW_CONTROL_ERROR

    def test_padding_counts_against_the_window(self, played):
        played.open(flags=0)
        padded = data(1, b"\xff" + bytes(255 + 744), PADDED)
        played.receive(padded * 100)
        assert not played.connection.closing
        played.receive(data(1, b"x"))
        assert played.failed(1) is Error.FLOW_CONTROL_ERROR

    def test_what_was_taken_is_granted_once_it_is_half_the_window(self, played):
        stream = played.open(flags=0)
        played.receive(data(1, bytes(10_000)) * 6)
        played.connection.take_in(stream, 49_999)
        assert played.written() == []
        played.connection.take_in(stream, 1)
        assert played.written() == [(Frame.WINDOW_UPDATE, 0, 1, numbers(50_000))]
        played.receive(data(1, bytes(10_000)) * 9)
        assert not played.connection.closing
        played.receive(data(1, bytes(1)))
        assert played.failed(1) is Error.FLOW_CONTROL_ERROR

    def test_what_is_expected_may_come_whole(self, played):
        stream = played.open(flags=0)
        played.receive(data(1, bytes(10_000)))
        played.connection.expect(stream, 90_000)
        assert played.written() == []
        played.connection.expect(stream, 150_000)
        assert played.written() == [(Frame.WINDOW_UPDATE, 0, 1, numbers(60_000))]
        played.receive(data(1, bytes(10_000)) * 15)
        assert not played.connection.closing
        played.connection.take_in(stream, 160_000)
        assert played.granted(1) == LIMITS.stream_window

    def test_a_padded_message_of_the_windows_size_gets_through(self, played):
        stream = played.open(flags=0)
        window = left = LIMITS.stream_window
        while left > 1000:
            size = 744
            padding = min(255, window - size - 1)
            assert padding > 0
            played.receive(data(1, bytes([padding]) + bytes(size + padding), PADDED))
            left -= size
            played.connection.expect(stream, left)
            window += played.granted(1) - size - padding - 1
        assert window >= left

    def test_a_request_that_has_ended_gets_no_more_credit(self, played):
        stream = played.open(flags=0)
        for flags in (0, 0, 0, 0, 0, 0, END_STREAM):
            played.receive(data(1, bytes(10_000), flags))
        played.connection.take_in(stream, 70_000)
        assert played.written() == []

    def test_credit_of_the_connection_comes_back_before_it_is_used_up(self, played, monkeypatch):
        monkeypatch.setattr("batcher.http2.connection._GRANTED", 30_000)
        played.open(flags=0)
        played.connection.reset(played.connection.streams[1], Error.CANCEL)
        played.written()
        for _ in range(3):
            played.receive(data(1, bytes(10_000)))
        assert played.written() == []
        played.receive(data(1, bytes(10_000)))
        assert played.written() == [(Frame.WINDOW_UPDATE, 0, 0, numbers(40_000))]

    def test_data_that_was_on_its_way_when_the_stream_ended_counts_for_nothing(self, played):
        stream = played.open(flags=0)
        played.connection.reset(stream, Error.CANCEL)
        assert played.receive(data(1, bytes(10_000))) == []
        played.connection.release(stream)
        assert played.receive(data(1, bytes(10_000)) * 20, data(1, b"", END_STREAM)) == []
        assert not played.connection.closing


class TestAnswers:
    def test_a_whole_answer(self, played):
        stream = played.open()
        played.connection.send_all(stream, OPENING, b"body", TRAILERS)
        assert stream.finished
        assert played.written() == [
            (Frame.HEADERS, END_HEADERS, 1, OPENING),
            (Frame.DATA, 0, 1, b"body"),
            (Frame.HEADERS, END_HEADERS | END_STREAM, 1, TRAILERS),
        ]

    def test_an_answer_in_parts_is_the_same(self, played):
        played.connection.send_all(played.open(1), OPENING, b"body", TRAILERS)
        played.answer(played.open(3), b"body")
        written = played.written()
        assert [(*each[:2], each[3]) for each in written[:3]] == [
            (*each[:2], each[3]) for each in written[3:]
        ]

    def test_an_answer_before_the_request_has_ended_wants_no_more_of_it(self, played):
        for number in (1, 3):
            stream = played.open(number, flags=0)
            if number == 1:
                played.connection.send_all(stream, OPENING, b"body", TRAILERS)
            else:
                played.connection.send_trailers(stream, TRAILERS)
            assert played.written()[-2:] == [
                (Frame.HEADERS, END_HEADERS | END_STREAM, number, TRAILERS),
                (Frame.RST_STREAM, 0, number, numbers(Error.NO_ERROR)),
            ]

    def test_a_long_block_goes_on_in_other_frames(self, played):
        fields = [("x", "v" * 40_000)]
        stream = played.open()
        played.connection.send_headers(stream, OPENING)
        played.connection.send_trailers(stream, encode(fields))
        written = played.written()[1:]
        assert [each[:3] for each in written] == [
            (Frame.HEADERS, END_STREAM, 1),
            (Frame.CONTINUATION, 0, 1),
            (Frame.CONTINUATION, END_HEADERS, 1),
        ]
        assert max(len(each[3]) for each in written) == LEAST_FRAME_SIZE
        assert Decoder().decode(b"".join(each[3] for each in written)) == fields

    def test_long_trailers_of_a_whole_answer_go_on_in_other_frames(self, played):
        played.connection.send_all(played.open(), OPENING, b"x", encode([("x", "v" * 40_000)]))
        assert max(len(each[3]) for each in played.written()) == LEAST_FRAME_SIZE

    def test_nothing_follows_an_answer(self, played):
        stream = played.open()
        played.connection.send_all(stream, OPENING, b"body", TRAILERS)
        played.written()
        played.answer(stream, b"more")
        played.connection.send_all(stream, OPENING, b"more", TRAILERS)
        played.connection.reset(stream, Error.CANCEL)
        played.connection.release(stream)
        assert played.written() == []
        assert played.connection.streams == {}

    def test_a_reset_ends_the_answer(self, played):
        stream = played.open()
        played.connection.send_headers(stream, OPENING)
        played.connection.send_data(stream, bytes(FIRST_WINDOW + 1))
        played.written()
        played.connection.reset(stream, Error.CANCEL)
        played.connection.reset(stream, Error.CANCEL)
        assert played.written() == [(Frame.RST_STREAM, 0, 1, numbers(Error.CANCEL))]
        assert played.receive(widen(0, 100), widen(1, 100)) == []
        assert played.written() == []

    def test_a_stream_that_is_released_without_an_answer_is_reset(self, played):
        played.connection.release(played.open())
        assert played.written() == [(Frame.RST_STREAM, 0, 1, numbers(Error.INTERNAL_ERROR))]
        assert played.connection.streams == {}

    def test_the_client_resets_once(self, played):
        stream = played.open(flags=0)
        assert played.receive(reset(1), reset(1), data(1, b"x")) == [Reset(stream)]
        assert stream.finished
        played.answer(stream, b"x")
        played.connection.release(stream)
        assert played.written() == []
        assert played.receive(reset(1), widen(1, 5)) == []
        assert not played.connection.closing


class TestTheClientsWindows:
    def test_data_larger_than_a_frame_goes_out_in_several(self, played):
        body = bytes(range(256)) * 150
        played.answer(played.open(), body)
        written = played.written()
        assert [each[0] for each in written] == [Frame.HEADERS, *[Frame.DATA] * 3, Frame.HEADERS]
        assert b"".join(each[3] for each in written[1:-1]) == body

    def test_frames_grow_with_the_setting(self):
        played = Played((Setting.MAX_FRAME_SIZE, 50_000))
        played.answer(played.open(), bytes(60_000))
        assert [len(each[3]) for each in played.written()[1:-1]] == [50_000, 10_000]

    def test_data_waits_for_the_streams_window_and_trailers_wait_for_data(self):
        played = Played((Setting.INITIAL_WINDOW_SIZE, 5))
        stream = played.open()
        played.answer(stream, b"0123456789")
        assert played.written()[1:] == [(Frame.DATA, 0, 1, b"01234")]
        assert not stream.finished
        assert played.receive(widen(1, 3)) == []
        assert played.written() == [(Frame.DATA, 0, 1, b"567")]
        assert played.receive(widen(1, 3)) == [Drained(stream)]
        assert played.written() == [
            (Frame.DATA, 0, 1, b"89"),
            (Frame.HEADERS, END_HEADERS | END_STREAM, 1, TRAILERS),
        ]
        assert stream.finished

    def test_a_whole_answer_waits_as_well(self):
        played = Played((Setting.INITIAL_WINDOW_SIZE, 5))
        stream = played.open()
        played.connection.send_all(stream, OPENING, b"0123456789", TRAILERS)
        assert played.receive(widen(1, 100)) == [Drained(stream)]
        assert [each[3] for each in played.written()] == [OPENING, b"01234", b"56789", TRAILERS]

    def test_data_waits_for_the_connections_window_in_the_streams_order(self, played):
        first, second, third = (played.open(number) for number in (1, 3, 5))
        played.answer(first, bytes(FIRST_WINDOW - 2))
        played.answer(second, b"second")
        played.answer(third, b"third")
        written = [each for each in played.written() if each[0] is Frame.DATA]
        assert written[-1] == (Frame.DATA, 0, 3, b"se")

        assert played.receive(widen(0, 5)) == [Drained(second)]
        assert [each[2:] for each in played.written()] == [
            (3, b"cond"),
            (3, TRAILERS),
            (5, b"t"),
        ]
        assert played.receive(widen(0, 5)) == [Drained(third)]
        assert [each[2:] for each in played.written()] == [(5, b"hird"), (5, TRAILERS)]

    def test_a_stream_whose_own_window_is_full_holds_up_no_other(self):
        played = Played((Setting.INITIAL_WINDOW_SIZE, 5))
        first, second = played.open(1), played.open(3)
        played.answer(first, b"too long")
        played.answer(second, b"short")
        assert second.finished
        assert not first.finished

    def test_empty_data_waits_its_turn(self):
        played = Played((Setting.INITIAL_WINDOW_SIZE, 3))
        stream = played.open()
        played.connection.send_data(stream, b"abcd")
        played.connection.send_data(stream, b"")
        played.connection.send_data(stream, b"e")
        assert played.receive(widen(1, 10)) == [Drained(stream)]
        assert b"".join(each[3] for each in played.written()) == b"abcde"

    def test_a_larger_first_window_lets_open_streams_go_on(self):
        played = Played((Setting.INITIAL_WINDOW_SIZE, 5))
        stream = played.open()
        played.answer(stream, b"0123456789")
        played.written()
        assert played.receive(settings((Setting.INITIAL_WINDOW_SIZE, 10))) == [Drained(stream)]
        assert [each[3] for each in played.written()] == [b"", b"56789", TRAILERS]

    def test_a_smaller_first_window_may_leave_less_than_nothing(self):
        played = Played((Setting.INITIAL_WINDOW_SIZE, 10))
        stream = played.open()
        played.connection.send_data(stream, b"01234567")
        played.receive(settings((Setting.INITIAL_WINDOW_SIZE, 3)))
        played.written()
        played.connection.send_data(stream, b"89")
        assert stream.window == -5
        assert played.receive(widen(1, 5)) == []
        assert played.written() == []
        assert played.receive(widen(1, 1)) == []
        assert played.receive(widen(1, 9)) == [Drained(stream)]
        assert [each[3] for each in played.written()] == [b"8", b"9"]
        assert played.open(3).window == 3

    def test_the_first_window_is_no_matter_of_the_connections(self):
        played = Played((Setting.INITIAL_WINDOW_SIZE, 200_000))
        played.answer(played.open(), bytes(100_000))
        sent = sum(len(each[3]) for each in played.written() if each[0] is Frame.DATA)
        assert sent == FIRST_WINDOW

    def test_a_stream_whose_window_overflows_is_reset(self, played):
        stream = played.open()
        assert played.receive(widen(1, LARGEST_WINDOW - FIRST_WINDOW)) == []
        assert played.receive(widen(1, 1)) == [Reset(stream)]
        assert played.written() == [
            (Frame.RST_STREAM, 0, 1, numbers(Error.FLOW_CONTROL_ERROR)),
        ]
        assert not played.connection.closing

    def test_a_setting_that_overflows_a_window_ends_the_connection(self, played):
        played.open()
        played.receive(widen(1, 1), settings((Setting.INITIAL_WINDOW_SIZE, LARGEST_WINDOW)))
        assert played.failed(1) is Error.FLOW_CONTROL_ERROR

    @pytest.mark.parametrize(
        ("payload", "error"),
        [(bytes(4), Error.PROTOCOL_ERROR), (bytes(5), Error.FRAME_SIZE_ERROR)],
    )
    def test_a_streams_window_grows_by_something(self, played, payload, error):
        played.open()
        played.receive(frame(Frame.WINDOW_UPDATE, 0, 1, payload))
        assert played.failed(1) is error

    def test_a_reset_has_a_reason(self, played):
        played.open()
        played.receive(frame(Frame.RST_STREAM, 0, 1, bytes(3)))
        assert played.failed(1) is Error.FRAME_SIZE_ERROR


class TestTheEnd:
    def test_a_server_that_leaves_says_so_once_and_answers_what_is_open(self, played):
        stream = played.open()
        played.connection.leave()
        played.connection.leave()
        assert played.written() == [goodbye(1)]
        assert not played.connection.closing
        assert played.receive(opening(3)) == []
        assert played.written() == [(Frame.RST_STREAM, 0, 3, numbers(Error.REFUSED_STREAM))]
        played.answer(stream, b"x")
        assert len(played.written()) == 3

    def test_a_connection_that_fails_says_why_once(self, played):
        played.open(5)
        played.connection.fail(Error.INTERNAL_ERROR, "a reason")
        played.connection.fail(Error.NO_ERROR, "another")
        assert played.written() == [goodbye(5, Error.INTERNAL_ERROR, "a reason")]
        assert played.connection.closing
        assert played.receive(opening(7)) == []

    def test_the_last_stream_that_is_answered_never_rises(self, played):
        played.open()
        played.connection.leave()
        played.receive(opening(3))
        played.connection.fail(Error.NO_ERROR, "")
        written = played.written()
        assert [each for each in written if each[0] is Frame.GOAWAY] == [goodbye(1), goodbye(1)]


class TestWhatIsLateOrOdd:
    def test_trailers_that_were_on_their_way_when_the_stream_ended_count_for_nothing(self, played):
        first, second = played.open(1, flags=0), played.open(3, flags=0)
        played.connection.reset(first, Error.CANCEL)
        played.connection.release(first)
        assert played.receive(opening(1, END_STREAM, TRAILERS)) == []
        assert not played.connection.closing
        assert played.receive(data(3, b"x")) == [Received(second, b"x")]

    def test_trailers_of_a_refused_stream_count_for_nothing(self, played):
        for number in (1, 3, 5, 7):
            played.open(number)
        played.receive(opening(9), opening(9, END_STREAM, TRAILERS))
        assert not played.connection.closing

    def test_an_empty_frame_may_end_a_block(self, played):
        events = played.receive(
            frame(Frame.HEADERS, 0, 1, encode(HEADERS)),
            frame(Frame.CONTINUATION, END_HEADERS, 1, b""),
        )
        assert events == [Opened(played.connection.streams[1], HEADERS)]

    def test_a_client_whose_table_shrinks_is_told_that_it_has(self):
        played = Played((Setting.HEADER_TABLE_SIZE, 0))
        decoder = Decoder()
        decoder.max_allowed_table_size = 0
        played.answer(played.open(), b"x")
        blocks = [each[3] for each in played.written() if each[0] is Frame.HEADERS]
        assert decoder.decode(blocks[0]) == [(":status", "200")]
        assert decoder.decode(blocks[1]) == [("grpc-status", "0")]

    def test_credit_is_for_open_streams(self, played):
        stream = played.open(flags=0)
        played.receive(data(1, bytes(10_000)) * 6)
        played.connection.reset(stream, Error.CANCEL)
        played.written()
        played.connection.take_in(stream, 60_000)
        assert played.written() == []

    def test_the_first_trailers_count(self):
        played = Played((Setting.INITIAL_WINDOW_SIZE, 5))
        stream = played.open()
        played.connection.send_data(stream, b"0123456789")
        played.connection.send_trailers(stream, TRAILERS)
        played.connection.send_trailers(stream, encode([("grpc-status", "1")]))
        played.receive(widen(1, 5))
        assert played.written()[-1][3] == TRAILERS

    def test_no_data_follows_trailers(self):
        played = Played((Setting.INITIAL_WINDOW_SIZE, 5))
        stream = played.open()
        played.answer(stream, b"0123456789")
        played.connection.send_data(stream, b"more")
        played.receive(widen(1, 100))
        assert [each[3] for each in played.written()] == [OPENING, b"01234", b"56789", TRAILERS]

    def test_data_that_is_abandoned_does_not_leave(self):
        played = Played((Setting.INITIAL_WINDOW_SIZE, 5))
        stream = played.open()
        played.answer(stream, b"0123456789")
        played.connection.abandon(stream)
        played.connection.send_trailers(stream, TRAILERS)
        assert [each[3] for each in played.written()] == [OPENING, b"01234", TRAILERS]
        assert played.receive(widen(1, 100)) == []
        assert played.written() == []


# --- any bytes, any pieces ---

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
    st.builds(widen, st.sampled_from([0, 1, 3, 5]), st.integers(1, 1000)),
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
def test_the_same_bytes_in_any_pieces_say_the_same(sent, cuts):
    whole = PREFACE + settings() + sent
    at_once, in_pieces = Connection(LIMITS), Connection(LIMITS)
    expected = joined(at_once.receive(whole))

    places = sorted({min(cut, len(whole)) for cut in cuts} | {0, len(whole)})
    found, written = [], b""
    for start, stop in pairwise(places):
        found += joined(in_pieces.receive(whole[start:stop]))
        written += in_pieces.take()
    assert found == expected
    assert written == at_once.take()
    assert in_pieces.closing == at_once.closing


@pytest.mark.slow
@given(client_bytes, st.binary(max_size=100))
def test_any_bytes_leave_a_connection_that_goes_on_or_closes(sent, rest):
    played = Played()
    for stream in [e.stream for e in played.receive(sent, rest) if isinstance(e, Opened)]:
        played.answer(stream, b"body")
        played.connection.release(stream)
    written = frames(played.connection.take())
    if played.connection.closing:
        assert [each[0] for each in written].count(Frame.GOAWAY) == 1
    elif not rest:
        played.receive(frame(Frame.PING, 0, 0, b"12345678"))
        assert (Frame.PING, ACK, 0, b"12345678") in frames(played.connection.take())


class Reader:
    """A client with four calls that counts its windows and keeps what it receives."""

    def __init__(self, first, flags):
        self.played = Played((Setting.INITIAL_WINDOW_SIZE, first))
        self.first = first
        self.window = FIRST_WINDOW
        self.streams = {number: self.played.open(number, flags) for number in (1, 3, 5, 7)}
        self.windows = dict.fromkeys(self.streams, first)
        self.sent = dict.fromkeys(self.streams, b"")
        self.received = dict.fromkeys(self.streams, b"")
        self.closed = set()
        self.ended = set()
        self.waiting = set()

    # What may happen

    def widen_all(self, _, size):
        self.window += size
        self._follow(widen(0, size))

    def widen_one(self, number, size):
        self.windows[number] += size
        self._follow(widen(number, size))

    def set_first(self, _, size):
        for number in self.windows:
            self.windows[number] += size - self.first
        self.first = size
        self._follow(settings((Setting.INITIAL_WINDOW_SIZE, size)))

    def send(self, number, size):
        if number not in self.closed:
            body = bytes([len(self.sent[number]) % 251]) * size
            self.sent[number] += body
            self.played.connection.send_data(self.streams[number], body)
            if self.streams[number].outbox:
                self.waiting.add(number)
            self._follow(b"")

    def close(self, number, _):
        if number not in self.closed:
            self.closed.add(number)
            self.played.connection.send_trailers(self.streams[number], TRAILERS)
            self._follow(b"")

    # What comes of it

    def _follow(self, sent):
        for event in self.played.receive(sent):
            assert isinstance(event, Drained)
            self.waiting.remove(event.stream.id)
        for kind, flags, number, payload in self.played.written():
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
