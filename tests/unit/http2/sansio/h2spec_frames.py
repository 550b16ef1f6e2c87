"""Frames that the cases of h2spec send, and what is expected of them."""

from dataclasses import dataclass

from hpack import Encoder
from raw_http2 import numbers, opening

from batcher.http2.sansio.frames import (
    ACK,
    DEFAULT_FRAME_SIZE,
    END_HEADERS,
    END_STREAM,
    PRIORITY,
    Error,
    Frame,
    frame,
)
from batcher.http2.sansio.hpack import encode
from batcher.http2.sansio.streams import Limits

LIMITS = Limits(max_streams=10, max_headers=16_384, stream_window=2**17)
FIELDS = ((":method", "POST"), (":scheme", "http"), (":path", "/s/M"), (":authority", "a:1"))
REQUEST = encode(FIELDS)
MORE = encode([("x-dummy0", "v" * 1000)])
PING = frame(Frame.PING, 0, 0, b"h2-rules")
BODY = b"answer"


@dataclass
class Connections:
    """The connection ends with one of these errors."""

    errors: tuple[Error, ...]


@dataclass
class Streams:
    """A stream is reset."""

    number: int
    error: Error


@dataclass
class Written:
    """Frames are among those that are written: type, flags, stream, and maybe payload."""

    frames: tuple


def ends(*errors):
    return Connections(errors)


def resets(number, error=Error.PROTOCOL_ERROR):
    return Streams(number, error)


def answers(*numbers_of):
    return Written(
        tuple((Frame.HEADERS, END_HEADERS | END_STREAM, number) for number in numbers_of)
    )


PONG = Written(((Frame.PING, ACK, 0, b"h2-rules"),))
PROTOCOL = ends(Error.PROTOCOL_ERROR)
COMPRESSION = ends(Error.COMPRESSION_ERROR)
SIZE = ends(Error.FRAME_SIZE_ERROR)
FLOW = ends(Error.FLOW_CONTROL_ERROR)


def request(number=1, flags=END_STREAM, *, more=b"", block=REQUEST):
    return opening(number, flags, block + more)


def part(number, block, flags=0):
    return frame(Frame.CONTINUATION, flags, number, block)


def priority(number, depends=0, weight=255):
    return frame(Frame.PRIORITY, 0, number, numbers(depends) + bytes([weight]))


def weighted(number, depends):
    payload = numbers(depends) + b"\xff" + REQUEST
    return frame(Frame.HEADERS, END_HEADERS | END_STREAM | PRIORITY, number, payload)


def fields(*changed):
    """A request whose fields, given as (name, value), stand for those of that name, or are added."""
    named = dict(changed)
    first = [(name, named.pop(name, value)) for name, value in FIELDS]
    kept = [each for each in first if each[1] is not None]
    return request(block=encode([*kept, *named.items()]))


def literal(first, name=b"", value=b"v"):
    text = bytes([len(name)]) + name if name else b""
    return first + text + bytes([len(value)]) + value


def huffman(first, name=None, value="v"):
    """A field in Huffman's code, which is named by the first byte or by itself."""
    block = Encoder().encode([(name or "x", value, True)], huffman=True)
    return first + block[1 if name else 3 :]


UNKNOWN = frame(0xFF, 0xFF, 0, b"unknown!")
OVERSIZED = bytes(DEFAULT_FRAME_SIZE + 1)
NOTHING = b""
