"""The outermost fields of a `ModelInferRequest`, parsed without copying its tensors.

Protobuf's Python runtime copies every bytes field when it parses a message and once more at each
access; at 85 microseconds per MiB each, that would be most of the time of a large request. The
outermost fields are all length-delimited, so `parse` walks them here and notes the positions of the raw
tensors. Nested messages are left to protobuf, in `requests`.

The time that a caller can make this and the next step take is bounded: by the number of fields, the
bytes of nested messages, and the length of texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from batcher.errors import InvalidRequest
from batcher.protocol.wire_format import encode_length

LARGE_MESSAGE: Final = 1024 * 1024
"""Bytes from which on a message is read, and an answer made, off the event loop."""

MAX_FIELDS: Final = 4096
"""The most outermost fields of a request: inputs, outputs, raw contents and parameters together. Each
takes half a microsecond here and up to four later; no model needs half as many."""

MAX_NESTED: Final = 4 * 1024**2
"""The most bytes of one input, and of all inputs of a request, without raw contents: names, shapes and
typed contents. Protobuf parses them in one go, 1 to 4 ns a byte, while nothing else can run."""

MAX_TEXT: Final = 4096
"""The most bytes of the model's name, its version and the request's id, each: answers repeat them."""

MAX_PARAMETERS: Final = 64 * 1024
"""The most bytes of a request's parameters, and of its requested outputs: they are kept with the request
in the scheduler and in the event log."""

_MODEL_NAME = 0x0A
_MODEL_VERSION = 0x12
_ID = 0x1A
_PARAMETERS = 0x22
_INPUTS = 0x2A
_OUTPUTS = 0x32
_RAW_INPUT_CONTENTS = 0x3A
"""Field number and wire type of the seven fields, as the byte that precedes each of them."""

_LONGEST = {
    _MODEL_NAME: ("the model's name", MAX_TEXT),
    _MODEL_VERSION: ("the model's version", MAX_TEXT),
    _ID: ("the id", MAX_TEXT),
    _PARAMETERS: ("a parameter", MAX_PARAMETERS),
    _OUTPUTS: ("a requested output", MAX_PARAMETERS),
}

_KNOWN = frozenset((*_LONGEST, _INPUTS, _RAW_INPUT_CONTENTS))

_MAX_VARINT_BYTES = 5
_MAX_GROUP_DEPTH = 100


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
    """The message has unknown fields or unusual encodings: it is parsed again, slowly."""


_NOT_PLAIN = (_UnusualError, UnicodeDecodeError, IndexError)


def parse(data: bytes) -> WireRequest:
    """Read a serialized `ModelInferRequest`.

    Raises InvalidRequest where protobuf itself would refuse it, and beyond this module's bounds.
    What is nested (inputs, outputs, parameters) is checked by `to_request`, the next call.
    """
    try:
        request = _walk(data)
    except _NOT_PLAIN:
        try:
            request = _walk(_plain(data))
        except _NOT_PLAIN as error:
            raise InvalidRequest(
                f"the request ({len(data)} bytes) is not a valid ModelInferRequest"
            ) from error
    for texts, what in ((request.parameters, "parameters"), (request.outputs, "requested outputs")):
        if texts and (nbytes := sum(map(len, texts))) > MAX_PARAMETERS:
            raise InvalidRequest(
                f"the {what} of one request may take at most {MAX_PARAMETERS} bytes, got {nbytes}"
            )
    if len(data) > MAX_NESTED and (nbytes := sum(map(len, request.inputs))) > MAX_NESTED:
        raise _too_much_nested(nbytes)
    return request


def check_input(data: bytes) -> None:
    """Count the fields of a large serialized input before protobuf parses it in one go.

    Raises InvalidRequest if there are more than `MAX_FIELDS`, or the input is truncated.
    """
    position = 0
    try:
        for _ in range(MAX_FIELDS):
            if position == len(data):
                return
            tag, position = _varint(data, position, _MAX_VARINT_BYTES)
            position = _skip(data, position, tag)
    except _UnusualError as error:
        raise InvalidRequest(f"an input ({len(data)} bytes) is not valid protobuf") from error
    raise InvalidRequest(f"an input may have at most {MAX_FIELDS} fields and parameters, got more")


def _walk(data: bytes) -> WireRequest:  # noqa: C901, PLR0912 - on the path of every request
    model = version = request_id = ""
    parameters: list[bytes] = []
    inputs: list[bytes] = []
    outputs: list[bytes] = []
    raw: list[tuple[int, int]] = []
    position, end = 0, len(data)
    for _ in range(MAX_FIELDS):
        if position == end:
            break
        tag = data[position]
        start = position
        length = data[position + 1]
        position += 2
        if length >= 0x80:
            length, position = _long_length(data, position, length)
            if position + length <= end:
                _check_length(tag, length)
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
    if position < end:
        raise _too_many_fields()
    return WireRequest(data, model, version, request_id, parameters, inputs, outputs, raw)


def _check_length(tag: int, length: int) -> None:
    """Raises InvalidRequest for a field that is longer than any of its kind may be."""
    if tag == _INPUTS and length > MAX_NESTED:
        raise _too_much_nested(length)
    what, most = _LONGEST.get(tag, ("", length))
    if length > most:
        raise InvalidRequest(f"{what} may take at most {most} bytes, got {length}")


def _too_much_nested(nbytes: int) -> InvalidRequest:
    return InvalidRequest(
        f"the inputs of one request may take at most {MAX_NESTED} bytes besides raw_input_contents,"
        f" got {nbytes}; send larger tensors in raw_input_contents"
    )


def _too_many_fields() -> InvalidRequest:
    return InvalidRequest(
        f"one request may have at most {MAX_FIELDS} inputs, outputs, raw contents and parameters together,"
        " got more"
    )


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


def _plain(data: bytes) -> bytes:
    """The same request in the form that `_walk` takes: only known fields, tags and lengths minimal.

    Raises `_UnusualError` if it is not a valid message.
    """
    kept: list[bytes | memoryview] = []
    view = memoryview(data)
    position = 0
    for _ in range(MAX_FIELDS):
        if position == len(data):
            break
        tag, position = _varint(data, position, _MAX_VARINT_BYTES)
        if tag in _KNOWN:
            length, position = _varint(data, position)
            stop = _within(data, position + length)
            kept += (tag.to_bytes(1, "little"), encode_length(length), view[position:stop])
            position = stop
        else:
            position = _skip(data, position, tag)
    if position < len(data):
        raise _too_many_fields()
    return b"".join(kept)


def _skip(data: bytes, position: int, tag: int, depth: int = 0) -> int:
    """The position behind an unknown field whose value begins at `position`."""
    if tag < 8 or tag >= 2**32 or depth > _MAX_GROUP_DEPTH:
        raise _UnusualError
    match tag & 7:
        case 0:
            return _varint(data, position)[1]
        case 1:
            return _within(data, position + 8)
        case 2:
            length, position = _varint(data, position)
            return _within(data, position + length)
        case 3:
            start = position
            while position - start <= MAX_TEXT:
                inner, position = _varint(data, position, _MAX_VARINT_BYTES)
                if inner == tag + 1:
                    return position
                position = _skip(data, position, inner, depth + 1)
            raise InvalidRequest(
                f"an unknown group of fields may take at most {MAX_TEXT} bytes, got more"
            )
        case 5:
            return _within(data, position + 4)
        case _:
            raise _UnusualError


def _varint(data: bytes, position: int, most: int = 10) -> tuple[int, int]:
    """The number that begins at `position`, and the position behind it."""
    value = 0
    for index in range(most):
        if position >= len(data):
            raise _UnusualError
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value & (2**64 - 1), position
    raise _UnusualError


def _within(data: bytes, position: int) -> int:
    if position > len(data):
        raise _UnusualError
    return position
