"""The receiving half of a connection: receive windows."""

from raw_http2 import (
    LIMITS,
    data,
    numbers,
)

from batcher.http2.sansio.frames import (
    END_STREAM,
    PADDED,
    Error,
    Frame,
)
from batcher.http2.sansio.streams import DataReceived


class TestReceiveWindows:
    def test_a_stream_may_send_its_window_and_no_more(self, harness):
        stream = harness.open(flags=0)
        part = LIMITS.stream_window // 10
        for _ in range(10):
            assert harness.receive(data(1, bytes(part))) == [DataReceived(stream, bytes(part))]
        assert harness.receive(data(1, b"x")) == []
        assert harness.failed(1) is Error.FLOW_CONTROL_ERROR

    def test_padding_counts_against_the_window(self, harness):
        harness.open(flags=0)
        padded = data(1, b"\xff" + bytes(255 + 744), PADDED)
        harness.receive(padded * 100)
        assert not harness.connection.closing
        harness.receive(data(1, b"x"))
        assert harness.failed(1) is Error.FLOW_CONTROL_ERROR

    def test_consumed_bytes_open_the_window_by_half_of_it(self, harness):
        stream = harness.open(flags=0)
        harness.receive(data(1, bytes(10_000)) * 6)
        harness.connection.consume(stream, 49_999)
        assert harness.written() == []
        harness.connection.consume(stream, 1)
        assert harness.written() == [(Frame.WINDOW_UPDATE, 0, 1, numbers(50_000))]
        harness.receive(data(1, bytes(10_000)) * 9)
        assert not harness.connection.closing
        harness.receive(data(1, bytes(1)))
        assert harness.failed(1) is Error.FLOW_CONTROL_ERROR

    def test_a_window_may_be_opened_for_a_large_message(self, harness):
        stream = harness.open(flags=0)
        harness.receive(data(1, bytes(10_000)))
        harness.connection.allow(stream, 90_000)
        assert harness.written() == []
        harness.connection.allow(stream, 150_000)
        assert harness.written() == [(Frame.WINDOW_UPDATE, 0, 1, numbers(60_000))]
        harness.receive(data(1, bytes(10_000)) * 15)
        assert not harness.connection.closing
        harness.connection.consume(stream, 160_000)
        assert harness.granted(1) == LIMITS.stream_window

    def test_a_padded_message_of_the_windows_size_gets_through(self, harness):
        stream = harness.open(flags=0)
        window = left = LIMITS.stream_window
        while left > 1000:
            size = 744
            padding = min(255, window - size - 1)
            assert padding > 0
            harness.receive(data(1, bytes([padding]) + bytes(size + padding), PADDED))
            left -= size
            harness.connection.allow(stream, left)
            window += harness.granted(1) - size - padding - 1
        assert window >= left

    def test_padding_that_uses_up_the_window_is_reported(self, harness):
        stream = harness.open(flags=0)
        harness.receive(data(1, bytes(9_999)) * 10)
        padding = data(1, b"\x04" + bytes(4), PADDED)
        assert harness.receive(padding) == []
        assert harness.receive(padding) == [DataReceived(stream, b"")]

    def test_a_request_that_has_ended_gets_no_window_update(self, harness):
        stream = harness.open(flags=0)
        for flags in (0, 0, 0, 0, 0, 0, END_STREAM):
            harness.receive(data(1, bytes(10_000), flags))
        harness.connection.consume(stream, 70_000)
        assert harness.written() == []

    def test_the_window_of_the_connection_is_opened_before_it_is_used_up(
        self, harness, monkeypatch
    ):
        monkeypatch.setattr("batcher.http2.sansio.receiving._WINDOW_UPDATE_BYTES", 30_000)
        harness.open(flags=0)
        harness.connection.reset(harness.connection.streams[1], Error.CANCEL)
        harness.written()
        for _ in range(3):
            harness.receive(data(1, bytes(10_000)))
        assert harness.written() == []
        harness.receive(data(1, bytes(10_000)))
        assert harness.written() == [(Frame.WINDOW_UPDATE, 0, 0, numbers(40_000))]

    def test_late_data_of_a_closed_stream_is_ignored(self, harness):
        stream = harness.open(flags=0)
        harness.connection.reset(stream, Error.CANCEL)
        assert harness.receive(data(1, bytes(10_000))) == []
        harness.connection.release(stream)
        assert harness.receive(data(1, bytes(10_000)) * 20, data(1, b"", END_STREAM)) == []
        assert not harness.connection.closing
