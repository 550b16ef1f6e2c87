"""An `InferenceReply` -> the bytes of its `ModelInferResponse`, as parts to join.

Tensors travel in `raw_output_contents`, views of the arrays where that is possible. The header of an
output is the same for most answers of a model, so it is made once.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from batcher.errors import ExecutionFailed, shown
from batcher.executor import ParameterValue
from batcher.protocol import inference
from batcher.protocol.elements import MalformedTensorError, bytes_to_raw, to_raw
from batcher.protocol.wire_format import encode_length, set_parameters
from batcher.runtime.execution.scatter import join
from batcher.runtime.request import InferenceReply
from batcher.server.messages.classification import Classes, top_classes
from batcher.server.messages.wire import LARGE_MESSAGE

FINAL_RESPONSE = "triton_final_response"
"""The parameter of every answer on a stream: whether it is the last one of its request."""

LARGE_STRINGS = 32 * 1024
"""BYTES of an answer from which it is made off the event loop, in bytes of pointers: 4,096 elements
take a millisecond."""

LARGE_CLASSIFIED = 65_536
"""The same for an output that is classified, in elements."""

POINTER = 8

_ID_TAG = b"\x1a"
_RAW_OUTPUT_CONTENTS_TAG = b"\x32"
_INFER_RESPONSE_TAG = b"\x12"


Part: TypeAlias = bytes | memoryview


def joined(parts: list[Part]) -> bytes | memoryview:
    """A large answer in one buffer; to be called on another thread than the event loop's.

    `bytes.join` releases the GIL only if all parts are `bytes`; otherwise numpy copies, which does.
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
    # Concatenated protobuf messages are one merged message, so it can be written in parts.
    return parts + raw


def takes_long(reply: InferenceReply, classifications: Mapping[str, Classes] | None) -> bool:
    """Whether making this answer takes more than a few milliseconds."""
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

    With the parameter that marks the last answer of its request, as clients of streams expect.
    """
    length = encode_length(nbytes + len(_FINAL_RESPONSE))
    return [_INFER_RESPONSE_TAG, length, *parts, _FINAL_RESPONSE]


def stream_error(message: str, *, request_id: str = "") -> bytes:
    """The serialized `ModelStreamInferResponse` with an error and the id of its request."""
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
    set_parameters(response.parameters, parameters)
    return response.SerializeToString()


_FINAL_RESPONSE = _response_parameters({FINAL_RESPONSE: True})

STREAM_WRAPPING = 6 + len(_FINAL_RESPONSE)
"""The most bytes that the message of a stream adds to an answer: a tag, the length, a parameter."""
