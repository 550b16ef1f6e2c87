"""The classification extension: the highest values of each row, as text."""

from __future__ import annotations

import numpy as np

from batcher.errors import InvalidRequest
from batcher.tensors import Array

_NOT_NUMBERS = ("BOOL", "BYTES")


def top_classes(datatype: str, array: Array, count: int, where: str) -> Array:
    """The `count` highest values of each row as `value:index`, highest first: `[rows, count] BYTES`.

    A row has its elements in row-major order; if they are fewer than `count`, all are given. Of
    equal values the lower index comes first, and NaN comes last. Raises InvalidRequest for a
    datatype without an order of size.
    """
    if datatype in _NOT_NUMBERS:
        raise InvalidRequest(f"{where}: classification needs a tensor of numbers, not {datatype}")
    rows = array.shape[0]
    width = int(np.prod(array.shape[1:], dtype=np.int64))
    values = _as_numbers(datatype, array).reshape(rows, width)
    # A stable ascending order of the reversed row, read backwards, keeps equal values in order.
    order = width - 1 - np.argsort(_sortable(values)[:, ::-1], axis=1, kind="stable")[:, ::-1]
    order = order[:, :count]
    result = np.empty(order.shape, np.object_)
    text = "{:f}:{}" if values.dtype.kind == "f" else "{}:{}"
    for row in range(rows):
        for place, index in enumerate(order[row]):
            result[row, place] = text.format(values[row, index], index).encode()
    return result


def _as_numbers(datatype: str, array: Array) -> Array:
    """The array with values: BF16 is the upper half of an FP32."""
    if datatype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


def _sortable(values: Array) -> Array:
    if values.dtype.kind == "f":
        return np.where(np.isnan(values), -np.inf, values)
    return values
