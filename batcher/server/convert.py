"""Inference messages <-> our own types: pure functions, called once for each request.

    data --parse--> WireRequest --to_request--> InferenceRequest
    InferenceReply --response_parts--> the parts of data

A client's requests differ in their numbers far more than in their form, so what an input's or an
output's header says is remembered by its bytes, within limits, in both directions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias, TypeVar

import numpy as np
from google.protobuf.message import DecodeError

from batcher import triton
from batcher.errors import ExecutionFailed, InvalidRequest, RequestError, shown
from batcher.executor import ParameterValue
from batcher.protocol import inference
from batcher.runtime.execution.scatter import join
from batcher.runtime.request import InferenceReply, InferenceRequest
from batcher.server.classification import Classes, top_classes
from batcher.server.parameters import (
    RequestParameters,
    classification,
    read_parameters,
    refuse_shared_memory,
)
from batcher.server.raw import (
    MalformedTensorError,
    bytes_to_raw,
    from_raw,
    from_typed,
    to_raw,
)
from batcher.server.wire import WireRequest, check_input, encode_length, parse
from batcher.tensors import DTYPES, Array, Tensor

__all__ = [
    "WireRequest",
    "joined",
    "parse",
    "response_parts",
    "stream_error",
    "stream_parts",
    "takes_long",
    "to_request",
]

MAX_RANK = 32
"""Axes of one tensor; numpy 1 allows no more."""

REMEMBERED_HEADERS = 4096
"""Headers of inputs, and of requested outputs, remembered at most; then all are forgotten."""

REMEMBERED_HEADER_BYTES = 256
"""A longer header is read anew each time, so the memory held is bounded."""

LARGE_HEADER_BYTES = 64 * 1024
"""The fields of a longer input are counted before protobuf reads it."""

MAX_BYTES_ELEMENTS = 131_072
"""Elements of the BYTES inputs of one request, all together: each becomes an object of its own,
which takes a quarter of a microsecond."""

_MAX_TENSOR_BYTES = 2**63 - 1

T = TypeVar("T")

_NO_PARAMETERS = RequestParameters()


@dataclass(frozen=True, slots=True)
class _Header:
    """All that an input says beside its raw contents."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    elements: int
    contents: inference.InferTensorContents | None


_headers: dict[bytes, _Header] = {}
_requested: dict[bytes, tuple[str, int | None]] = {}


def to_request(
    wire: WireRequest,
    *,
    arrival_ns: int,
    deadline_ns: int | None = None,
    tenant: str = "",
    priority: int = 0,
) -> InferenceRequest:
    """What the request asks for. `priority` (from the metadata) gives way to a parameter.

    Arrays made from raw contents are read-only views of the message, not always aligned. Whether
    the model takes such inputs is decided at admission. Raises InvalidRequest, naming the model and
    the input, and NotSupported for shared memory.
    """
    model = wire.model
    if not model:
        raise InvalidRequest("the request names no model")
    parameters = _parameters(wire) if wire.parameters else _NO_PARAMETERS
    outputs: tuple[str, ...] | None = None
    classifications: dict[str, int] | None = None
    if wire.outputs:
        outputs, classifications = _requested_outputs(wire)
    return InferenceRequest(
        model=model,
        inputs=_inputs(wire),
        arrival_ns=arrival_ns,
        version=wire.version,
        id=wire.id,
        outputs=outputs,
        classifications=classifications,
        parameters=parameters.others or None,
        priority=parameters.priority or priority,
        timeout_ns=parameters.timeout_ns,
        deadline_ns=deadline_ns,
        tenant=tenant,
    )


def _inputs(wire: WireRequest) -> dict[str, Tensor]:
    raw = wire.raw
    inputs: dict[str, Tensor] = {}
    strings = 0
    if raw and len(raw) != len(wire.inputs):
        raise _wrong_count(wire)
    for index, chunk in enumerate(wire.inputs):
        # Looking up a long one would take longer than reading it.
        known = _headers.get(chunk) if len(chunk) <= REMEMBERED_HEADER_BYTES else None
        header = known or _read_header(chunk, wire.model)
        name = header.name
        if name in inputs:
            raise InvalidRequest(f"model {shown(wire.model)}: input {shown(name)} is given twice")
        if header.datatype == "BYTES":
            strings += header.elements
            if strings > MAX_BYTES_ELEMENTS:
                raise InvalidRequest(
                    f"model {shown(wire.model)}: input {shown(name)}: expected at most {MAX_BYTES_ELEMENTS}"
                    f" BYTES elements in one request, got {strings}"
                )
        try:
            array = _raw_input(wire.data, *raw[index], header) if raw else _typed_input(header)
        except MalformedTensorError as error:
            raise _malformed(error, wire, header) from error
        inputs[name] = Tensor(header.datatype, array)
    return inputs


def _malformed(error: MalformedTensorError, wire: WireRequest, header: _Header) -> InvalidRequest:
    if error.sizes is not None:
        text = triton.wrong_size(wire.model, header.name, *error.sizes)
    elif wire.raw and header.contents is not None:
        text = triton.contents_twice(wire.model, header.name)
    elif not wire.raw and header.contents is None:
        text = triton.no_contents(wire.model, header.name)
    else:
        text = None
    return InvalidRequest(
        f"model {shown(wire.model)}: input {shown(header.name)}: {error}", triton=text
    )


def _wrong_count(wire: WireRequest) -> RequestError:
    """Raw contents that are not one for each input; one in shared memory has none."""
    for chunk in wire.inputs:
        _read_header(chunk, wire.model)
    return InvalidRequest(
        f"model {shown(wire.model)}: expected raw contents for each of {len(wire.inputs)} inputs, "
        f"got {len(wire.raw)}"
    )


def _raw_input(data: bytes, offset: int, length: int, header: _Header) -> Array:
    if header.contents is not None:
        raise MalformedTensorError(
            "it has contents, and the request raw_input_contents; use only one"
        )
    return from_raw(data, offset, length, header.datatype, header.shape, header.elements)


def _typed_input(header: _Header) -> Array:
    contents = header.contents
    if contents is None:
        if header.elements:
            raise MalformedTensorError("it has no contents, and the request no raw_input_contents")
        contents = inference.InferTensorContents()
    return from_typed(contents, header.datatype, header.shape, header.elements)


def _read_header(chunk: bytes, model: str) -> _Header:
    """Read and check one serialized InferInputTensor, and remember it if it may come again."""
    if len(chunk) > LARGE_HEADER_BYTES:
        check_input(chunk)
    try:
        message = inference.ModelInferRequest.InferInputTensor.FromString(chunk)
    except DecodeError as error:
        raise InvalidRequest(
            f"model {shown(model)}: an input is not valid protobuf: {error}"
        ) from error
    name = message.name
    if not name:
        raise InvalidRequest(f"model {shown(model)}: an input has no name")
    where = f"model {shown(model)}: input {shown(name)}"
    datatype = message.datatype
    dtype = DTYPES.get(datatype)
    if dtype is None:
        raise InvalidRequest(
            f"{where}: expected a datatype of {', '.join(DTYPES)}, got {shown(datatype)}"
        )
    if message.parameters:
        refuse_shared_memory(message.parameters, where)
    if len(message.shape) > MAX_RANK:
        raise InvalidRequest(f"{where}: expected at most {MAX_RANK} axes, got {len(message.shape)}")
    shape = tuple(message.shape)
    _check_shape(shape, dtype.itemsize, where)
    # Some clients send an empty one beside raw contents.
    contents = message.contents if message.contents.ListFields() else None
    header = _Header(name, datatype, shape, math.prod(shape), contents)
    if contents is None:
        _remember(_headers, chunk, header)
    return header


def _check_shape(shape: tuple[int, ...], itemsize: int, where: str) -> None:
    if min(shape, default=0) < 0:
        raise InvalidRequest(f"{where}: expected a shape without negative axes, got {list(shape)}")
    # An axis of length 0 does not make the others harmless: numpy multiplies them all the same.
    if itemsize * math.prod(axis or 1 for axis in shape) > _MAX_TENSOR_BYTES:
        raise InvalidRequest(f"{where}: the shape {list(shape)} is larger than any memory")


def _parameters(wire: WireRequest) -> RequestParameters:
    try:
        message = inference.ModelInferRequest.FromString(b"".join(wire.parameters))
    except DecodeError as error:
        raise InvalidRequest(
            f"model {shown(wire.model)}: the parameters are not valid protobuf: {error}"
        ) from error
    return read_parameters(message.parameters, wire.model)


def _requested_outputs(wire: WireRequest) -> tuple[tuple[str, ...], dict[str, int] | None]:
    """The names of the requested outputs, and how many classes of which."""
    classes: dict[str, int | None] = {}
    for chunk in wire.outputs:
        name, count = _requested.get(chunk) or _read_requested_output(chunk, wire.model)
        if name in classes:
            raise InvalidRequest(
                f"model {shown(wire.model)}: output {shown(name)} is requested twice"
            )
        classes[name] = count
    asked = {name: count for name, count in classes.items() if count is not None}
    return tuple(classes), asked or None


def _read_requested_output(chunk: bytes, model: str) -> tuple[str, int | None]:
    """Read and check one serialized InferRequestedOutputTensor, and remember it."""
    try:
        message = inference.ModelInferRequest.InferRequestedOutputTensor.FromString(chunk)
    except DecodeError as error:
        raise InvalidRequest(
            f"model {shown(model)}: a requested output is not valid protobuf: {error}"
        ) from error
    if not message.name:
        raise InvalidRequest(f"model {shown(model)}: a requested output has no name")
    where = f"model {shown(model)}: output {shown(message.name)}"
    requested = (message.name, classification(message.parameters, where))
    _remember(_requested, chunk, requested)
    return requested


def _remember(memory: dict[bytes, T], chunk: bytes, value: T) -> None:
    if len(chunk) <= REMEMBERED_HEADER_BYTES:
        if len(memory) >= REMEMBERED_HEADERS:
            memory.clear()
        memory[chunk] = value


FINAL_RESPONSE = "triton_final_response"
"""The parameter of every answer on a stream: whether it is the last one of its request."""

LARGE_MESSAGE = 1024 * 1024
"""Bytes from which on a message is read, and an answer made, off the event loop."""

LARGE_STRINGS = 32 * 1024
"""The same for an answer's BYTES, in bytes of pointers: 4,096 elements take a millisecond."""

LARGE_CLASSIFIED = 65_536
"""The same for an output that is classified, in elements."""

POINTER = 8

_ID_TAG = b"\x1a"
_RAW_OUTPUT_CONTENTS_TAG = b"\x32"
_INFER_RESPONSE_TAG = b"\x12"


Part: TypeAlias = bytes | memoryview


def joined(parts: list[Part]) -> bytes | memoryview:
    """A large answer in one, for a thread beside the event loop.

    A join lets other threads run only where all parts are `bytes`; numpy does so for arrays.
    """
    if all(isinstance(part, bytes) for part in parts):
        return b"".join(parts)
    whole = np.empty(sum(map(len, parts)), np.uint8)
    view, at = whole.data, 0
    for part in parts:
        end = at + len(part)
        if isinstance(part, bytes):
            view[at:end] = part
        else:
            whole[at:end] = np.frombuffer(part, np.uint8)
        at = end
    return view


def response_parts(
    reply: InferenceReply, *, classifications: Mapping[str, Classes] | None = None
) -> list[Part]:
    """The serialized `ModelInferResponse`, tensors in `raw_output_contents`, as parts to join.

    `classifications` says which outputs are answered as BYTES, the highest values of each row
    first. Raises InvalidRequest where an output cannot be classified, and
    ExecutionFailed where the executor's BYTES are not bytes.
    """
    parts: list[Part] = [_response_head(reply.model, reply.version)]
    if reply.id:
        content = reply.id.encode()
        parts += (_ID_TAG, encode_length(len(content)), content)
    if reply.parameters:
        parts.append(_response_parameters(reply.parameters))
    raw: list[Part] = []
    outputs = join(reply.pieces) if reply.pieces else reply.outputs
    for name, tensor in outputs.items():
        datatype, array = tensor.datatype, tensor.array
        if classifications and name in classifications:
            where = f"model {shown(reply.model)}: output {shown(name)}"
            rows = array if reply.batched else array[np.newaxis]
            classes = top_classes(datatype, rows, classifications[name], where)
            array = classes if reply.batched else classes[0]
            datatype = "BYTES"
        parts.append(_output_header(name, datatype, array.shape))
        if datatype != "BYTES":
            elements = to_raw(array)
            raw += (_RAW_OUTPUT_CONTENTS_TAG, encode_length(len(elements)), elements)
            continue
        try:
            strings, nbytes = bytes_to_raw(array)
        except MalformedTensorError as error:
            raise ExecutionFailed(
                f"model {shown(reply.model)}: output {shown(name)}: {error}"
            ) from error
        raw += (_RAW_OUTPUT_CONTENTS_TAG, encode_length(nbytes), *strings)
    # Protobuf merges what is concatenated, so a message can be written in parts.
    return parts + raw


def takes_long(reply: InferenceReply, classifications: Mapping[str, Classes] | None) -> bool:
    """Whether making the parts of this answer takes more than a few milliseconds."""
    if reply.pieces:
        return True
    for tensor in reply.outputs.values():
        nbytes = tensor.array.nbytes
        if nbytes > LARGE_STRINGS and (nbytes > LARGE_MESSAGE or tensor.datatype == "BYTES"):
            return True
    for name, classes in classifications.items() if classifications else ():
        array = reply.outputs[name].array
        texts = (len(array) if reply.batched else 1) * classes.count
        if array.size > LARGE_CLASSIFIED or texts > LARGE_STRINGS // POINTER:
            return True
    return False


def stream_parts(parts: list[Part], nbytes: int) -> list[Part]:
    """The `ModelStreamInferResponse` around a `ModelInferResponse` of so many bytes.

    It says that this is the request's last answer, as clients of streams expect.
    """
    length = encode_length(nbytes + len(_FINAL_RESPONSE))
    return [_INFER_RESPONSE_TAG, length, *parts, _FINAL_RESPONSE]


def stream_error(message: str, *, request_id: str = "") -> bytes:
    """The serialized `ModelStreamInferResponse` that says what went wrong with which request."""
    response = inference.ModelStreamInferResponse(error_message=message)
    response.infer_response.id = request_id
    response.infer_response.parameters[FINAL_RESPONSE].bool_param = True
    return response.SerializeToString()


@lru_cache(maxsize=1024)
def _response_head(model: str, version: str) -> bytes:
    return inference.ModelInferResponse(model_name=model, model_version=version).SerializeToString()


@lru_cache(maxsize=4096)
def _output_header(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    output = inference.ModelInferResponse.InferOutputTensor(
        name=name, datatype=datatype, shape=shape
    )
    return inference.ModelInferResponse(outputs=[output]).SerializeToString()


def _response_parameters(parameters: Mapping[str, ParameterValue]) -> bytes:
    response = inference.ModelInferResponse()
    for name, value in parameters.items():
        parameter = response.parameters[name]
        if isinstance(value, bool):
            parameter.bool_param = value
        elif isinstance(value, str):
            parameter.string_param = value
        elif isinstance(value, float):
            parameter.double_param = value
        elif value < 2**63:
            parameter.int64_param = value
        else:
            parameter.uint64_param = value
    return response.SerializeToString()


_FINAL_RESPONSE = _response_parameters({FINAL_RESPONSE: True})

STREAM_WRAPPING = 6 + len(_FINAL_RESPONSE)
"""Bytes that a stream's message has around an answer, at most: a tag, the length, a parameter."""
