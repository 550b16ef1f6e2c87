"""Writes the `ModelInferRequest` of a batch from the bytes of its requests, without reading a tensor.

The message is a list of pieces, joined once: a head that is always the same, a header for each input
that is the same for each shape, and the raw contents as they came from the callers.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np

from batcher.executor import ParameterValue
from batcher.protocol import inference
from batcher.protocol.wire_format import encode_length, set_parameters

Piece: TypeAlias = bytes | memoryview

LARGE_MESSAGE: Final = 1024 * 1024
"""Bytes from which on a message is joined, and an answer read, off the event loop."""

RAW_TAG: Final = b"\x3a"
"""Field 7 of ModelInferRequest, raw_input_contents."""


Place: TypeAlias = tuple[int, int]
"""Where a tensor is in a region of shared memory: offset and bytes."""


class RequestWriter:
    """Writes the requests for one model of the neighbor."""

    def __init__(self, model: str, version: str) -> None:
        self._head = inference.ModelInferRequest(
            model_name=model, model_version=version
        ).SerializeToString()
        self._parameters: tuple[tuple[tuple[str, ParameterValue], ...], bytes] = ((), b"")
        self._outputs: dict[frozenset[str], bytes] = {}

    def pieces(
        self,
        inputs: Iterable[tuple[str, str, tuple[int, ...], Sequence[Piece]]],
        outputs: frozenset[str],
        parameters: Mapping[str, ParameterValue],
    ) -> list[Piece]:
        """The pieces of the message.

        `inputs` are (name, datatype, shape, contents in pieces). `outputs` are the names of those that
        are asked for.
        """
        whole: list[Piece] = [self._head]
        if parameters:
            whole.append(self._written(parameters))
        raw: list[Piece] = []
        for name, datatype, shape, contents in inputs:
            whole.append(input_header(name, datatype, shape))
            raw.append(RAW_TAG)
            raw.append(encode_length(sum(map(nbytes, contents))))
            raw += contents
        whole.append(self._requested(outputs))
        whole += raw
        return whole

    def in_memory(
        self,
        inputs: Iterable[tuple[str, str, tuple[int, ...]]],
        outputs: frozenset[str],
        parameters: Mapping[str, ParameterValue],
        region: str,
        places: tuple[Mapping[str, Place], Mapping[str, Place]],
    ) -> bytes:
        """The message of a batch whose inputs, and some outputs, are in a region of shared memory.

        `inputs` are (name, datatype, shape); `places` are where they and the outputs are.
        """
        request = inference.ModelInferRequest()
        for name, datatype, shape in inputs:
            tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
            _refer(tensor.parameters, region, places[0][name])
        for name in sorted(outputs):
            output = request.outputs.add(name=name)
            if name in places[1]:
                _refer(output.parameters, region, places[1][name])
        whole = [self._head, request.SerializeToString()]
        if parameters:
            whole.append(self._written(parameters))
        return b"".join(whole)

    def _written(self, parameters: Mapping[str, ParameterValue]) -> bytes:
        key = tuple(parameters.items())
        if key != self._parameters[0]:
            self._parameters = key, parameters_of(parameters)
        return self._parameters[1]

    def _requested(self, outputs: frozenset[str]) -> bytes:
        written = self._outputs.get(outputs)
        if written is None:
            request = inference.ModelInferRequest()
            for name in sorted(outputs):
                request.outputs.add(name=name)
            written = request.SerializeToString()
            if len(self._outputs) < 256:  # callers choose among the model's own outputs
                self._outputs[outputs] = written
        return written


def _refer(
    parameters: MutableMapping[str, inference.InferParameter], region: str, place: Place
) -> None:
    parameters["shared_memory_region"].string_param = region
    parameters["shared_memory_offset"].int64_param = place[0]
    parameters["shared_memory_byte_size"].int64_param = place[1]


def nbytes(piece: Piece) -> int:
    """The bytes of a piece, whatever a view's items are."""
    return len(piece) if isinstance(piece, bytes) else piece.nbytes


def message_bytes(pieces: Sequence[Piece]) -> int:
    """The bytes of the message."""
    return sum(map(nbytes, pieces))


def joined(pieces: Sequence[Piece]) -> bytes:
    """The message. For a large one call `joined_large` on another thread."""
    return b"".join(pieces)


def joined_large(pieces: Sequence[Piece]) -> bytes:
    """The message, copied without the interpreter lock; to be called on another thread."""
    size = message_bytes(pieces)
    whole = io.BytesIO()
    whole.seek(size - 1)
    whole.write(b"\0")
    with whole.getbuffer() as view:
        target = np.frombuffer(view, np.uint8)
        at = 0
        for piece in pieces:
            end = at + nbytes(piece)
            target[at:end] = np.frombuffer(piece, np.uint8)
            at = end
        del target
    return whole.getvalue()


@lru_cache(maxsize=4096)
def input_header(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    """The field `inputs` for an input whose contents are raw."""
    tensor = inference.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
    return inference.ModelInferRequest(inputs=[tensor]).SerializeToString()


def parameters_of(parameters: Mapping[str, ParameterValue]) -> bytes:
    """The field `parameters` with these values."""
    request = inference.ModelInferRequest()
    set_parameters(request.parameters, parameters)
    return request.SerializeToString()
