"""A `WireRequest` -> an `InferenceRequest`: names, shapes, parameters and tensors are checked here.

A client's requests differ in their numbers far more than in their form, so what the header of an
input or of a requested output says is remembered by its bytes, within limits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError

from batcher import triton
from batcher.errors import InvalidRequest, RequestError, shown
from batcher.protocol import inference
from batcher.protocol.elements import MalformedTensorError, from_raw, from_typed
from batcher.protocol.raw_tensor import RawTensor, encoded, read_raw
from batcher.runtime.request import InferenceRequest
from batcher.server.messages.parameters import (
    RequestParameters,
    classification,
    read_parameters,
    refuse_shared_memory,
)
from batcher.server.messages.wire import WireRequest, check_input
from batcher.tensors import DTYPES, Array, Tensor

MAX_RANK = 32
"""Axes of one tensor; numpy 1 allows no more."""

REMEMBERED_HEADERS = 4096
"""The most headers of inputs, and of requested outputs, that are remembered; then all are dropped."""

REMEMBERED_HEADER_BYTES = 256
"""A longer header is parsed each time, so that the memory is bounded."""

LARGE_HEADER_BYTES = 64 * 1024
"""The fields of a longer input are counted before protobuf parses it."""

MAX_BYTES_ELEMENTS = 131_072
"""The most elements of all BYTES inputs of one request: each becomes a Python object, which takes a
quarter of a microsecond."""

_MAX_TENSOR_BYTES = 2**63 - 1

T = TypeVar("T")

_NO_PARAMETERS = RequestParameters()


@dataclass(frozen=True, slots=True)
class _Header:
    """Everything in an `InferInputTensor` but raw contents."""

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
    metadata: Sequence[tuple[str, str | bytes]] = (),
    raw: bool = False,
    stream: bool = False,
) -> InferenceRequest:
    """The request as the runtime takes it. The parameter `priority` overrides `priority` (of the metadata).

    With `raw`, inputs stay as they are on the wire: its model's executor sends them on.

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
    # In the order of its fields: their names would take a fifth of a microsecond.
    return InferenceRequest(
        model,
        _inputs(wire, raw),
        arrival_ns,
        wire.version,
        wire.id,
        outputs,
        classifications,
        parameters.others or None,
        parameters.priority or priority,
        parameters.timeout_ns,
        deadline_ns,
        tenant,
        metadata,
        parameters.sequence,
        stream,
    )


def _inputs(wire: WireRequest, keep_raw: bool) -> dict[str, Tensor]:
    raw = wire.raw
    inputs: dict[str, Tensor] = {}
    strings = 0
    if raw and len(raw) != len(wire.inputs):
        raise _wrong_count(wire)
    for index, chunk in enumerate(wire.inputs):
        # Hashing a long header would take longer than parsing it.
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
            if keep_raw:
                inputs[name] = _kept(wire, index, header)
                continue
            array = _raw_input(wire.data, *raw[index], header) if raw else _typed_input(header)
        except MalformedTensorError as error:
            raise _malformed(error, wire, header) from error
        inputs[name] = Tensor(header.datatype, array)
    return inputs


def _kept(wire: WireRequest, index: int, header: _Header) -> RawTensor:
    """An input as it is on the wire; typed contents are encoded."""
    if not wire.raw:
        return encoded(header.datatype, _typed_input(header))
    if header.contents is not None:
        raise _two_kinds()
    offset, length = wire.raw[index]
    return read_raw(wire.data, offset, length, header.datatype, header.shape, header.elements)


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
        f"model {shown(wire.model)}: expected raw_input_contents for each of {len(wire.inputs)} inputs, "
        f"got {len(wire.raw)}"
    )


def _two_kinds() -> MalformedTensorError:
    return MalformedTensorError(
        "the input has contents and the request has raw_input_contents; send only one of them"
    )


def _raw_input(data: bytes, offset: int, length: int, header: _Header) -> Array:
    if header.contents is not None:
        raise _two_kinds()
    return from_raw(data, offset, length, header.datatype, header.shape, header.elements)


def _typed_input(header: _Header) -> Array:
    contents = header.contents
    if contents is None:
        if header.elements:
            raise MalformedTensorError(
                "the input has no contents and the request has no raw_input_contents; send one of them"
            )
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
    # Some clients send empty contents together with raw_input_contents.
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
        raise InvalidRequest(f"{where}: the shape {list(shape)} is too large for any memory")


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
