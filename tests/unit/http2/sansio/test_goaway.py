"""How the server ends a connection: the initial and the final GOAWAY, and one with an error."""

from raw_http2 import (
    goaway,
    numbers,
    opening,
)

from batcher.http2.sansio.frames import (
    ACK,
    MAX_WINDOW,
    Error,
    Frame,
    frame,
)
from batcher.http2.sansio.streams import (
    ConnectionCounters,
)


class TestGoaway:
    def test_the_final_goaway_is_sent_once_and_open_streams_are_answered(self, harness):
        stream = harness.open()
        harness.connection.send_final_goaway()
        harness.connection.send_final_goaway()
        assert harness.written() == [goaway(1)]
        assert not harness.connection.closing
        assert harness.receive(opening(3)) == []
        assert harness.written() == [(Frame.RST_STREAM, 0, 3, numbers(Error.REFUSED_STREAM))]
        harness.answer(stream, b"x")
        assert len(harness.written()) == 3

    def test_streams_between_the_two_goaways_are_answered(self, harness):
        harness.open(1)
        harness.connection.send_initial_goaway()
        first, ping = harness.written()
        assert first == goaway(MAX_WINDOW)
        stream = harness.open(3)
        harness.answer(stream, b"x")
        assert len(harness.written()) == 3
        assert ping[:2] == (Frame.PING, 0)
        harness.receive(frame(Frame.PING, ACK, 0, b"another."))
        assert harness.written() == []
        harness.receive(frame(Frame.PING, ACK, 0, ping[3]))
        assert harness.written() == [goaway(3)]
        assert harness.receive(opening(5)) == []
        assert harness.written() == [(Frame.RST_STREAM, 0, 5, numbers(Error.REFUSED_STREAM))]
        assert harness.connection.counters == ConnectionCounters(refused=1, goaways_sent=2)

    def test_a_connection_that_is_closed_sends_one_reason(self, harness):
        harness.open(5)
        harness.connection.close(Error.INTERNAL_ERROR, "a reason")
        harness.connection.close(Error.NO_ERROR, "another")
        assert harness.written() == [goaway(5, Error.INTERNAL_ERROR, "a reason")]
        assert harness.connection.closing
        assert harness.receive(opening(7)) == []

    def test_the_last_stream_of_goaway_never_rises(self, harness):
        harness.open()
        harness.connection.send_final_goaway()
        harness.receive(opening(3))
        harness.connection.close(Error.NO_ERROR, "")
        written = harness.written()
        assert [each for each in written if each[0] is Frame.GOAWAY] == [goaway(1), goaway(1)]
