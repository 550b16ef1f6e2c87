"""The server's half of a connection: what it sends, within the client's windows, to the end."""

import pytest
from hpack import Decoder
from raw_http2 import (
    HEADERS,
    RESPONSE_HEADERS,
    TRAILERS,
    Played,
    data,
    goodbye,
    numbers,
    opening,
    request,
    reset,
    settings,
    widen,
)

from batcher.http2.sansio.frames import (
    ACK,
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    MAX_WINDOW,
    PADDED,
    Error,
    Frame,
    Setting,
    frame,
)
from batcher.http2.sansio.hpack import encode
from batcher.http2.sansio.sending import MAX_FRAMED_BYTES
from batcher.http2.sansio.streams import (
    ConnectionCounters,
    DataReceived,
    RequestReceived,
    StreamDrained,
    StreamReset,
)


class TestAnswers:
    def test_a_whole_answer(self, played):
        stream = played.open()
        played.connection.send_all(stream, RESPONSE_HEADERS, b"body", TRAILERS)
        assert stream.closed
        assert played.written() == [
            (Frame.HEADERS, END_HEADERS, 1, RESPONSE_HEADERS),
            (Frame.DATA, 0, 1, b"body"),
            (Frame.HEADERS, END_HEADERS | END_STREAM, 1, TRAILERS),
        ]

    def test_an_answer_in_parts_is_the_same(self, played):
        played.connection.send_all(played.open(1), RESPONSE_HEADERS, b"body", TRAILERS)
        played.answer(played.open(3), b"body")
        written = played.written()
        assert [(*each[:2], each[3]) for each in written[:3]] == [
            (*each[:2], each[3]) for each in written[3:]
        ]

    def test_an_answer_before_the_request_has_ended_wants_no_more_of_it(self, played):
        for number in (1, 3):
            stream = played.open(number, flags=0)
            if number == 1:
                played.connection.send_all(stream, RESPONSE_HEADERS, b"body", TRAILERS)
            else:
                played.connection.send_trailers(stream, TRAILERS)
            assert played.written()[-2:] == [
                (Frame.HEADERS, END_HEADERS | END_STREAM, number, TRAILERS),
                (Frame.RST_STREAM, 0, number, numbers(Error.NO_ERROR)),
            ]

    def test_a_long_block_goes_on_in_other_frames(self, played):
        fields = [("x", "v" * 40_000)]
        stream = played.open()
        played.connection.send_headers(stream, RESPONSE_HEADERS)
        played.connection.send_trailers(stream, encode(fields))
        written = played.written()[1:]
        assert [each[:3] for each in written] == [
            (Frame.HEADERS, END_STREAM, 1),
            (Frame.CONTINUATION, 0, 1),
            (Frame.CONTINUATION, END_HEADERS, 1),
        ]
        assert max(len(each[3]) for each in written) == DEFAULT_FRAME_SIZE
        assert Decoder().decode(b"".join(each[3] for each in written)) == fields

    def test_long_trailers_of_a_whole_answer_go_on_in_other_frames(self, played):
        played.connection.send_all(
            played.open(), RESPONSE_HEADERS, b"x", encode([("x", "v" * 40_000)])
        )
        assert max(len(each[3]) for each in played.written()) == DEFAULT_FRAME_SIZE

    def test_nothing_follows_an_answer(self, played):
        stream = played.open()
        played.connection.send_all(stream, RESPONSE_HEADERS, b"body", TRAILERS)
        played.written()
        played.answer(stream, b"more")
        played.connection.send_all(stream, RESPONSE_HEADERS, b"more", TRAILERS)
        played.connection.reset(stream, Error.CANCEL)
        played.connection.release(stream)
        assert played.written() == []
        assert played.connection.streams == {}

    def test_a_reset_ends_the_answer(self, played):
        stream = played.open()
        played.connection.send_headers(stream, RESPONSE_HEADERS)
        played.connection.send_data(stream, bytes(DEFAULT_WINDOW + 1))
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
        assert played.receive(reset(1), reset(1)) == [StreamReset(stream)]
        assert stream.closed
        played.answer(stream, b"x")
        played.connection.release(stream)
        assert played.written() == []
        assert played.connection.counters == ConnectionCounters(resets_received=1)
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
        assert not stream.closed
        assert played.receive(widen(1, 3)) == []
        assert played.written() == [(Frame.DATA, 0, 1, b"567")]
        assert played.receive(widen(1, 3)) == [StreamDrained(stream)]
        assert played.written() == [
            (Frame.DATA, 0, 1, b"89"),
            (Frame.HEADERS, END_HEADERS | END_STREAM, 1, TRAILERS),
        ]
        assert stream.closed

    def test_a_whole_answer_waits_as_well(self):
        played = Played((Setting.INITIAL_WINDOW_SIZE, 5))
        stream = played.open()
        played.connection.send_all(stream, RESPONSE_HEADERS, b"0123456789", TRAILERS)
        assert played.receive(widen(1, 100)) == [StreamDrained(stream)]
        assert [each[3] for each in played.written()] == [
            RESPONSE_HEADERS,
            b"01234",
            b"56789",
            TRAILERS,
        ]

    def test_data_waits_for_the_connections_window_in_the_streams_order(self, played):
        first, second, third = (played.open(number) for number in (1, 3, 5))
        played.answer(first, bytes(DEFAULT_WINDOW - 2))
        played.answer(second, b"second")
        played.answer(third, b"third")
        written = [each for each in played.written() if each[0] is Frame.DATA]
        assert written[-1] == (Frame.DATA, 0, 3, b"se")

        assert played.receive(widen(0, 5)) == [StreamDrained(second)]
        assert [each[2:] for each in played.written()] == [
            (3, b"cond"),
            (3, TRAILERS),
            (5, b"t"),
        ]
        assert played.receive(widen(0, 5)) == [StreamDrained(third)]
        assert [each[2:] for each in played.written()] == [(5, b"hird"), (5, TRAILERS)]

    def test_a_stream_whose_own_window_is_full_holds_up_no_other(self):
        played = Played((Setting.INITIAL_WINDOW_SIZE, 5))
        first, second = played.open(1), played.open(3)
        played.answer(first, b"too long")
        played.answer(second, b"short")
        assert second.closed
        assert not first.closed

    def test_empty_data_waits_its_turn(self):
        played = Played((Setting.INITIAL_WINDOW_SIZE, 3))
        stream = played.open()
        played.connection.send_data(stream, b"abcd")
        played.connection.send_data(stream, b"")
        played.connection.send_data(stream, b"e")
        assert played.receive(widen(1, 10)) == [StreamDrained(stream)]
        assert b"".join(each[3] for each in played.written()) == b"abcde"

    def test_a_larger_first_window_lets_open_streams_go_on(self):
        played = Played((Setting.INITIAL_WINDOW_SIZE, 5))
        stream = played.open()
        played.answer(stream, b"0123456789")
        played.written()
        assert played.receive(settings((Setting.INITIAL_WINDOW_SIZE, 10))) == [
            StreamDrained(stream)
        ]
        assert [each[3] for each in played.written()] == [b"", b"56789", TRAILERS]

    def test_a_smaller_first_window_may_leave_less_than_nothing(self):
        played = Played((Setting.INITIAL_WINDOW_SIZE, 10))
        stream = played.open()
        played.connection.send_data(stream, b"01234567")
        played.receive(settings((Setting.INITIAL_WINDOW_SIZE, 3)))
        played.written()
        played.connection.send_data(stream, b"89")
        assert played.receive(widen(1, 5)) == []
        assert played.written() == []
        assert played.receive(widen(1, 1)) == []
        assert played.receive(widen(1, 9)) == [StreamDrained(stream)]
        assert [each[3] for each in played.written()] == [b"8", b"9"]

    def test_the_first_window_is_no_matter_of_the_connections(self):
        played = Played((Setting.INITIAL_WINDOW_SIZE, 200_000))
        played.answer(played.open(), bytes(100_000))
        sent = sum(len(each[3]) for each in played.written() if each[0] is Frame.DATA)
        assert sent == DEFAULT_WINDOW

    def test_a_stream_whose_window_overflows_is_reset(self, played):
        stream = played.open()
        assert played.receive(widen(1, MAX_WINDOW - DEFAULT_WINDOW)) == []
        assert played.receive(widen(1, 1)) == [StreamReset(stream)]
        assert played.written() == [
            (Frame.RST_STREAM, 0, 1, numbers(Error.FLOW_CONTROL_ERROR)),
        ]
        assert not played.connection.closing

    def test_a_setting_that_overflows_a_window_ends_the_connection(self, played):
        played.open()
        played.receive(widen(1, 1), settings((Setting.INITIAL_WINDOW_SIZE, MAX_WINDOW)))
        assert played.failed(1) is Error.FLOW_CONTROL_ERROR

    def test_a_streams_window_grows_by_something(self, played):
        stream = played.open()
        assert played.receive(widen(1, 0)) == [StreamReset(stream)]
        assert played.written() == [(Frame.RST_STREAM, 0, 1, numbers(Error.PROTOCOL_ERROR))]
        assert not played.connection.closing

    def test_by_how_much_it_grows_has_four_bytes(self, played):
        played.open()
        played.receive(frame(Frame.WINDOW_UPDATE, 0, 1, bytes(5)))
        assert played.failed(1) is Error.FRAME_SIZE_ERROR

    def test_a_reset_has_a_reason(self, played):
        played.open()
        played.receive(frame(Frame.RST_STREAM, 0, 1, bytes(3)))
        assert played.failed(1) is Error.FRAME_SIZE_ERROR


class TestFloods:
    """What a client may ask for in few bytes takes little of the server's time and memory."""

    def test_streams_that_are_reset_do_not_wait_for_a_window(self, played):
        played.connection.send_data(played.open(1), bytes(DEFAULT_WINDOW))
        for number in range(3, 103, 2):
            stream = played.open(number)
            played.connection.send_data(stream, b"more")
            assert played.receive(reset(number)) == [StreamReset(stream)]
            played.connection.release(stream)
        assert played.connection.waiting_streams == 0

    def test_a_stream_waits_once_for_the_connections_window(self, played):
        played.connection.send_data(played.open(1), bytes(DEFAULT_WINDOW))
        stream = played.open(3)
        for _ in range(3):
            played.connection.send_data(stream, b"more")
        assert played.connection.waiting_streams == 1
        assert played.receive(widen(0, 100)) == [StreamDrained(stream)]
        assert played.connection.waiting_streams == 0

    def test_who_waits_for_its_own_window_is_not_looked_at_when_another_grows(self):
        played = Played((Setting.INITIAL_WINDOW_SIZE, 0))
        stream = played.open()
        played.connection.send_data(stream, b"more")
        assert played.connection.waiting_streams == 0
        assert played.receive(widen(0, 100)) == []
        assert played.receive(settings((Setting.INITIAL_WINDOW_SIZE, 9))) == [StreamDrained(stream)]

    def test_data_that_waits_is_not_copied(self, played):
        stream = played.open()
        body = bytes(3 * DEFAULT_WINDOW)
        played.connection.send_data(stream, body)
        assert [each.obj is body for each in stream.outbox] == [True]

    def test_padding_alone_does_not_use_a_window_up(self, played):
        played.open(flags=0)
        padded = frame(Frame.DATA, PADDED, 1, bytes((255,)) + bytes(255))
        granted = 0
        for _ in range(1000):
            played.connection.budget.refill()
            assert played.receive(padded) == []
            granted += played.granted(1)
        assert 256_000 - 100_000 <= granted <= 256_000


class TestTheEnd:
    def test_a_server_that_leaves_says_so_once_and_answers_what_is_open(self, played):
        stream = played.open()
        played.connection.send_final_goaway()
        played.connection.send_final_goaway()
        assert played.written() == [goodbye(1)]
        assert not played.connection.closing
        assert played.receive(opening(3)) == []
        assert played.written() == [(Frame.RST_STREAM, 0, 3, numbers(Error.REFUSED_STREAM))]
        played.answer(stream, b"x")
        assert len(played.written()) == 3

    def test_a_server_that_will_leave_answers_what_is_opened_meanwhile(self, played):
        played.open(1)
        played.connection.send_initial_goaway()
        first, ping = played.written()
        assert first == goodbye(MAX_WINDOW)
        stream = played.open(3)
        played.answer(stream, b"x")
        assert len(played.written()) == 3
        assert ping[:2] == (Frame.PING, 0)
        played.receive(frame(Frame.PING, ACK, 0, b"another."))
        assert played.written() == []
        played.receive(frame(Frame.PING, ACK, 0, ping[3]))
        assert played.written() == [goodbye(3)]
        assert played.receive(opening(5)) == []
        assert played.written() == [(Frame.RST_STREAM, 0, 5, numbers(Error.REFUSED_STREAM))]
        assert played.connection.counters == ConnectionCounters(refused=1, goaways_sent=2)

    def test_a_connection_that_fails_says_why_once(self, played):
        played.open(5)
        played.connection.close(Error.INTERNAL_ERROR, "a reason")
        played.connection.close(Error.NO_ERROR, "another")
        assert played.written() == [goodbye(5, Error.INTERNAL_ERROR, "a reason")]
        assert played.connection.closing
        assert played.receive(opening(7)) == []

    def test_the_last_stream_that_is_answered_never_rises(self, played):
        played.open()
        played.connection.send_final_goaway()
        played.receive(opening(3))
        played.connection.close(Error.NO_ERROR, "")
        written = played.written()
        assert [each for each in written if each[0] is Frame.GOAWAY] == [goodbye(1), goodbye(1)]


class TestWhatIsLateOrOdd:
    def test_trailers_that_were_on_their_way_when_the_stream_ended_count_for_nothing(self, played):
        first, second = played.open(1, flags=0), played.open(3, flags=0)
        played.connection.reset(first, Error.CANCEL)
        played.connection.release(first)
        assert played.receive(opening(1, END_STREAM, TRAILERS)) == []
        assert not played.connection.closing
        assert played.receive(data(3, b"x")) == [DataReceived(second, b"x")]

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
        assert events == [RequestReceived(played.connection.streams[1], request())]

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
        played.connection.consume(stream, 60_000)
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
        assert [each[3] for each in played.written()] == [
            RESPONSE_HEADERS,
            b"01234",
            b"56789",
            TRAILERS,
        ]

    def test_data_that_is_abandoned_does_not_leave(self):
        played = Played((Setting.INITIAL_WINDOW_SIZE, 5))
        stream = played.open()
        played.answer(stream, b"0123456789")
        played.connection.discard_outbox(stream)
        played.connection.send_trailers(stream, TRAILERS)
        assert [each[3] for each in played.written()] == [RESPONSE_HEADERS, b"01234", TRAILERS]
        assert played.receive(widen(1, 100)) == []
        assert played.written() == []


class TestLargeAnswers:
    """Windows that hold all of an answer do not make it leave at once: framing copies it."""

    @pytest.fixture
    def played(self):
        found = Played((Setting.INITIAL_WINDOW_SIZE, MAX_WINDOW))
        found.receive(widen(0, MAX_WINDOW - DEFAULT_WINDOW))
        return found

    def test_no_more_is_framed_before_it_is_taken(self, played):
        first, second = played.open(1), played.open(3)
        body = bytes(5 * MAX_FRAMED_BYTES // 2)
        for stream in (first, second):
            played.answer(stream, body)

        sizes, ended = [], []
        while True:
            written = played.written()
            sizes.append(sum(len(payload) for kind, _, _, payload in written if kind == Frame.DATA))
            if not played.connection.has_more_to_send:
                break
            ended += [event.stream for event in played.connection.continue_sending()]

        assert sum(sizes) == 2 * len(body)
        assert max(sizes) <= MAX_FRAMED_BYTES
        assert len(sizes) == 5
        assert set(ended) == {first, second}
        assert first.closed
        assert second.closed
        assert played.connection.queued_bytes == 0
