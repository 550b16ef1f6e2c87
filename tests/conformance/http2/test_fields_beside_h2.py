"""`h2` and this server find the same requests malformed, but for rules that only one of them has."""

import re

import pytest
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.http2.sansio.fields import MalformedRequestError, check_trailers, read_request
from batcher.http2.sansio.frames import END_HEADERS, END_STREAM, PREFACE, Frame, frame
from batcher.http2.sansio.hpack import HeaderDecoder

connection_of_h2 = pytest.importorskip("h2.connection")
config = pytest.importorskip("h2.config")
exceptions = pytest.importorskip("h2.exceptions")

pytestmark = pytest.mark.conformance

REQUEST = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/s/M"),
    (b":authority", b"a:1"),
)
MOST = 16_384

ONLY_OURS = {
    # Control characters (RFC 9110, section 5.5), and names that are no token (section 5.1).
    rb":?[^:]*": re.compile(rb"[^\x01-\x08\x0b\x0c\x0e-\x1f\x7f]*", re.DOTALL),
    rb":method": re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"),
    rb":scheme": re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*"),
    rb":authority": re.compile(rb"[^ \t@]*"),
    rb":path": re.compile(rb"[^ \t]+"),
    rb"content-length": re.compile(rb"[0-9]{1,19}"),
}
TOKEN = re.compile(rb":?[!#$%&'*+\-.^_`|~0-9a-z]+")


def only_we_refuse(headers):
    lengths = {value for name, value in headers if name == b"content-length"}
    return (
        len(lengths) > 1
        or (b":method", b"CONNECT") in headers
        or any(not TOKEN.fullmatch(name) for name, _ in headers)
        or any(
            re.fullmatch(names, name) and not rule.fullmatch(value)
            for name, value in headers
            for names, rule in ONLY_OURS.items()
        )
    )


def only_they_refuse(headers):
    """This server needs no `:authority`, and compares it with `host` without case."""
    named = dict(headers)
    authority, host = named.get(b":authority"), named.get(b"host")
    if authority is None or host is None:
        return authority is None and host is None
    return authority != host and authority.lower() == host.lower()


names = st.sampled_from(
    [
        *(name for name, _ in REQUEST),
        *(b"te", b"host", b"content-length", b"connection", b"upgrade", b"x", b"X", b":status"),
        *(b":unknown", b":protocol", b"grpc-timeout", b"transfer-encoding", b"keep-alive"),
    ]
) | st.binary(max_size=4)
values = st.sampled_from(
    [b"", b"trailers", b"a:1", b"A:1", b"POST", b"CONNECT", b"1", b"2", b" ", b"\t", b"v\n", b"v\0"]
) | st.binary(max_size=4)
extra = st.tuples(names, values)


@st.composite
def requests(draw):
    """A valid request, and some changes to it."""
    listed = list(REQUEST)
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(listed)))
        what = draw(st.sampled_from(["add", "add", "drop", "swap"]))
        if what == "add":
            listed.insert(place, draw(extra))
        elif what == "drop":
            del listed[place : place + 1]
        elif listed:
            listed.append(listed.pop(place % len(listed)))
    return listed


def theirs():
    found = connection_of_h2.H2Connection(
        config.H2Configuration(client_side=False, header_encoding=None)
    )
    found.initiate_connection()
    found.receive_data(PREFACE + frame(Frame.SETTINGS, 0, 0))
    return found


def is_malformed(connection, *frames):
    try:
        connection.receive_data(b"".join(frames))
    except exceptions.ProtocolError:
        return True
    return False


@settings(max_examples=1500, deadline=None)
@given(requests())
def test_requests(headers):
    block = Encoder().encode(headers)
    they_refuse = is_malformed(theirs(), frame(Frame.HEADERS, END_HEADERS, 1, block))
    try:
        read_request(HeaderDecoder(MOST, MOST).decode(block), MOST)
    except MalformedRequestError:
        assert they_refuse or only_we_refuse(headers)
    else:
        assert not they_refuse or only_they_refuse(headers)


@settings(max_examples=1000, deadline=None)
@given(st.lists(extra, min_size=1, max_size=3))
def test_trailers(headers):
    encoder, connection = Encoder(), theirs()
    first, block = encoder.encode(REQUEST), Encoder().encode(headers)
    assert not is_malformed(connection, frame(Frame.HEADERS, END_HEADERS, 1, first))
    last = frame(Frame.HEADERS, END_HEADERS | END_STREAM, 1, block)
    they_refuse = is_malformed(connection, last)
    try:
        check_trailers(HeaderDecoder(MOST, MOST).decode(block))
    except MalformedRequestError:
        assert they_refuse or only_we_refuse(headers)
    else:
        assert not they_refuse
