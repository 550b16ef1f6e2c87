"""Batches and answers of the Open Inference Protocol over REST: JSON, and tensors as bytes behind it.

With the extension `binary_tensor_data` a body is JSON followed by the raw contents of the tensors, in the order in
which the JSON names them; the header `Inference-Header-Content-Length` says where the JSON ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, Final

import numpy as np

from batcher.errors import shown
from batcher.executor import ExecutionError, ParameterValue
from batcher.executors.remote.contents import raw_contents
from batcher.executors.remote.json_values import JsonError, dumps, from_json, loads, to_json
from batcher.executors.remote.rows import Answer, fault_of
from batcher.protocol.elements import MalformedTensorError, from_raw
from batcher.tensors import DTYPES, Array, TensorSpec

__all__ = ["JSON_LENGTH", "Bodies", "read_specs"]

JSON_LENGTH: Final = "Inference-Header-Content-Length"
"""The header that says how many bytes of a body are JSON; the rest are tensors."""

_SIZE: Final = "binary_data_size"

_LONGEST_AXIS: Final = 2**40
"""The longest axis of an output: far more than any answer has, and less than numpy refuses in its own way."""

_CHUNK: Final = 16_384
"""Elements that the JSON encoder writes at once, which is one step for the interpreter: 2 ms. Between two of
them other threads may run."""


class Bodies:
    """Writes the batches of one model and reads the answers to them."""

    def __init__(
        self,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        *,
        batched: bool,
        binary: bool,
    ) -> None:
        """`batched`: whether outputs have the rows first; `binary`: whether tensors are sent as bytes."""
        self._inputs = inputs
        self._outputs = outputs
        self._batched = batched
        self.binary = binary

    def body(
        self,
        inputs: Mapping[str, Array],
        wanted: frozenset[str] | None,
        parameters: Mapping[str, ParameterValue],
        number: str,
    ) -> tuple[bytes, int]:
        """The body of a batch with the id `number`, and how many bytes of it are JSON.

        As JSON it must be of values that JSON can carry (`json_rows`).
        """
        tensors, contents = [], []
        for name, array in inputs.items():
            datatype = self._inputs[name].datatype
            head = {"name": name, "shape": list(array.shape), "datatype": datatype}
            if self.binary:
                raw = raw_contents(array)
                contents.append(raw)
                tensors.append(dumps({**head, "parameters": {_SIZE: len(raw)}}))
            else:
                tensors.append(b'%b,"data":[%b]}' % (dumps(head)[:-1], _elements(array, datatype)))
        names = [name for name in self._outputs if wanted is None or name in wanted]
        parts = [b'{"id":%b,"inputs":[%b]' % (dumps(number), b",".join(tensors))]
        if self.binary or len(names) < len(self._outputs):
            extra = {"parameters": {"binary_data": True}} if self.binary else {}
            parts.append(b',"outputs":%b' % dumps([{"name": name, **extra} for name in names]))
        if parameters:
            parts.append(b',"parameters":%b' % dumps(dict(parameters)))
        head_bytes = b"".join((*parts, b"}"))
        return b"".join((head_bytes, *contents)), len(head_bytes)

    def answer(
        self,
        data: bytes,
        json_length: str | None,
        rows: int,
        wanted: frozenset[str] | None,
        number: str,
    ) -> Answer:
        """The outputs in the answer to the batch `number`; `json_length` is its header of that name.

        Raises `ExecutionError`.
        """
        try:
            length = _json_bytes(json_length, len(data))
            found = _answered(loads(data[:length]), number)
            return Answer(self._read(found, data, length, rows, wanted))
        except JsonError as error:
            raise ExecutionError(f"the server's answer is wrong: {error}") from None

    def _read(
        self, tensors: list[Any], data: bytes, offset: int, rows: int, wanted: frozenset[str] | None
    ) -> dict[str, Array]:
        outputs: dict[str, Array] = {}
        for tensor in tensors:
            if not isinstance(tensor, dict) or not isinstance(name := tensor.get("name"), str):
                raise JsonError("an output has no name")
            size = _binary_size(tensor, len(data) - offset)
            contents = None if size is None else (data, offset, size)
            offset += size or 0
            spec = self._outputs.get(name)
            if spec is None:
                continue  # the model has more than it said; it was not asked for
            if name in outputs:
                raise JsonError(f"output {shown(name)} is there twice")
            try:
                outputs[name] = self._tensor(tensor, spec, contents, rows)
            except (JsonError, MalformedTensorError) as error:
                raise JsonError(f"output {name!r}: {error}") from None
        if offset != len(data):
            raise JsonError(f"{len(data) - offset} bytes are left after its outputs")
        for name in self._outputs if wanted is None else wanted:
            if name not in outputs:
                raise JsonError(f"output {name!r} is missing")
        return outputs

    def _tensor(
        self,
        tensor: dict[str, Any],
        spec: TensorSpec,
        contents: tuple[bytes, int, int] | None,
        rows: int,
    ) -> Array:
        if tensor.get("datatype") != spec.datatype:
            raise JsonError(
                f"its datatype is {shown(str(tensor.get('datatype')))}, not {spec.datatype}"
            )
        shape = _shape(tensor.get("shape"))
        if contents is None:
            array = from_json(tensor.get("data"), spec.datatype)
            if array.size != prod(shape):
                raise JsonError(f"it has {array.size} elements for the shape {list(shape)}")
            array = array.reshape(shape)
        else:
            array = _aligned(from_raw(*contents, spec.datatype, shape, prod(shape)))
        fault = fault_of(array, spec, rows if self._batched else None)
        if fault:
            raise JsonError(fault)
        return array


def read_specs(found: Any, kind: str) -> tuple[TensorSpec, ...]:
    """The specs in a model's metadata; `kind` is `inputs` or `outputs`. Raises `JsonError`."""
    tensors = found.get(kind) if isinstance(found, dict) else None
    if tensors is None:
        return ()
    if not isinstance(tensors, list):
        raise JsonError(f"its {kind} are no list")
    specs = []
    for tensor in tensors:
        name = tensor.get("name") if isinstance(tensor, dict) else None
        if not isinstance(name, str) or not name:
            raise JsonError(f"one of its {kind} has no name")
        datatype = tensor.get("datatype")
        if datatype not in DTYPES:
            raise JsonError(f"the datatype of {shown(name)} is {shown(str(datatype))}")
        shape = tensor.get("shape")
        if not isinstance(shape, list) or not all(type(axis) is int for axis in shape):
            raise JsonError(f"the shape of {shown(name)} is no list of whole numbers")
        specs.append(TensorSpec(name, datatype, tuple(max(axis, -1) for axis in shape)))
    return tuple(specs)


def _answered(found: Any, number: str) -> list[Any]:
    """The outputs of an answer. Raises `JsonError`; `ExecutionError` if it says that it is an error."""
    if not isinstance(found, dict):
        raise JsonError("it is no object")
    if isinstance(found.get("error"), str):
        raise ExecutionError(f"the server answered an error: {found['error']}")
    if found.get("id") and found["id"] != number:
        raise JsonError("it is the answer to another request (its id)")
    tensors = found.get("outputs")
    if not isinstance(tensors, list):
        raise JsonError('it has no list "outputs"')
    return tensors


def _elements(array: Array, datatype: str) -> bytes:
    flat = array.reshape(-1)
    return b",".join(
        dumps(to_json(flat[start : start + _CHUNK], datatype, "text"))[1:-1]
        for start in range(0, len(flat), _CHUNK)
    )


def _json_bytes(header: str | None, size: int) -> int:
    if header is None:
        return size
    if not (header.isascii() and header.isdigit() and len(header) < 12 and int(header) <= size):
        raise JsonError(f"its header {JSON_LENGTH} is {shown(header)}, of {size} bytes")
    return int(header)


def _binary_size(tensor: dict[str, Any], left: int) -> int | None:
    parameters = tensor.get("parameters")
    size = parameters.get(_SIZE) if isinstance(parameters, dict) else None
    if size is None:
        return None
    if type(size) is not int or not 0 <= size <= left:
        raise JsonError(f"an output has {_SIZE} {shown(str(size))}, and {left} bytes are left")
    return size


def _shape(found: Any) -> tuple[int, ...]:
    if not isinstance(found, list) or not all(type(axis) is int and axis >= 0 for axis in found):
        raise JsonError("its shape is no list of whole numbers")
    if any(axis > _LONGEST_AXIS for axis in found):
        raise JsonError("its shape has an axis that is too long")
    return tuple(found)


def _aligned(array: Array) -> Array:
    return array if array.flags.aligned else np.array(array)
