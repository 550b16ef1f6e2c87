"""The bytes of calls, and what their answers say.

| `send` | `encoding` | a call holds | its answer is |
|---|---|---|---|
| `batch` | `safetensors` | `data`: all inputs | all outputs; `__metadata__.row_errors`: JSON, row -> why it failed |
| `batch` | `json` | `data`: `{"instances": [...]}` | `{"predictions": [...]}` |
| `rows` | `raw` | each input by its name: the row's elements; one of BYTES as it is | the output's elements, or its bytes as they are |
| `rows` | `json` | each input by its name: the row's value | the output's value, or an object of values by name |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, Protocol

import numpy as np

from batcher.errors import on_one_line
from batcher.executor import ExecutionError
from batcher.executors.remote.contents import raw_contents
from batcher.executors.remote.instances import Instances
from batcher.executors.remote.json_values import BytesStyle, JsonError, dumps, loads, to_json
from batcher.executors.remote.rows import Answer, fault_of
from batcher.executors.torchserve import safetensors
from batcher.protocol.elements import MalformedTensorError, from_raw
from batcher.tensors import DTYPES, Array, TensorSpec

__all__ = ["FIELD", "Calls", "JsonRows", "RawRows", "SafetensorsBatch", "WholeJson"]

FIELD: Final = "data"
"""The field of a call that holds a whole batch: TorchServe's own handlers and envelopes read it."""

_ROW_ERRORS: Final = "row_errors"

Specs = Mapping[str, TensorSpec]


class Calls(Protocol):
    """One way to send a batch."""

    def write(self, inputs: Mapping[str, Array], rows: int) -> list[dict[str, bytes]]:
        """The fields of each call of a batch: of one call, or of one for each row."""
        ...

    def read(self, answers: list[bytes], rows: int, wanted: frozenset[str] | None) -> Answer:
        """The outputs in the answers to these calls. Raises `ExecutionError`."""
        ...


class SafetensorsBatch:
    """A batch is one call, in the format safetensors."""

    def __init__(self, inputs: Specs, outputs: Specs, *, batched: bool) -> None:
        self._inputs, self._outputs, self._batched = inputs, outputs, batched

    def write(self, inputs: Mapping[str, Array], rows: int) -> list[dict[str, bytes]]:
        """One call."""
        del rows
        tensors = {name: (self._inputs[name].datatype, array) for name, array in inputs.items()}
        return [{FIELD: safetensors.save(tensors)}]

    def read(self, answers: list[bytes], rows: int, wanted: frozenset[str] | None) -> Answer:
        """The wanted outputs."""
        names = self._outputs.keys() if wanted is None else wanted
        datatypes = {name: self._outputs[name].datatype for name in names}
        try:
            outputs, metadata = safetensors.load(answers[0], datatypes)
        except safetensors.FormatError as error:
            raise _wrong(str(error)) from None
        for name, array in outputs.items():
            fault = fault_of(array, self._outputs[name], rows if self._batched else None)
            if fault:
                raise _wrong(f"output {name!r}: {fault}")
        return Answer(outputs, _row_errors(metadata.get(_ROW_ERRORS), rows))


class WholeJson:
    """A batch is one call, as the JSON of KServe's protocol, version 1."""

    def __init__(self, instances: Instances) -> None:
        self._instances = instances

    def write(self, inputs: Mapping[str, Array], rows: int) -> list[dict[str, bytes]]:
        """One call."""
        return [{FIELD: self._instances.body(inputs, rows)}]

    def read(self, answers: list[bytes], rows: int, wanted: frozenset[str] | None) -> Answer:
        """All outputs."""
        del wanted
        return self._instances.answer(answers[0], rows)


class RawRows:
    """Each row is one call, as its elements."""

    def __init__(self, inputs: Specs, output: TensorSpec) -> None:
        self._inputs, self._output = inputs, output

    def write(self, inputs: Mapping[str, Array], rows: int) -> list[dict[str, bytes]]:
        """One call for each row."""
        return [
            {name: self._element(name, array[row]) for name, array in inputs.items()}
            for row in range(rows)
        ]

    def _element(self, name: str, row: Array) -> bytes:
        if self._inputs[name].datatype == "BYTES":
            value = np.asarray(row, object).reshape(-1)
            if len(value) == 1:
                element: bytes = value[0]
                return element
        return bytes(raw_contents(np.ascontiguousarray(row)))

    def read(self, answers: list[bytes], rows: int, wanted: frozenset[str] | None) -> Answer:
        """The one output."""
        del wanted, rows
        spec = self._output
        if spec.datatype == "BYTES":
            array = np.empty(len(answers), object)
            array[:] = answers
            return Answer({spec.name: array.reshape(-1, *(1 for _ in spec.inner))})
        size = DTYPES[spec.datatype].itemsize
        lengths = {len(each) for each in answers}
        if len(lengths) != 1 or lengths.pop() % size:
            raise _wrong("its rows are not equally long, or no whole elements")
        data = b"".join(answers)
        elements = len(data) // size
        shape = _filled((len(answers), *spec.inner), elements)
        try:
            return Answer({spec.name: from_raw(data, 0, len(data), spec.datatype, shape, elements)})
        except MalformedTensorError as error:
            raise _wrong(f"output {spec.name!r}: {error}") from None


class JsonRows:
    """Each row is one call, as JSON."""

    def __init__(self, inputs: Specs, outputs: Instances, style: BytesStyle) -> None:
        self._inputs, self._outputs, self._style = inputs, outputs, style

    def write(self, inputs: Mapping[str, Array], rows: int) -> list[dict[str, bytes]]:
        """One call for each row."""
        return [
            {
                name: dumps(
                    to_json(array[row : row + 1], self._inputs[name].datatype, self._style)[0]
                )
                for name, array in inputs.items()
            }
            for row in range(rows)
        ]

    def read(self, answers: list[bytes], rows: int, wanted: frozenset[str] | None) -> Answer:
        """All outputs."""
        del wanted
        try:
            return self._outputs.outputs([loads(each) for each in answers], rows)
        except JsonError as error:
            raise _wrong(str(error)) from None


def _wrong(why: str) -> ExecutionError:
    return ExecutionError(f"the handler's answer is wrong: {why}")


def _row_errors(text: str | None, rows: int) -> dict[int, str]:
    if text is None:
        return {}
    try:
        found = json.loads(text)
        errors = {int(row): on_one_line(str(why)) for row, why in found.items()}
    except (ValueError, AttributeError, RecursionError):
        errors = {-1: ""}
    if not errors.keys() <= set(range(rows)):
        raise _wrong(f"{_ROW_ERRORS} is no JSON object of rows from 0 to {rows - 1} and texts")
    return errors


def _filled(shape: tuple[int, ...], elements: int) -> tuple[int, ...]:
    """The shape with its one variable axis as long as the elements make it."""
    known = 1
    for axis in shape:
        known *= axis if axis != -1 else 1
    if shape.count(-1) != 1 or not known or elements % known:
        return tuple(max(axis, 0) for axis in shape)
    return tuple(elements // known if axis == -1 else axis for axis in shape)
