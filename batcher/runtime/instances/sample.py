"""Made-up requests for warm-up, test batches and profiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from math import prod
from typing import TypeAlias

import numpy as np

from batcher.core.events import UNTOLD, FailureCause, Shapes
from batcher.core.record import record
from batcher.errors import ModelLoadError
from batcher.executor import BatchResult
from batcher.runtime.interface.padding_rules import PadValue, fill_value
from batcher.runtime.interface.row_axis import NO_BATCH_AXIS
from batcher.runtime.request import InferenceRequest
from batcher.tensors import DTYPES, Array, Tensor, TensorSpec

DEFAULT_LENGTH = 16
"""The default of `warmup.length`: the length of variable axes in warm-up requests."""


WarmupValue: TypeAlias = PadValue | tuple[PadValue, ...]
"""The content of a warm-up input: one value for all elements, or the values of a row."""


@record
class WarmupPlan:
    """The batch sizes of a warm-up, and the length of variable axes that are not padded."""

    batch_sizes: tuple[int, ...]
    length: int
    inputs: Mapping[str, WarmupValue] = field(default_factory=dict)
    """Input -> its values. Others are zeros or empty texts; optional ones are absent."""


class Sample:
    """Makes requests to warm up or measure a model.

    An input has its value in `values`, else zeros or empty texts; an optional input that `values`
    does not name is absent. Raises `ModelLoadError`, which names every unsuitable value.
    """

    def __init__(
        self, model: str, specs: Sequence[TensorSpec], values: Mapping[str, WarmupValue]
    ) -> None:
        self._model = model
        self._specs = specs
        self._given = values
        self._elements: dict[str, Array] = {}
        names = [spec.name for spec in specs]
        problems = [
            f"warmup.inputs: got {name!r}; allowed: {', '.join(names)}"
            for name in values
            if name not in names
        ]
        for spec in specs:
            try:
                self._elements[spec.name] = _elements(spec, values.get(spec.name))
            except ValueError as error:
                got = values[spec.name]
                problems.append(f"warmup.inputs.{spec.name}: got {got!r}; allowed: {error}")
        if problems:
            raise ModelLoadError(f"model {model!r}: {'; '.join(problems)}")

    def request(self, rows: int, shapes: Shapes) -> InferenceRequest:
        """A request of `rows` equal rows; `shapes` are the axes of each input after the batch axis."""
        inputs = {
            spec.name: Tensor(spec.datatype, self._array(spec, rows, shape))
            for spec, shape in zip(self._specs, shapes, strict=True)
            if not spec.optional or spec.name in self._given
        }
        return InferenceRequest(self._model, inputs, arrival_ns=0)

    def check_rows(
        self, rows: int, result: BatchResult, inner: dict[str, tuple[int, tuple[int, ...]]]
    ) -> None:
        """Raise `ModelLoadError` if the shape of a row's output depends on the size of its batch.

        Then a row's output would depend on other callers' rows. `inner` has the shapes in the
        batches before: output -> (rows, shape of a row).
        """
        for name, array in result.outputs.items():
            before, shape = inner.setdefault(name, (rows, array.shape[1:]))
            if shape != array.shape[1:]:
                raise ModelLoadError(
                    f"{self._model}: output {name!r} has shape {[before, *shape]} for {before} rows"
                    f" and {list(array.shape)} for {rows} equal ones, so a row's answer depends on"
                    f" the other rows of its batch: set {NO_BATCH_AXIS}"
                )

    def failed(self, rows: int, why: str, cause: FailureCause = FailureCause.UNKNOWN) -> str:
        """The message for a failed warm-up batch, with what helps if its values caused that."""
        said = f"{self._model}: the warm-up batch of {rows} rows failed: {why}"
        if cause is FailureCause.MEMORY:
            return f"{said} (the device has no memory for it: lower batching.max_batch_size)"
        if cause is FailureCause.DEVICE or cause in UNTOLD:
            return said
        of = "the values in warmup.inputs" if self._given else "zeros and empty texts"
        return (
            f"{said} (it contained {of}; if these do not suit the model, set warmup.inputs,"
            " or skip the warm-up with warmup.batch_sizes: [])"
        )

    def _array(self, spec: TensorSpec, rows: int, shape: tuple[int, ...]) -> Array:
        row = np.resize(self._elements[spec.name], shape)
        if not spec.batched:
            return row
        return np.ascontiguousarray(np.broadcast_to(row, (rows, *shape)))


def plain_shapes(specs: Sequence[TensorSpec], length: int) -> Shapes:
    """The shapes of a request whose variable axes all have this length."""
    return tuple(tuple(length if size < 0 else size for size in spec.inner) for spec in specs)


def _elements(spec: TensorSpec, value: WarmupValue) -> Array:
    """The values to repeat within a row. Raises `ValueError` with what is allowed."""
    listed = value if isinstance(value, tuple) else (value,)
    row = spec.inner
    if min(row, default=0) >= 0 and len(listed) > max(1, prod(row)):
        raise ValueError(f"at most {prod(row)} values, one row of shape {list(row)}")
    array = np.empty(len(listed), DTYPES[spec.datatype])
    array[:] = [fill_value(each, spec.datatype) for each in listed]
    return array
