"""Frames of HTTP/2 (RFC 9113, sections 4 and 6): names, numbers, bytes."""

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
    """Names of settings."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Error(IntEnum):
    """Why a stream or a connection ends."""

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
    """The client broke the rules of the connection."""

    def __init__(self, error: Error, text: str) -> None:
        super().__init__(text)
        self.error = error


ACK = END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY = 0x20

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FIRST_WINDOW = 65_535
"""What each side may send, to the connection and to a stream, before it is told otherwise."""
LARGEST_WINDOW = 2**31 - 1
LEAST_FRAME_SIZE = 16_384
"""The payload that every peer takes, and the largest we take."""
LARGEST_FRAME_SIZE = 2**24 - 1

HEAD = struct.Struct(">BHBBI")
"""Length (high 8 bits, low 16), type, flags, stream."""
SETTING = struct.Struct(">HI")


def frame(kind: Frame, flags: int, stream: int, payload: bytes | memoryview = b"") -> bytes:
    """The bytes of one frame."""
    size = len(payload)
    return HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def number(payload: bytes) -> int:
    """A payload's 31-bit number, the reserved bit left out."""
    return int.from_bytes(payload, "big") & LARGEST_WINDOW
