"""Headers of calls, statuses and trailers."""

import base64

import grpc
import pytest
from hpack import Decoder
from hypothesis import given
from hypothesis import strategies as st

from batcher.clock import MICROSECOND, MILLISECOND, SECOND
from batcher.http2 import grpc_headers
from batcher.http2.grpc_headers import (
    NO_RETRY,
    OK_TRAILERS,
    RESPONSE_HEADERS,
    MalformedCallError,
    parse_headers,
    status,
    too_large,
    trailers_only,
)
from batcher.http2.sansio.fields import Request, header_list_size

MOST = 10_000
REQUIRED = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/s/M"),
    (":authority", "a:1"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)


def head(*more, **instead):
    named = {f":{name}": value for name, value in instead.items()}
    listed = (*((name, named.get(name, value)) for name, value in REQUIRED), *more)
    return parse_headers(asked(listed), MOST)


def asked(listed):
    return Request(listed, header_list_size(listed))


def refused(*more, **instead):
    with pytest.raises(MalformedCallError) as caught:
        head(*more, **instead)
    return caught.value


class TestCallHeaders:
    def test_a_call_with_required_headers_only(self):
        found = head()
        assert (found.path, found.timeout_ns, found.encoding) == ("/s/M", None, "identity")
        assert found.metadata == ()

    def test_metadata_keeps_its_order_and_repetitions(self):
        mine = (("b", "1"), ("a", ""), ("user-agent", "me"), ("b", "2"))
        assert head(*mine).metadata == mine

    @pytest.mark.parametrize(
        "name",
        ["te", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "grpc-server-up"],
    )
    def test_headers_of_grpc_itself_are_not_metadata(self, name):
        value = {"grpc-timeout": "1S", "grpc-encoding": "gzip"}.get(name, "x")
        assert head((name, value)).metadata == ()

    @pytest.mark.parametrize(
        ("text", "timeout_ns"),
        [
            ("1H", 3600 * SECOND),
            ("2M", 120 * SECOND),
            ("3S", 3 * SECOND),
            ("4m", 4 * MILLISECOND),
            ("5u", 5 * MICROSECOND),
            ("6n", 6),
            ("0n", 0),
            ("00000007S", 7 * SECOND),
            ("99999999H", 99_999_999 * 3600 * SECOND),
        ],
    )
    def test_a_timeout_has_a_unit(self, text, timeout_ns):
        assert head(("grpc-timeout", text)).timeout_ns == timeout_ns

    @pytest.mark.parametrize(
        "text",
        ["", "1", "S", "1s", "1 S", "-1S", "1.5S", "123456789S", "1SS", "1S\n", "٣S", "x" * 500],
    )
    def test_a_malformed_timeout_is_refused(self, text):
        error = refused(("grpc-timeout", text))
        assert (error.code, error.http) == (grpc.StatusCode.INVALID_ARGUMENT, 200)
        assert len(str(error)) < 100

    @pytest.mark.parametrize("value", [b"", b"a", b"ab", b"abc", bytes(range(256))])
    @pytest.mark.parametrize("padded", [False, True])
    def test_binary_metadata_may_be_padded(self, value, padded):
        text = base64.b64encode(value).decode()
        found = head(("x-bin", text if padded else text.rstrip("=")))
        assert found.metadata == (("x-bin", value),)

    def test_binary_metadata_may_have_several_values(self):
        assert head(("x-bin", "YQ,YmI=,"), ("x-bin", "Yw==")).metadata == (
            ("x-bin", b"a"),
            ("x-bin", b"bb"),
            ("x-bin", b""),
            ("x-bin", b"c"),
        )

    def test_binary_headers_of_grpc_itself_are_kept_for_tracers(self):
        assert head(("grpc-trace-bin", "YQ")).metadata == (("grpc-trace-bin", b"a"),)

    @pytest.mark.parametrize("text", ["a", "YQ?", "Y Q", "YQ==YQ==", "=", "Y", "ab=c"])
    def test_binary_metadata_is_base64(self, text):
        error = refused(("x-bin", text))
        assert (error.code, error.http) == (grpc.StatusCode.INVALID_ARGUMENT, 200)
        assert str(error) == "metadata x-bin must be base64, as its name ends in -bin"

    def test_binary_metadata_is_ascii(self):
        assert refused(("x-bin", "Yé")).code is grpc.StatusCode.INVALID_ARGUMENT

    @pytest.mark.parametrize("method", ["GET", "post", ""])
    def test_a_call_is_a_post(self, method):
        assert refused(method=method).http == 405

    @pytest.mark.parametrize(
        "content_type", ["application/grpc+proto", "application/grpc;charset=utf-8"]
    )
    def test_a_content_type_may_have_a_suffix_or_parameters(self, content_type):
        assert head(("content-type", content_type)).path == "/s/M"

    @pytest.mark.parametrize("content_type", ["", "text/html", "application/json"])
    def test_another_content_type_is_refused(self, content_type):
        assert refused(("content-type", content_type)).http == 415

    def test_a_call_has_a_content_type(self):
        with pytest.raises(MalformedCallError) as caught:
            parse_headers(asked(REQUIRED[:-1]), MOST)
        assert caught.value.http == 415

    def test_equal_blocks_of_a_connection_are_read_once(self):
        request = asked(REQUIRED)
        assert parse_headers(request, MOST) is parse_headers(request, MOST)

    @pytest.mark.parametrize(
        "field",
        [
            ("grpc-timeout", "my-secret"),
            ("grpc-encoding", "my-secret"),
            ("content-type", "my-secret"),
            ("x-bin", "my-secret"),
            ("authorization", "my-secret" * MOST),
        ],
    )
    def test_a_refusal_does_not_repeat_a_value(self, field):
        assert "secret" not in str(refused(field))

    @pytest.mark.parametrize("encoding", ["identity", "gzip", "deflate"])
    def test_encodings_that_are_read(self, encoding):
        assert head(("grpc-encoding", encoding)).encoding == encoding

    def test_another_encoding_is_refused_with_the_supported_ones(self):
        error = refused(("grpc-encoding", "snappy"))
        assert (error.code, error.http) == (grpc.StatusCode.UNIMPLEMENTED, 200)
        assert "identity,gzip,deflate" in str(error)

    def test_metadata_over_the_limit_is_refused(self):
        room = MOST - sum(32 + len(name) + len(value) for name, value in REQUIRED)
        assert head(("x", "v" * (room - 33))).metadata
        error = refused(("x", "v" * (room - 32)))
        assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert f"{MOST + 1} bytes, at most {MOST} (fixed limit)" in str(error)
        assert error.metadata == NO_RETRY


def test_the_error_for_a_large_message_has_its_size_and_the_limit():
    error = too_large(11, 10)
    assert (error.code, error.http) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 200)
    assert str(error).startswith("Received message larger than max (11 vs. 10)")
    assert str(error).endswith(" (server.max_message); send fewer rows")
    assert error.metadata == NO_RETRY


class TestStatus:
    def test_a_status_without_a_message(self):
        assert status(grpc.StatusCode.OK, "", ()) == [("grpc-status", "0")]

    @pytest.mark.parametrize(
        ("message", "written"),
        [
            ("queue full", "queue full"),
            ("~!a/b=", "~!a/b="),
            ("100%", "100%25"),
            ("a\nb\tc\x7f", "a%0Ab%09c%7F"),
            ("é❄", "%C3%A9%E2%9D%84"),
            ("𝄞", "%F0%9D%84%9E"),
        ],
    )
    def test_a_message_is_percent_encoded(self, message, written):
        fields = status(grpc.StatusCode.UNAVAILABLE, message, ())
        assert fields == [("grpc-status", "14"), ("grpc-message", written)]

    def test_a_message_may_hold_surrogates(self):
        undecodable = b"/tmp/\xff".decode(errors="surrogateescape")
        (_, (_, written)) = status(grpc.StatusCode.UNKNOWN, undecodable, ())
        assert written.startswith("/tmp/")
        assert written.isascii()

    def test_metadata_follows_and_bytes_are_base64_without_padding(self):
        metadata = (("a", "1"), ("x-bin", b"a"), ("a", "2"), ("y-bin", b""))
        assert status(grpc.StatusCode.ABORTED, "m", metadata)[2:] == [
            ("a", "1"),
            ("x-bin", "YQ"),
            ("a", "2"),
            ("y-bin", ""),
        ]

    @given(st.binary(max_size=50))
    def test_binary_metadata_comes_back(self, value):
        field = status(grpc.StatusCode.OK, "", [("x-bin", value)])[-1]
        assert head(field).metadata == (("x-bin", value),)

    def test_the_header_blocks_of_an_answer(self):
        decoder = Decoder()
        assert decoder.decode(RESPONSE_HEADERS) == [
            (":status", "200"),
            ("content-type", "application/grpc"),
            ("grpc-accept-encoding", "identity,gzip,deflate"),
        ]
        assert decoder.decode(OK_TRAILERS) == [("grpc-status", "0")]

    def test_a_call_may_end_with_trailers_only(self):
        fields = status(grpc.StatusCode.NOT_FOUND, "", ())
        assert Decoder().decode(trailers_only(fields)) == [
            *Decoder().decode(RESPONSE_HEADERS),
            ("grpc-status", "5"),
        ]
        assert Decoder().decode(trailers_only((), 415))[0] == (":status", "415")


def test_refusals_are_cached_unless_they_are_long():
    """A caller has influence on the text of some, so the cache is bounded in bytes."""

    def kept(text, metadata=()):
        before = grpc_headers._cached_refusal.cache_info().currsize
        block = grpc_headers.refusal(grpc.StatusCode.NOT_FOUND, text, metadata)
        fields = grpc_headers.status(grpc.StatusCode.NOT_FOUND, text, metadata)
        assert (
            block
            == grpc_headers.trailers_only(fields)
            == grpc_headers.refusal(grpc.StatusCode.NOT_FOUND, text, metadata)
        )
        return grpc_headers._cached_refusal.cache_info().currsize - before

    grpc_headers._cached_refusal.cache_clear()
    assert kept("full") == 1
    assert kept("full", (("retry", "5"),)) == 1
    assert kept("x" * grpc_headers.MAX_CACHED_CHARACTERS) == 1
    assert kept("x" * (grpc_headers.MAX_CACHED_CHARACTERS + 1)) == 0
    assert kept("full", (("detail-bin", bytes(grpc_headers.MAX_CACHED_CHARACTERS)),)) == 0
    for number in range(grpc_headers.CACHED_REFUSALS + 10):
        grpc_headers.refusal(grpc.StatusCode.NOT_FOUND, str(number), ())
    assert grpc_headers._cached_refusal.cache_info().currsize == grpc_headers.CACHED_REFUSALS
