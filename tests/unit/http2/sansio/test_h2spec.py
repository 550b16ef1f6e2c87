"""The rules of HTTP/2 and HPACK: each of `h2spec_cases`, whole and in pieces."""

import pytest
from h2spec_cases import CASES
from h2spec_frames import BODY, LIMITS, NOTHING, Connections, Streams, request
from raw_http2 import RESPONSE_HEADERS, TRAILERS, Harness, numbers, settings

from batcher.http2.sansio.connection import Connection
from batcher.http2.sansio.frames import END_HEADERS, END_STREAM, PREFACE, Error, Frame, Setting
from batcher.http2.sansio.streams import StreamEnded


class Answering(Harness):
    """Answers each request when all that was sent with it is read."""

    def receive(self, *pieces):
        for event in super().receive(*pieces):
            if type(event) is StreamEnded and not self.connection.closing:
                self.connection.send_headers(event.stream, RESPONSE_HEADERS)
                self.connection.send_data(event.stream, BODY)
                self.connection.send_trailers(event.stream, TRAILERS)
        for stream in [each for each in self.connection.streams.values() if each.closed]:
            self.connection.release(stream)
        return []


def play(sent):
    """The connection, and what it writes."""
    harness = Answering(limits=LIMITS)
    written, together = [], []
    for piece in [*sent, NOTHING]:
        if piece != NOTHING:
            together.append(piece)
        else:
            harness.receive(*together)
            written += harness.written()
            together = []
    return harness, written


@pytest.mark.parametrize(("sent", "expected"), CASES)
def test_a_case(sent, expected):
    harness, written = play(sent)
    if isinstance(expected, Connections):
        assert harness.connection.error in expected.errors
        assert written[-1][0] is Frame.GOAWAY
        return
    if isinstance(expected, Streams):
        assert (Frame.RST_STREAM, 0, expected.number, numbers(expected.error)) in written
    else:
        for each in expected.frames:
            assert each in {found[: len(each)] for found in written}
    if Frame.GOAWAY not in {each[0] for each in written}:
        harness.receive(settings((Setting.INITIAL_WINDOW_SIZE, 65_535)), request(99))
        ended = (Frame.HEADERS, END_HEADERS | END_STREAM, 99)
        refused = (Frame.RST_STREAM, 0, 99)
        assert {ended, refused} & {found[:3] for found in harness.written()}
        assert not harness.connection.closing


@pytest.mark.parametrize("split", [1, 10])
@pytest.mark.parametrize(("sent", "expected"), CASES)
def test_frames_may_come_in_pieces(sent, expected, split):
    """Events and frames do not depend on where the bytes are cut."""
    sent = b"".join(sent)
    whole, pieces = Harness(limits=LIMITS), Harness(limits=LIMITS)
    events = whole.receive(sent)
    found = []
    for start in range(0, len(sent), split):
        found += pieces.receive(sent[start : start + split])
        if pieces.connection.error is Error.NO_ERROR:
            return  # the client has left before it sent the rest
    assert list(map(summary, found)) == list(map(summary, events))
    assert pieces.written() == whole.written()


def summary(event):
    return type(event), event.stream.id, getattr(event, "request", getattr(event, "data", None))


def test_the_servers_preface_comes_first():
    """3.5: SETTINGS are the first frame that is sent."""
    connection = Connection(LIMITS)
    assert connection.data_to_send()[3] == Frame.SETTINGS


def test_another_preface_ends_the_connection():
    """3.5: an invalid preface."""
    connection = Connection(LIMITS)
    connection.receive(b"INVALID CONNECTION PREFACE\r\n\r\n")
    assert connection.closing


def test_a_preface_alone_is_not_an_error():
    connection = Connection(LIMITS)
    assert connection.receive(PREFACE) == []
    assert not connection.closing
