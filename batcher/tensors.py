"""Tensors as the wire names them and as numpy holds them.

A `Tensor` is a protocol datatype and a numpy array of the matching dtype. Two datatypes have no
numpy dtype of their own: BYTES is an object array whose elements are `bytes`, and BF16 is its raw
bits in a `uint16` array. The datatype beside the array says which is meant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BF16": np.dtype(np.uint16),
    "BYTES": np.dtype(np.object_),
}
"""Protocol datatype -> the numpy dtype of its array (little-endian on the wire)."""


@dataclass(slots=True)
class Tensor:
    """One named input or output of one request; axis 0 is the row axis."""

    datatype: str
    array: Array


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a model says of one input or output.

    `shape` includes the row axis first; -1 marks an axis whose length varies. `optional` inputs may
    be left out of a request. `dims` are the names of the axes, as many as in `shape`, where the
    model has any: variable axes of one name are equally long in every request and its answer. An
    input that is not `batched` has no row axis: its whole array belongs to every row of a batch, and
    only requests whose arrays are equal share one.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False
    dims: tuple[str | None, ...] = ()
    batched: bool = True

    @property
    def inner(self) -> tuple[int, ...]:
        """The axes beside the rows: those of one row, or all where there are none."""
        return self.shape[1:] if self.batched else self.shape
