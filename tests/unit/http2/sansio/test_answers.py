"""The sending half of a connection: the frames of an answer, in their order."""

from hpack import Decoder
from raw_http2 import (
    RESPONSE_HEADERS,
    TRAILERS,
    Harness,
    numbers,
    reset,
    window_update,
)

from batcher.http2.sansio.frames import (
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    Error,
    Frame,
    Setting,
)
from batcher.http2.sansio.hpack import encode
from batcher.http2.sansio.streams import (
    ConnectionCounters,
    StreamReset,
)


class TestAnswers:
    def test_a_whole_answer(self, harness):
        stream = harness.open()
        harness.connection.send_all(stream, RESPONSE_HEADERS, b"body", TRAILERS)
        assert stream.closed
        assert harness.written() == [
            (Frame.HEADERS, END_HEADERS, 1, RESPONSE_HEADERS),
            (Frame.DATA, 0, 1, b"body"),
            (Frame.HEADERS, END_HEADERS | END_STREAM, 1, TRAILERS),
        ]

    def test_an_answer_in_parts_has_the_same_frames(self, harness):
        harness.connection.send_all(harness.open(1), RESPONSE_HEADERS, b"body", TRAILERS)
        harness.answer(harness.open(3), b"body")
        written = harness.written()
        assert [(*each[:2], each[3]) for each in written[:3]] == [
            (*each[:2], each[3]) for each in written[3:]
        ]

    def test_an_answer_before_the_request_has_ended_resets_it_without_error(self, harness):
        for number in (1, 3):
            stream = harness.open(number, flags=0)
            if number == 1:
                harness.connection.send_all(stream, RESPONSE_HEADERS, b"body", TRAILERS)
            else:
                harness.connection.send_trailers(stream, TRAILERS)
            assert harness.written()[-2:] == [
                (Frame.HEADERS, END_HEADERS | END_STREAM, number, TRAILERS),
                (Frame.RST_STREAM, 0, number, numbers(Error.NO_ERROR)),
            ]

    def test_a_long_block_is_continued(self, harness):
        fields = [("x", "v" * 40_000)]
        stream = harness.open()
        harness.connection.send_headers(stream, RESPONSE_HEADERS)
        harness.connection.send_trailers(stream, encode(fields))
        written = harness.written()[1:]
        assert [each[:3] for each in written] == [
            (Frame.HEADERS, END_STREAM, 1),
            (Frame.CONTINUATION, 0, 1),
            (Frame.CONTINUATION, END_HEADERS, 1),
        ]
        assert max(len(each[3]) for each in written) == DEFAULT_FRAME_SIZE
        assert Decoder().decode(b"".join(each[3] for each in written)) == fields

    def test_long_trailers_of_a_whole_answer_are_continued(self, harness):
        harness.connection.send_all(
            harness.open(), RESPONSE_HEADERS, b"x", encode([("x", "v" * 40_000)])
        )
        assert max(len(each[3]) for each in harness.written()) == DEFAULT_FRAME_SIZE

    def test_nothing_follows_an_answer(self, harness):
        stream = harness.open()
        harness.connection.send_all(stream, RESPONSE_HEADERS, b"body", TRAILERS)
        harness.written()
        harness.answer(stream, b"more")
        harness.connection.send_all(stream, RESPONSE_HEADERS, b"more", TRAILERS)
        harness.connection.reset(stream, Error.CANCEL)
        harness.connection.release(stream)
        assert harness.written() == []
        assert harness.connection.streams == {}

    def test_a_reset_ends_the_answer(self, harness):
        stream = harness.open()
        harness.connection.send_headers(stream, RESPONSE_HEADERS)
        harness.connection.send_data(stream, bytes(DEFAULT_WINDOW + 1))
        harness.written()
        harness.connection.reset(stream, Error.CANCEL)
        harness.connection.reset(stream, Error.CANCEL)
        assert harness.written() == [(Frame.RST_STREAM, 0, 1, numbers(Error.CANCEL))]
        assert harness.receive(window_update(0, 100), window_update(1, 100)) == []
        assert harness.written() == []

    def test_a_stream_that_is_released_without_an_answer_is_reset(self, harness):
        harness.connection.release(harness.open())
        assert harness.written() == [(Frame.RST_STREAM, 0, 1, numbers(Error.INTERNAL_ERROR))]
        assert harness.connection.streams == {}

    def test_the_client_resets_once(self, harness):
        stream = harness.open(flags=0)
        assert harness.receive(reset(1), reset(1)) == [StreamReset(stream)]
        assert stream.closed
        harness.answer(stream, b"x")
        harness.connection.release(stream)
        assert harness.written() == []
        assert harness.connection.counters == ConnectionCounters(resets_received=1)
        assert harness.receive(reset(1), window_update(1, 5)) == []
        assert not harness.connection.closing

    def test_a_smaller_table_of_the_client_is_acknowledged_in_the_next_block(self):
        harness = Harness((Setting.HEADER_TABLE_SIZE, 0))
        decoder = Decoder()
        decoder.max_allowed_table_size = 0
        harness.answer(harness.open(), b"x")
        blocks = [each[3] for each in harness.written() if each[0] is Frame.HEADERS]
        assert decoder.decode(blocks[0]) == [(":status", "200")]
        assert decoder.decode(blocks[1]) == [("grpc-status", "0")]

    def test_second_trailers_are_ignored(self):
        harness = Harness((Setting.INITIAL_WINDOW_SIZE, 5))
        stream = harness.open()
        harness.connection.send_data(stream, b"0123456789")
        harness.connection.send_trailers(stream, TRAILERS)
        harness.connection.send_trailers(stream, encode([("grpc-status", "1")]))
        harness.receive(window_update(1, 5))
        assert harness.written()[-1][3] == TRAILERS

    def test_no_data_follows_trailers(self):
        harness = Harness((Setting.INITIAL_WINDOW_SIZE, 5))
        stream = harness.open()
        harness.answer(stream, b"0123456789")
        harness.connection.send_data(stream, b"more")
        harness.receive(window_update(1, 100))
        assert [each[3] for each in harness.written()] == [
            RESPONSE_HEADERS,
            b"01234",
            b"56789",
            TRAILERS,
        ]

    def test_discarded_data_is_not_sent(self):
        harness = Harness((Setting.INITIAL_WINDOW_SIZE, 5))
        stream = harness.open()
        harness.answer(stream, b"0123456789")
        harness.connection.discard_outbox(stream)
        harness.connection.send_trailers(stream, TRAILERS)
        assert [each[3] for each in harness.written()] == [RESPONSE_HEADERS, b"01234", TRAILERS]
        assert harness.receive(window_update(1, 100)) == []
        assert harness.written() == []
