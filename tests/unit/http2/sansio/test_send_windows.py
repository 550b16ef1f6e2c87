"""The sending half of a connection: data waits for the send windows of its stream and of the connection."""

import pytest
from raw_http2 import (
    RESPONSE_HEADERS,
    TRAILERS,
    Harness,
    numbers,
    reset,
    settings,
    window_update,
)

from batcher.http2.sansio.frames import (
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
from batcher.http2.sansio.sending import MAX_FRAMED_BYTES
from batcher.http2.sansio.streams import (
    StreamDrained,
    StreamReset,
)


class TestSendWindows:
    def test_data_larger_than_a_frame_is_sent_in_several(self, harness):
        body = bytes(range(256)) * 150
        harness.answer(harness.open(), body)
        written = harness.written()
        assert [each[0] for each in written] == [Frame.HEADERS, *[Frame.DATA] * 3, Frame.HEADERS]
        assert b"".join(each[3] for each in written[1:-1]) == body

    def test_frames_grow_with_the_setting(self):
        harness = Harness((Setting.MAX_FRAME_SIZE, 50_000))
        harness.answer(harness.open(), bytes(60_000))
        assert [len(each[3]) for each in harness.written()[1:-1]] == [50_000, 10_000]

    def test_data_waits_for_the_streams_window_and_trailers_wait_for_data(self):
        harness = Harness((Setting.INITIAL_WINDOW_SIZE, 5))
        stream = harness.open()
        harness.answer(stream, b"0123456789")
        assert harness.written()[1:] == [(Frame.DATA, 0, 1, b"01234")]
        assert not stream.closed
        assert harness.receive(window_update(1, 3)) == []
        assert harness.written() == [(Frame.DATA, 0, 1, b"567")]
        assert harness.receive(window_update(1, 3)) == [StreamDrained(stream)]
        assert harness.written() == [
            (Frame.DATA, 0, 1, b"89"),
            (Frame.HEADERS, END_HEADERS | END_STREAM, 1, TRAILERS),
        ]
        assert stream.closed

    def test_a_whole_answer_waits_as_well(self):
        harness = Harness((Setting.INITIAL_WINDOW_SIZE, 5))
        stream = harness.open()
        harness.connection.send_all(stream, RESPONSE_HEADERS, b"0123456789", TRAILERS)
        assert harness.receive(window_update(1, 100)) == [StreamDrained(stream)]
        assert [each[3] for each in harness.written()] == [
            RESPONSE_HEADERS,
            b"01234",
            b"56789",
            TRAILERS,
        ]

    def test_data_waits_for_the_connections_window_in_the_streams_order(self, harness):
        first, second, third = (harness.open(number) for number in (1, 3, 5))
        harness.answer(first, bytes(DEFAULT_WINDOW - 2))
        harness.answer(second, b"second")
        harness.answer(third, b"third")
        written = [each for each in harness.written() if each[0] is Frame.DATA]
        assert written[-1] == (Frame.DATA, 0, 3, b"se")

        assert harness.receive(window_update(0, 5)) == [StreamDrained(second)]
        assert [each[2:] for each in harness.written()] == [
            (3, b"cond"),
            (3, TRAILERS),
            (5, b"t"),
        ]
        assert harness.receive(window_update(0, 5)) == [StreamDrained(third)]
        assert [each[2:] for each in harness.written()] == [(5, b"hird"), (5, TRAILERS)]

    def test_a_stream_whose_own_window_is_used_up_does_not_block_others(self):
        harness = Harness((Setting.INITIAL_WINDOW_SIZE, 5))
        first, second = harness.open(1), harness.open(3)
        harness.answer(first, b"too long")
        harness.answer(second, b"short")
        assert second.closed
        assert not first.closed

    def test_empty_data_waits_in_order(self):
        harness = Harness((Setting.INITIAL_WINDOW_SIZE, 3))
        stream = harness.open()
        harness.connection.send_data(stream, b"abcd")
        harness.connection.send_data(stream, b"")
        harness.connection.send_data(stream, b"e")
        assert harness.receive(window_update(1, 10)) == [StreamDrained(stream)]
        assert b"".join(each[3] for each in harness.written()) == b"abcde"

    def test_a_larger_initial_window_lets_open_streams_continue(self):
        harness = Harness((Setting.INITIAL_WINDOW_SIZE, 5))
        stream = harness.open()
        harness.answer(stream, b"0123456789")
        harness.written()
        assert harness.receive(settings((Setting.INITIAL_WINDOW_SIZE, 10))) == [
            StreamDrained(stream)
        ]
        assert [each[3] for each in harness.written()] == [b"", b"56789", TRAILERS]

    def test_a_smaller_initial_window_may_make_windows_negative(self):
        harness = Harness((Setting.INITIAL_WINDOW_SIZE, 10))
        stream = harness.open()
        harness.connection.send_data(stream, b"01234567")
        harness.receive(settings((Setting.INITIAL_WINDOW_SIZE, 3)))
        harness.written()
        harness.connection.send_data(stream, b"89")
        assert harness.receive(window_update(1, 5)) == []
        assert harness.written() == []
        assert harness.receive(window_update(1, 1)) == []
        assert harness.receive(window_update(1, 9)) == [StreamDrained(stream)]
        assert [each[3] for each in harness.written()] == [b"8", b"9"]

    def test_the_initial_window_does_not_change_the_connections(self):
        harness = Harness((Setting.INITIAL_WINDOW_SIZE, 200_000))
        harness.answer(harness.open(), bytes(100_000))
        sent = sum(len(each[3]) for each in harness.written() if each[0] is Frame.DATA)
        assert sent == DEFAULT_WINDOW

    def test_a_stream_whose_window_overflows_is_reset(self, harness):
        stream = harness.open()
        assert harness.receive(window_update(1, MAX_WINDOW - DEFAULT_WINDOW)) == []
        assert harness.receive(window_update(1, 1)) == [StreamReset(stream)]
        assert harness.written() == [
            (Frame.RST_STREAM, 0, 1, numbers(Error.FLOW_CONTROL_ERROR)),
        ]
        assert not harness.connection.closing

    def test_a_setting_that_overflows_a_window_ends_the_connection(self, harness):
        harness.open()
        harness.receive(window_update(1, 1), settings((Setting.INITIAL_WINDOW_SIZE, MAX_WINDOW)))
        assert harness.failed(1) is Error.FLOW_CONTROL_ERROR

    def test_a_window_update_of_0_resets_the_stream(self, harness):
        stream = harness.open()
        assert harness.receive(window_update(1, 0)) == [StreamReset(stream)]
        assert harness.written() == [(Frame.RST_STREAM, 0, 1, numbers(Error.PROTOCOL_ERROR))]
        assert not harness.connection.closing

    def test_a_window_update_has_four_bytes(self, harness):
        harness.open()
        harness.receive(frame(Frame.WINDOW_UPDATE, 0, 1, bytes(5)))
        assert harness.failed(1) is Error.FRAME_SIZE_ERROR

    def test_a_reset_has_four_bytes(self, harness):
        harness.open()
        harness.receive(frame(Frame.RST_STREAM, 0, 1, bytes(3)))
        assert harness.failed(1) is Error.FRAME_SIZE_ERROR


class TestCostOfWaiting:
    """Requests of few bytes whose answers wait cost little time and memory."""

    def test_streams_that_are_reset_do_not_wait_for_a_window(self, harness):
        harness.connection.send_data(harness.open(1), bytes(DEFAULT_WINDOW))
        for number in range(3, 103, 2):
            stream = harness.open(number)
            harness.connection.send_data(stream, b"more")
            assert harness.receive(reset(number)) == [StreamReset(stream)]
            harness.connection.release(stream)
        assert harness.connection.waiting_streams == 0

    def test_a_stream_waits_once_for_the_connections_window(self, harness):
        harness.connection.send_data(harness.open(1), bytes(DEFAULT_WINDOW))
        stream = harness.open(3)
        for _ in range(3):
            harness.connection.send_data(stream, b"more")
        assert harness.connection.waiting_streams == 1
        assert harness.receive(window_update(0, 100)) == [StreamDrained(stream)]
        assert harness.connection.waiting_streams == 0

    def test_a_stream_that_waits_for_its_own_window_is_not_visited_for_others(self):
        harness = Harness((Setting.INITIAL_WINDOW_SIZE, 0))
        stream = harness.open()
        harness.connection.send_data(stream, b"more")
        assert harness.connection.waiting_streams == 0
        assert harness.receive(window_update(0, 100)) == []
        assert harness.receive(settings((Setting.INITIAL_WINDOW_SIZE, 9))) == [
            StreamDrained(stream)
        ]

    def test_data_that_waits_is_not_copied(self, harness):
        stream = harness.open()
        body = bytes(3 * DEFAULT_WINDOW)
        harness.connection.send_data(stream, body)
        assert [each.obj is body for each in stream.outbox] == [True]

    def test_padding_alone_does_not_use_a_window_up(self, harness):
        harness.open(flags=0)
        padded = frame(Frame.DATA, PADDED, 1, bytes((255,)) + bytes(255))
        granted = 0
        for _ in range(1000):
            harness.connection.budget.refill()
            assert harness.receive(padded) == []
            granted += harness.granted(1)
        assert 256_000 - 100_000 <= granted <= 256_000


class TestLargeAnswers:
    """Windows that allow all of an answer do not make it framed at once, since framing copies it."""

    @pytest.fixture
    def harness(self):
        found = Harness((Setting.INITIAL_WINDOW_SIZE, MAX_WINDOW))
        found.receive(window_update(0, MAX_WINDOW - DEFAULT_WINDOW))
        return found

    def test_a_bounded_part_is_framed_for_each_write(self, harness):
        first, second = harness.open(1), harness.open(3)
        body = bytes(5 * MAX_FRAMED_BYTES // 2)
        for stream in (first, second):
            harness.answer(stream, body)

        sizes, ended = [], []
        while True:
            written = harness.written()
            sizes.append(sum(len(payload) for kind, _, _, payload in written if kind == Frame.DATA))
            if not harness.connection.has_more_to_send:
                break
            ended += [event.stream for event in harness.connection.continue_sending()]

        assert sum(sizes) == 2 * len(body)
        assert max(sizes) <= MAX_FRAMED_BYTES
        assert len(sizes) == 5
        assert set(ended) == {first, second}
        assert first.closed
        assert second.closed
        assert harness.connection.queued_bytes == 0
