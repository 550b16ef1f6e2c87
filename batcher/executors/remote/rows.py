"""Rows of a batch that are sent, rows that are not, and outputs that fit the batch again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from batcher.executor import BatchResult, ExecutionError
from batcher.executors.remote.json_values import BytesStyle, unfit
from batcher.tensors import Array, TensorSpec

__all__ = ["Answer", "SentRows", "fault_of", "json_rows"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a neighbor answered: outputs with the rows that were sent, and which of those failed."""

    outputs: Mapping[str, Array]
    row_errors: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SentRows:
    """The inputs that are sent; `kept` are the places of their rows in the batch, None if all are."""

    inputs: Mapping[str, Array]
    rows: int
    batch_rows: int
    kept: Sequence[int] | None = None
    refused: Mapping[int, str] = field(default_factory=dict)

    def result(self, answer: Answer) -> BatchResult:
        """The result of the batch: rows that were not sent have some value, and their error."""
        if self.kept is None:
            return BatchResult(answer.outputs, answer.row_errors)
        errors = dict(self.refused)
        errors.update({self.kept[row]: why for row, why in answer.row_errors.items()})
        outputs = {}
        for name, array in answer.outputs.items():
            whole = np.empty((self.batch_rows, *array.shape[1:]), array.dtype)
            whole.fill(b"" if array.dtype == object else 0)
            whole[list(self.kept)] = array
            outputs[name] = whole
        return BatchResult(outputs, errors)


def json_rows(
    inputs: Mapping[str, Array],
    rows: int,
    specs: Mapping[str, TensorSpec],
    style: BytesStyle,
    *,
    batched: bool,
) -> SentRows:
    """The rows that JSON can carry. `batched`: whether the model has a batch axis.

    Raises `ExecutionError` with the cause `input` if no row is left, or an input of all rows is unfit.
    """
    refused: dict[int, str] = {}
    for name, array in inputs.items():
        spec = specs[name]
        of_rows = batched and spec.batched
        found = unfit(array if of_rows else array[np.newaxis], spec.datatype, style)
        if found and not of_rows:
            raise ExecutionError(f"input {name!r} has {found[0]}", cause="input")
        for row, why in found.items():
            refused.setdefault(row, f"input {name!r} has {why}")
    if not refused:
        return SentRows(inputs, rows, rows)
    if len(refused) == rows:
        raise ExecutionError(next(iter(refused.values())), cause="input")
    kept = [row for row in range(rows) if row not in refused]
    cut = {name: array[kept] if specs[name].batched else array for name, array in inputs.items()}
    return SentRows(cut, len(kept), rows, kept, refused)


def fault_of(array: Array, spec: TensorSpec, rows: int | None) -> str:
    """What is wrong with an output's shape, empty if nothing; `rows` is None without a batch axis."""
    wanted = spec.shape if rows is None else (rows, *spec.shape[1:])
    if len(wanted) == array.ndim and all(
        want in (-1, have) for want, have in zip(wanted, array.shape, strict=True)
    ):
        return ""
    return f"its shape is {list(array.shape)}, which does not fit {list(wanted)}"
