"""The outermost layer of a `ModelInferRequest`, read without copying its tensors.

Protobuf's Python runtime copies every bytes field when it parses a message and once more at each
access; at 85 microseconds per MiB each, that would be most of the work on a large request. The
outermost layer is only a row of length-delimited fields, so `parse` walks it here and notes where
the raw tensors lie. All that is nested is left to protobuf, in `convert`.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from batcher.errors import InvalidRequest
from batcher.protocol import inference

_MODEL_NAME = 0x0A
_MODEL_VERSION = 0x12
_ID = 0x1A
_PARAMETERS = 0x22
_INPUTS = 0x2A
_OUTPUTS = 0x32
_RAW_INPUT_CONTENTS = 0x3A
"""Field number and wire type of the seven fields, as the byte that precedes each of them."""

_MAX_VARINT_BYTES = 5


@dataclass(slots=True)
class WireRequest:
    """A request's outermost fields. Nested messages are still serialized.

    `raw` holds (offset, length) of each raw tensor in `data`. `parameters` holds the map's entries
    with their tags, so that their concatenation is a request with these parameters alone.
    """

    data: bytes
    model: str
    version: str
    id: str
    parameters: list[bytes]
    inputs: list[bytes]
    outputs: list[bytes]
    raw: list[tuple[int, int]]


class _UnusualError(Exception):
    """The message is not simply a row of the seven fields: protobuf shall look at it."""


def parse(data: bytes) -> WireRequest:
    """Read a serialized `ModelInferRequest`.

    Raises InvalidRequest where protobuf itself would refuse it. What is nested (inputs, outputs,
    parameters) is checked by `convert.to_request`, the next call.
    """
    try:
        return _walk(data)
    except (_UnusualError, UnicodeDecodeError):
        return _walk(_canonical(data))


def encode_length(value: int) -> bytes:
    """The length as protobuf writes it: seven bits a byte, the low ones first."""
    if value < 0x80:
        return value.to_bytes(1, "little")
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _walk(data: bytes) -> WireRequest:
    model = version = request_id = ""
    parameters: list[bytes] = []
    inputs: list[bytes] = []
    outputs: list[bytes] = []
    raw: list[tuple[int, int]] = []
    position, end = 0, len(data)
    while position < end:
        tag = data[position]
        start = position
        position += 1
        if position == end:
            raise _UnusualError
        length = data[position]
        position += 1
        if length >= 0x80:
            length, position = _long_length(data, position, length)
        stop = position + length
        if stop > end:
            raise _UnusualError
        if tag == _RAW_INPUT_CONTENTS:
            raw.append((position, length))
        elif tag == _INPUTS:
            inputs.append(data[position:stop])
        elif tag == _OUTPUTS:
            outputs.append(data[position:stop])
        elif tag == _ID:
            request_id = data[position:stop].decode()
        elif tag == _MODEL_NAME:
            model = data[position:stop].decode()
        elif tag == _MODEL_VERSION:
            version = data[position:stop].decode()
        elif tag == _PARAMETERS:
            parameters.append(data[start:stop])
        else:
            raise _UnusualError
        position = stop
    return WireRequest(data, model, version, request_id, parameters, inputs, outputs, raw)


def _long_length(data: bytes, position: int, first: int) -> tuple[int, int]:
    """The length whose first byte is `first`, and the position behind it."""
    length = first & 0x7F
    for index in range(1, _MAX_VARINT_BYTES):
        if position == len(data):
            raise _UnusualError
        byte = data[position]
        position += 1
        length |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return length, position
    raise _UnusualError


def _canonical(data: bytes) -> bytes:
    """The same request without unknown fields, as protobuf writes it; the last word on validity."""
    try:
        message = inference.ModelInferRequest.FromString(data)
    except DecodeError as error:
        raise InvalidRequest(
            f"the request ({len(data)} bytes) is not a valid ModelInferRequest: {error}"
        ) from error
    message.DiscardUnknownFields()
    return message.SerializeToString()
