"""Which requests are malformed (RFC 9113, section 8); each loses its own stream alone."""

import pytest
from hpack import Encoder
from raw_http2 import HEADERS, TRAILERS, data, numbers, opening

from batcher.http2.sansio.fields import (
    Fields,
    MalformedRequestError,
    Request,
    check_trailers,
    header_list_size,
    is_valid_field,
    read_request,
)
from batcher.http2.sansio.frames import END_STREAM, Error, Frame
from batcher.http2.sansio.hpack import encode
from batcher.http2.sansio.streams import (
    ConnectionCounters,
    DataReceived,
    RequestReceived,
    StreamEnded,
    StreamReset,
)

MOST = 10_000
GRPC = (
    *HEADERS,
    (":authority", "a:1"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)
BARE = HEADERS[:-1]
"""Without :path."""

SOUND_FIELDS = {
    "a word": (b"x-note", b"word"),
    "nothing": (b"x-note", b""),
    "spaces and tabs within": (b"x-note", b"a \t b"),
    "any letters": (b"x-note", b"\x80\xff!~"),
    "every letter of a name": (b"!#$%&'*+-.^_`|~09az", b"1"),
    "te of any case": (b"te", b"Trailers"),
    "a large content-length": (b"content-length", b"9223372036854775807"),
    "an authority with a port": (b":authority", b"[::1]:8001"),
    "no authority": (b":authority", b""),
    "a method of one's own": (b":method", b"M-SEARCH"),
}
UNSOUND_FIELDS = {
    "no name": (b"", b"v"),
    "upper case": (b"X-Note", b"v"),
    "a space in a name": (b"x note", b"v"),
    "a control character in a name": (b"x\x00", b"v"),
    "a line in a name": (b"x\r\n", b"v"),
    "a colon in a name": (b"x:y", b"v"),
    "a name beyond ASCII": ("x-é".encode(), b"v"),
    "an unknown pseudo-field": (b":unknown", b"v"),
    "a pseudo-field of an answer": (b":status", b"200"),
    "extended CONNECT": (b":protocol", b"websocket"),
    "a colon alone": (b":", b"v"),
    "upper case in a pseudo-field": (b":Path", b"/"),
    "NUL": (b"x", b"a\x00b"),
    "a line": (b"x", b"a\nb"),
    "a carriage return": (b"x", b"a\rb"),
    "an escape": (b"x", b"\x1b[31m"),
    "DEL": (b"x", b"a\x7f"),
    "a space before": (b"x", b" a"),
    "a space after": (b"x", b"a "),
    "a tab before": (b"x", b"\ta"),
    "a tab after": (b"x", b"a\t"),
    "white space alone": (b"x", b" "),
    "connection": (b"connection", b"close"),
    "keep-alive": (b"keep-alive", b"timeout=5"),
    "proxy-connection": (b"proxy-connection", b"keep-alive"),
    "transfer-encoding": (b"transfer-encoding", b"chunked"),
    "upgrade": (b"upgrade", b"h2c"),
    "connection without a value": (b"connection", b""),
    "te with more": (b"te", b"trailers, deflate"),
    "te without a value": (b"te", b""),
    "an empty path": (b":path", b""),
    "a path with a space": (b":path", b"/a b"),
    "an empty method": (b":method", b""),
    "a method that is no word": (b":method", b"PO ST"),
    "CONNECT": (b":method", b"CONNECT"),
    "an empty scheme": (b":scheme", b""),
    "a scheme that is none": (b":scheme", b"h:ttp"),
    "an authority with a user": (b":authority", b"me:secret@a:1"),
    "a content-length that is no number": (b"content-length", b"ten"),
    "a content-length below 0": (b"content-length", b"-1"),
    "a content-length with a sign": (b"content-length", b"+1"),
    "a list of content-lengths": (b"content-length", b"1, 1"),
    "an endless content-length": (b"content-length", b"1" * 5000),
    "an empty content-length": (b"content-length", b""),
}
SOUND_REQUESTS = {
    "of gRPC": GRPC,
    "as short as can be": HEADERS,
    "pseudo-fields in another order": (*reversed(HEADERS), ("te", "trailers")),
    "a host alone": (*HEADERS, ("host", "a:1")),
    "a host that is the authority": (*GRPC, ("host", "A:1")),
    "fields that come again": (*GRPC, ("x", "1"), ("x", "2"), ("cookie", "a"), ("cookie", "b")),
    "a content-length twice": (*GRPC, ("content-length", "0"), ("content-length", "0")),
}
MALFORMED_REQUESTS = {
    "without :method": HEADERS[1:],
    "without :scheme": (HEADERS[0], HEADERS[2]),
    "without :path": BARE,
    "without anything": (),
    ":method twice": (HEADERS[0], *HEADERS),
    ":scheme twice": (HEADERS[1], *HEADERS),
    ":path twice": (*HEADERS, HEADERS[2]),
    "two paths": (*HEADERS, (":path", "/s/Other")),
    ":authority twice": ((":authority", "a:1"), (":authority", "a:1"), *HEADERS),
    "a pseudo-field behind others": (*BARE, ("te", "trailers"), HEADERS[2]),
    "one more behind others": (*GRPC, (":path", "/s/Other")),
    "CONNECT": ((":method", "CONNECT"), (":authority", "a:1")),
    "a host that is not the authority": (*GRPC, ("host", "b:1")),
    "two hosts": (*HEADERS, ("host", "a:1"), ("host", "b:1")),
    "a host twice": (*HEADERS, ("host", "a:1"), ("host", "a:1")),
    "content-lengths that differ": (*GRPC, ("content-length", "0"), ("content-length", "1")),
}


def block(name, value):
    return Encoder().encode([(name, value)])


@pytest.mark.parametrize("field", SOUND_FIELDS.values(), ids=SOUND_FIELDS)
def test_a_valid_field(field):
    assert is_valid_field(*field)


@pytest.mark.parametrize("field", UNSOUND_FIELDS.values(), ids=UNSOUND_FIELDS)
def test_an_invalid_field_ends_its_stream_alone(harness, field):
    assert not is_valid_field(*field)
    other = harness.open(1, 0)
    regular = not field[0].startswith(b":") and field[0]
    fields = encode(HEADERS) + block(*field) if regular else block(*field) + encode(HEADERS)
    for number in (3, 5):  # the second comes from the cache
        assert harness.receive(opening(number, 0, fields)) == []
        assert harness.written() == [(Frame.RST_STREAM, 0, number, numbers(Error.PROTOCOL_ERROR))]
    assert harness.receive(data(3, b"on its way"), data(1, b"x")) == [DataReceived(other, b"x")]
    assert harness.written() == []
    assert harness.connection.counters == ConnectionCounters(malformed=2)


@pytest.mark.parametrize("headers", SOUND_REQUESTS.values(), ids=SOUND_REQUESTS)
def test_a_valid_request(harness, headers):
    (opened, ended) = harness.receive(opening(1, END_STREAM, encode(headers)))
    assert (type(opened), type(ended)) == (RequestReceived, StreamEnded)
    assert opened.request.headers == headers


@pytest.mark.parametrize("headers", MALFORMED_REQUESTS.values(), ids=MALFORMED_REQUESTS)
def test_a_malformed_request_ends_its_stream_alone(harness, headers):
    other = harness.open(1, 0)
    for number in (3, 5):
        assert harness.receive(opening(number, 0, encode(headers))) == []
        assert harness.written() == [(Frame.RST_STREAM, 0, number, numbers(Error.PROTOCOL_ERROR))]
    assert harness.receive(data(1, b"x")) == [DataReceived(other, b"x")]
    assert harness.connection.open_streams == 1


@pytest.mark.parametrize("headers", MALFORMED_REQUESTS.values(), ids=MALFORMED_REQUESTS)
def test_the_reason_repeats_no_value(headers):
    with pytest.raises(MalformedRequestError) as caught:
        read_request(Fields(headers, header_list_size(headers), valid=True), MOST)
    assert not any(value in str(caught.value) for _, value in headers if len(value) > 1)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(((":path", "/"),), id="a pseudo-field"),
        pytest.param((("x", "1"), (":method", "POST")), id="a pseudo-field behind others"),
        pytest.param((("connection", "close"),), id="a field of one connection"),
        pytest.param((("X", "1"),), id="upper case"),
        pytest.param((("x", "a\nb"),), id="a line"),
    ],
)
def test_invalid_trailers_end_their_stream_alone(harness, fields):
    other, stream = harness.open(1, 0), harness.open(3, 0)
    assert harness.receive(opening(3, END_STREAM, encode(fields))) == [StreamReset(stream)]
    assert harness.written() == [(Frame.RST_STREAM, 0, 3, numbers(Error.PROTOCOL_ERROR))]
    assert harness.receive(opening(1, END_STREAM, TRAILERS)) == [StreamEnded(other)]


def test_trailers_may_have_any_other_field():
    check_trailers(Fields((("grpc-status", "0"), ("x", "")), 100, valid=True))


def test_a_request_over_the_limit_is_not_malformed_for_dropped_fields():
    assert read_request(Fields(BARE, MOST + 1, valid=True), MOST) == Request(BARE, MOST + 1)


class TestContentLength:
    def sent(self, harness, length, *pieces):
        headers = encode((*GRPC, ("content-length", str(length))))
        return harness.receive(opening(1, 0, headers), *pieces)

    @pytest.mark.parametrize("sizes", [[5], [2, 3], [0, 5, 0], [5, 0]])
    def test_a_body_of_that_length(self, harness, sizes):
        *first, last = sizes
        pieces = [*(data(1, bytes(size)) for size in first), data(1, bytes(last), END_STREAM)]
        assert type(self.sent(harness, 5, *pieces)[-1]) is StreamEnded
        assert harness.written() == []

    @pytest.mark.parametrize("end", [data(1, b"", END_STREAM), opening(1, END_STREAM, TRAILERS)])
    @pytest.mark.parametrize("length", [0, 4])
    def test_a_body_that_ends_with_a_frame_of_its_own(self, harness, end, length):
        assert type(self.sent(harness, length, data(1, bytes(length)), end)[-1]) is StreamEnded

    @pytest.mark.parametrize(
        "pieces",
        [
            pytest.param([data(1, b"1234", END_STREAM)], id="too short"),
            pytest.param([data(1, b"123456", END_STREAM)], id="too long"),
            pytest.param([data(1, b"123456")], id="too long before its end"),
            pytest.param([data(1, b"123"), data(1, b"456", END_STREAM)], id="in frames"),
            pytest.param([data(1, b"1"), opening(1, END_STREAM, TRAILERS)], id="with trailers"),
        ],
    )
    def test_another_body_ends_the_stream(self, harness, pieces):
        events = self.sent(harness, 5, *pieces)
        assert type(events[-1]) is StreamReset
        assert not any(type(event) is StreamEnded for event in events)
        assert harness.written() == [(Frame.RST_STREAM, 0, 1, numbers(Error.PROTOCOL_ERROR))]
        assert not harness.connection.closing

    def test_no_body_at_all(self, harness):
        headers = encode((*GRPC, ("content-length", "5")))
        events = harness.receive(opening(1, END_STREAM, headers))
        assert [type(event) for event in events] == [RequestReceived, StreamReset]
        headers = encode((*GRPC, ("content-length", "0")))
        events = harness.receive(opening(3, END_STREAM, headers))
        assert [type(event) for event in events] == [RequestReceived, StreamEnded]

    def test_padding_is_no_part_of_it(self, harness):
        padded = bytes([0, 0, 8, 0, 0x9, 0, 0, 0, 1, 2]) + b"12345" + bytes(2)
        assert type(self.sent(harness, 5, padded)[-1]) is StreamEnded
