"""The load generator's side of HTTP/2, frame by frame."""

import struct

import pytest
from hpack import Decoder, Encoder
from http2 import Call, Connection, Request, status, timeout

from batcher.clock import MILLISECOND, SECOND
from batcher.http2.sansio.frames import (
    ACK,
    DEFAULT_FRAME_SIZE,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    MAX_WINDOW,
    PADDED,
    PREFACE,
    PRIORITY,
    Frame,
    frame,
)

REPLY = b"\0\0\0\0\3abc"


def frames(data):
    """What was written, as `(type, flags, stream, payload)`."""
    found, data = [], data.removeprefix(PREFACE)
    while data:
        size = int.from_bytes(data[:3], "big")
        kind, flags, stream = struct.unpack_from(">BBI", data, 3)
        found.append((kind, flags, stream, data[9 : 9 + size]))
        data = data[9 + size :]
    return found


def block(*headers, huffman=False):
    return Encoder().encode([(*each, True) for each in headers], huffman=huffman)


def trailers(stream, code=0, **rest):
    return frame(
        Frame.HEADERS,
        END_HEADERS | END_STREAM,
        stream,
        block(("grpc-status", str(code)), *rest.items()),
    )


def answer(stream, reply=REPLY):
    opening = frame(Frame.HEADERS, END_HEADERS, stream, block((":status", "200")))
    return opening + frame(Frame.DATA, 0, stream, reply) + trailers(stream)


def settings(*pairs):
    return frame(Frame.SETTINGS, 0, 0, b"".join(struct.pack(">HI", *each) for each in pairs))


def window_update(stream, more):
    return frame(Frame.WINDOW_UPDATE, 0, stream, more.to_bytes(4, "big"))


def error(kind, stream, *numbers):
    return frame(kind, 0, stream, b"".join(each.to_bytes(4, "big") for each in numbers))


@pytest.fixture
def connect():
    """A connection after the exchange of settings, for requests of so many bytes and replies of three."""

    def make(size=10):
        made = Connection(Request.encode("a:1", "/s/M", bytes(size - 5)), 3)
        made.take()
        return made

    return make


def settled(found):
    return [(call.place, failure) for call, failure in found]


def test_the_first_settings_forbid_a_header_table_and_open_large_windows():
    connection = Connection(Request.encode("a:1", "/s/M", b""), 3)
    sent = connection.take()
    assert sent.startswith(PREFACE)
    (first, second) = frames(sent)
    assert (1, 0) in struct.iter_unpack(">HI", first[3])
    assert (4, MAX_WINDOW) in struct.iter_unpack(">HI", first[3])
    assert second == (Frame.WINDOW_UPDATE, 0, 0, (MAX_WINDOW - DEFAULT_WINDOW).to_bytes(4, "big"))


def test_calls_differ_by_their_stream_alone_and_fill_no_table():
    connection = Connection(Request.encode("a:1", "/s/M", b"hello", 50 * MILLISECOND), 3)
    connection.take()
    for place in range(2):
        connection.send(Call(place, 0))
    written = frames(connection.take())
    assert [stream for _, _, stream, _ in written] == [1, 1, 3, 3]
    headers, body = written[:2]
    assert [each[:2] + each[3:] for each in written[2:]] == [
        each[:2] + each[3:] for each in written[:2]
    ]
    decoder = Decoder()
    assert dict(decoder.decode(headers[3])) == {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/s/M",
        ":authority": "a:1",
        "te": "trailers",
        "content-type": "application/grpc",
        "grpc-timeout": "50000u",
    }
    assert not decoder.header_table.dynamic_entries
    assert body[1:] == (END_STREAM, 1, b"\0\0\0\0\5hello")


def test_a_deadline_has_at_most_eight_digits():
    assert timeout(50 * MILLISECOND) == "50000u"
    assert timeout(200 * SECOND) == "200000m"


def test_a_long_message_takes_several_frames():
    request = Request.encode("a:1", "/s/M", bytes(DEFAULT_FRAME_SIZE))
    whole = frames((7).to_bytes(4, "big").join(request.pieces))
    assert [(kind, flags, stream) for kind, flags, stream, _ in whole] == [
        (Frame.HEADERS, END_HEADERS, 7),
        (Frame.DATA, 0, 7),
        (Frame.DATA, END_STREAM, 7),
    ]
    assert sum(len(each[3]) for each in whole[1:]) == request.size == DEFAULT_FRAME_SIZE + 5


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_answers_may_come_in_any_pieces_and_order(connect, step):
    connection = connect()
    for place in range(2):
        connection.send(Call(place, 0))
    data = answer(3) + trailers(1, 8, **{"grpc-message": "queue full"})
    found = []
    for start in range(0, len(data), step):
        found += connection.receive(data[start : start + step])
    assert settled(found) == [(1, ""), (0, "RESOURCE_EXHAUSTED")]


def test_padding_and_priority_count_for_nothing(connect):
    connection = connect()
    connection.send(Call(0, 0))
    data = frame(Frame.DATA, PADDED, 1, b"\2" + REPLY + bytes(2))
    flags = END_HEADERS | END_STREAM | PADDED | PRIORITY
    data += frame(
        Frame.HEADERS, flags, 1, b"\3" + bytes(5) + block(("grpc-status", "0")) + bytes(3)
    )
    assert settled(connection.receive(data)) == [(0, "")]


@pytest.mark.parametrize(
    ("data", "failure"),
    [
        (answer(1, REPLY + b"d"), "a reply of another length"),
        (trailers(1), "a reply of another length"),
        (trailers(1, 4), "DEADLINE_EXCEEDED"),
        (trailers(1, 99), "99"),
        (
            frame(Frame.HEADERS, END_HEADERS | END_STREAM, 1, block((":status", "502"))),
            "no grpc-status (:status 502)",
        ),
        (frame(Frame.DATA, END_STREAM, 1, REPLY), "no trailers"),
        (frame(Frame.HEADERS, END_STREAM, 1, b""), "trailers in several frames"),
        (error(Frame.RST_STREAM, 1, 8), "RST_STREAM CANCEL"),
        (error(Frame.RST_STREAM, 1, 77), "RST_STREAM 77"),
        (error(Frame.GOAWAY, 0, 0, 0), "GOAWAY NO_ERROR"),
    ],
)
def test_a_call_without_an_answer_fails_by_name(connect, data, failure):
    connection = connect()
    connection.send(Call(0, 0))
    assert settled(connection.receive(data)) == [(0, failure)]
    assert not connection.receive(answer(1))


def test_a_call_that_was_refused_unseen_is_made_again(connect):
    connection = connect()
    connection.send(Call(0, 0))
    assert not connection.receive(error(Frame.RST_STREAM, 1, 7))
    assert settled(connection.receive(answer(3))) == [(0, "")]


def test_after_goaway_what_is_refused_unseen_has_failed(connect):
    connection = connect()
    connection.send(Call(0, 0))
    connection.take()
    connection.receive(error(Frame.GOAWAY, 0, 1, 0))
    refused = connection.receive(error(Frame.RST_STREAM, 1, 7))
    assert settled(refused) == [(0, "RST_STREAM REFUSED_STREAM")]
    assert not connection.take()


def test_after_goaway_what_was_taken_is_answered_and_nothing_is_begun(connect):
    connection = connect()
    connection.receive(settings((3, 2)))
    for place in range(3):
        connection.send(Call(place, 0))
    assert settled(connection.receive(error(Frame.GOAWAY, 0, 1, 11))) == [
        (1, "GOAWAY ENHANCE_YOUR_CALM"),
        (2, "GOAWAY ENHANCE_YOUR_CALM"),
    ]
    assert connection.gone == "GOAWAY ENHANCE_YOUR_CALM"
    assert settled(connection.receive(answer(1))) == [(0, "")]


def test_a_lost_connection_fails_all_that_is_open(connect):
    connection = connect()
    connection.send(Call(0, 0))
    assert settled(connection.leave("connection lost")) == [(0, "connection lost")]
    assert connection.gone == "connection lost"


def test_settings_and_pings_are_answered_but_not_their_answers(connect):
    connection = connect()
    connection.receive(
        settings((4, 70_000))
        + frame(Frame.PING, 0, 0, b"12345678")
        + frame(Frame.SETTINGS, ACK, 0)
        + frame(Frame.PING, ACK, 0, b"87654321")
    )
    assert connection.settings_received
    assert connection.stream_window == 70_000
    assert frames(connection.take()) == [
        (Frame.SETTINGS, ACK, 0, b""),
        (Frame.PING, ACK, 0, b"12345678"),
    ]


def test_a_call_waits_for_the_connections_window(connect):
    connection = connect(size=40_000)
    for place in range(2):
        connection.send(Call(place, 0))
    assert {stream for _, _, stream, _ in frames(connection.take())} == {1}
    connection.receive(window_update(1, 50_000))
    assert not connection.take()
    connection.receive(window_update(0, 50_000))
    assert {stream for _, _, stream, _ in frames(connection.take())} == {3}


def test_no_more_calls_are_open_than_the_server_allows(connect):
    connection = connect()
    connection.receive(settings((3, 1)))
    for place in range(2):
        connection.send(Call(place, 0))
    connection.take()
    assert settled(connection.receive(answer(1))) == [(0, "")]
    assert {stream for _, _, stream, _ in frames(connection.take())} == {3}


def test_a_window_is_enlarged_before_it_is_used_up(connect):
    connection = connect()
    connection.send(Call(0, 0))
    connection.take()
    full = frame(Frame.DATA, 0, 1, bytes(2**24 - 1))
    granted = received = 0
    while not granted:
        connection.receive(full)
        received += 2**24 - 1
        assert received < MAX_WINDOW
        granted = sum(int.from_bytes(each[3], "big") for each in frames(connection.take()))
    assert granted == received


def test_trailers_are_read_whether_or_not_they_are_huffman_coded():
    for huffman in (False, True):
        assert not status(block(("grpc-status", "0"), huffman=huffman))
        assert status(block(("grpc-status", "13"), huffman=huffman)) == "INTERNAL"


def test_trailers_that_need_a_table_are_a_failure():
    assert status(b"\xbe").startswith("trailers that cannot be read")
    assert not status(b"\x20" + block(("grpc-status", "0")))
