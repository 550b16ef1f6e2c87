"""Frames of HTTP/2 (RFC 9113, sections 4 and 6): types, numbers, encoding, errors."""

from __future__ import annotations

import struct
from enum import IntEnum


class Frame(IntEnum):
    """Types of frames."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Setting(IntEnum):
    """Identifiers of settings."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Error(IntEnum):
    """Error codes of RST_STREAM and GOAWAY."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class ConnectionFailedError(Exception):
    """The client broke a rule of the connection, which ends with this error code and text.

    The text goes to the client and to the log. It says what was wrong and what is allowed, and holds
    no bytes that the client sent other than numbers of the protocol.
    """

    def __init__(self, error: Error, text: str) -> None:
        super().__init__(text)
        self.error = error


ACK = END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY = 0x20

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DEFAULT_WINDOW = 65_535
"""Bytes that each side may send, on the connection and on a stream, until the other says otherwise."""
MAX_WINDOW = 2**31 - 1
DEFAULT_FRAME_SIZE = 16_384
"""The largest payload that every peer takes, and the largest that this server takes."""
MAX_FRAME_SIZE = 2**24 - 1

FRAME_HEADER = struct.Struct(">BHBBI")
"""A frame's header: length (high 8 bits, low 16), type, flags, stream."""
SETTING = struct.Struct(">HI")
"""One setting: identifier, value."""


def frame(kind: Frame, flags: int, stream: int, payload: bytes | memoryview = b"") -> bytes:
    """Encode one frame."""
    size = len(payload)
    return FRAME_HEADER.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def number(payload: bytes) -> int:
    """Decode a 31-bit number; the reserved bit is ignored."""
    return int.from_bytes(payload, "big") & MAX_WINDOW


def unpadded(flags: int, payload: bytes) -> bytes:
    """The payload without padding, where `flags` say that it has some. Raises `ConnectionFailedError`."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFailedError(Error.PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - payload[0]]


def expect_size(kind: Frame, payload: bytes, size: int) -> None:
    """Raise `ConnectionFailedError` where a frame's payload does not have that many bytes."""
    if len(payload) != size:
        raise ConnectionFailedError(
            Error.FRAME_SIZE_ERROR, f"{kind.name} of {len(payload)} bytes; {size} expected"
        )
