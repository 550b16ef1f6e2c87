"""The classification extension: the highest values of each row, with their labels, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from batcher import triton
from batcher.core.record import record
from batcher.errors import InvalidRequest
from batcher.tensors import Array

MAX_WIDTH: Final = 1_000_000
"""Elements of one row that is classified, as in Triton."""

MAX_CLASSES: Final = 100_000
"""Classes of one answer: rows times the classes of each."""

_NOT_NUMBERS = ("BOOL", "BYTES")


@record
class Classes:
    """The classification that a caller asked for of one output, and the labels of its classes."""

    count: int
    """The number of highest values of each row."""
    labels: Sequence[bytes] = ()
    """The names of the first classes; further classes have none."""


def top_classes(datatype: str, array: Array, asked: Classes, where: str) -> Array:
    """The highest values of each row, highest first: BYTES `[rows, count]`.

    Each is `value:index`, or `value:index:label` where the class has a name.
    A row has its elements in row-major order; if they are fewer than `count`, all are given. Of
    equal values the lower index comes first, and NaN comes last. Raises InvalidRequest for a
    datatype without an order of size, and beyond `MAX_WIDTH` and `MAX_CLASSES`.
    """
    if datatype in _NOT_NUMBERS:
        raise InvalidRequest(
            f"{where}: classification needs a tensor of numbers, got {datatype}",
            triton=triton.not_classifiable(datatype),
        )
    rows = array.shape[0]
    width = int(np.prod(array.shape[1:], dtype=np.int64))
    count = min(asked.count, width)
    if width > MAX_WIDTH:
        raise InvalidRequest(
            f"{where}: classification takes at most {MAX_WIDTH} elements a row, got {width}; request the"
            " output without classification",
            triton=triton.TOO_WIDE_TO_CLASSIFY,
        )
    if rows * count > MAX_CLASSES:
        raise InvalidRequest(
            f"{where}: classification gives at most {MAX_CLASSES} classes in one answer, got {rows} rows"
            f" of {count}; request fewer classes, or send fewer rows"
        )
    values = _as_numbers(datatype, array).reshape(rows, width)
    sortable = _sortable(values)
    result = np.empty((rows, count), np.object_)
    text = "{:f}:{}" if values.dtype.kind == "f" else "{}:{}"
    for row in range(rows):
        for place, index in enumerate(_highest(sortable[row], count).tolist()):
            found = text.format(values[row, index], index).encode()
            if index < len(asked.labels):
                found += b":" + asked.labels[index]
            result[row, place] = found
    return result


def _highest(values: Array, count: int) -> Array:
    """The indices of the highest values, highest first, of equal ones the lower index first."""
    if count < len(values):
        least = np.partition(values, len(values) - count)[len(values) - count]
        above = np.flatnonzero(values > least)
        equal = np.flatnonzero(values == least)[: count - len(above)]
        candidates = np.sort(np.concatenate((above, equal)))
    else:
        candidates = np.arange(len(values))
    # A stable ascending order of the reversed row, read backwards, keeps equal values in order.
    reverse = candidates[::-1]
    highest: Array = reverse[np.argsort(values[reverse], kind="stable")][::-1]
    return highest


def _as_numbers(datatype: str, array: Array) -> Array:
    """The array as numbers that numpy can compare: BF16 is the upper half of an FP32."""
    if datatype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


def _sortable(values: Array) -> Array:
    if values.dtype.kind == "f":
        return np.where(np.isnan(values), -np.inf, values)
    return values
