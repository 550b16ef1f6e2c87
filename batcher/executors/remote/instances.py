"""Batches as `instances`, answers as `predictions`: the bodies of the KServe protocol, version 1.

    {"instances": [row, row, ...]}  ->  {"predictions": [row, row, ...]}

A row is the value of the one input or output there is, or an object of values by name where there are
several. A prediction `{"error": "why"}` says that its row failed (unless the model has an output `error`).
TorchServe's handlers with the envelope `kserve` speak the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from batcher.errors import on_one_line
from batcher.executor import ExecutionError
from batcher.executors.remote.json_values import (
    BytesStyle,
    JsonError,
    dumps,
    from_json,
    loads,
    to_json,
)
from batcher.executors.remote.rows import Answer, fault_of
from batcher.tensors import DTYPES, Array, TensorSpec

__all__ = ["InstanceForm", "Instances"]

InstanceForm: TypeAlias = Literal["value", "object"]
"""Whether a row of one input is its value or an object of one value."""

_ERROR: Final = "error"


class Instances:
    """Writes the batches of one model and reads the answers to them."""

    def __init__(
        self,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        *,
        batched: bool,
        style: BytesStyle,
        form: InstanceForm | None = None,
    ) -> None:
        """`batched`: whether the model has a batch axis; without one a batch is one instance.

        `form` None is `value` for one input, and `object` for several.
        """
        self._inputs = inputs
        self._outputs = outputs
        self._batched = batched
        self._style = style
        self._objects = (form or ("value" if len(inputs) == 1 else "object")) == "object"

    def body(self, inputs: Mapping[str, Array], rows: int) -> bytes:
        """The JSON of a batch whose values JSON can carry (`json_rows`)."""
        count = rows if self._batched else 1
        # Row by row: between two calls of the encoder, which is one step for the interpreter, other
        # threads may run.
        return b'{"instances":[%b]}' % b",".join(
            self._instance(inputs, row) for row in range(count)
        )

    def _instance(self, inputs: Mapping[str, Array], row: int) -> bytes:
        values = {
            name: to_json(
                array[row : row + 1] if self._batched else array[np.newaxis],
                self._inputs[name].datatype,
                self._style,
            )[0]
            for name, array in inputs.items()
        }
        return dumps(values if self._objects else next(iter(values.values())))

    def answer(self, data: bytes, rows: int) -> Answer:
        """The outputs in an answer to a batch of `rows` rows. Raises `ExecutionError`."""
        try:
            return self.outputs(_predictions(loads(data)), rows)
        except JsonError as error:
            raise ExecutionError(f"the server's answer is wrong: {error}") from None

    def outputs(self, predictions: list[Any], rows: int) -> Answer:
        """The outputs that these predictions are. Raises `JsonError` and `ExecutionError`."""
        count = rows if self._batched else 1
        if len(predictions) != count:
            raise JsonError(f"it has {len(predictions)} predictions for {count} instances")
        errors = self._errors(predictions)
        if len(errors) == count:
            raise ExecutionError(next(iter(errors.values())), cause="input")
        good = [each for row, each in enumerate(predictions) if row not in errors]
        outputs = {}
        for name, spec in self._outputs.items():
            array = self._output(name, spec, good)
            if errors:
                whole = np.empty((count, *array.shape[1:]), array.dtype)
                whole.fill(b"" if array.dtype == object else 0)
                whole[[row for row in range(count) if row not in errors]] = array
                array = whole
            outputs[name] = array if self._batched else array[0]
        return Answer(outputs, errors)

    def _errors(self, predictions: list[Any]) -> dict[int, str]:
        if _ERROR in self._outputs:
            return {}
        return {
            row: on_one_line(str(each[_ERROR]))
            for row, each in enumerate(predictions)
            if isinstance(each, dict) and each.keys() == {_ERROR}
        }

    def _output(self, name: str, spec: TensorSpec, predictions: list[Any]) -> Array:
        single = len(self._outputs) == 1
        values = []
        for each in predictions:
            if isinstance(each, dict) and name in each:
                values.append(each[name])
            elif single:
                values.append(each)
            else:
                raise JsonError(f"a prediction has no {name!r}")
        try:
            array = from_json(values, spec.datatype)
        except JsonError as error:
            raise JsonError(f"output {name!r}: {error}") from None
        inner = spec.shape[1:] if self._batched else spec.shape
        if array.ndim == 1 and inner in {(1,), (-1,)}:
            array = array.reshape(-1, 1)  # a row of one value is often written as the value alone
        wanted = TensorSpec(name, spec.datatype, (-1, *inner))
        fault = fault_of(array, wanted, len(values))
        if fault:
            raise JsonError(f"output {name!r}: {fault}")
        assert array.dtype == DTYPES[spec.datatype]  # noqa: S101 - what from_json promises
        return array


def _predictions(found: Any) -> list[Any]:
    predictions = found.get("predictions") if isinstance(found, dict) else None
    if not isinstance(predictions, list):
        raise JsonError('it has no list "predictions"')
    return predictions
