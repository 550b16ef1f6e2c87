"""Tensors: a datatype of the inference protocol with a numpy array.

Two datatypes have no numpy dtype of their own: BYTES is an object array of `bytes`, and BF16 is a
`uint16` array of raw bits. So a `Tensor` keeps the datatype beside the array.
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
"""Protocol datatype -> numpy dtype of its arrays. On the wire, all are little-endian."""


@dataclass(slots=True)
class Tensor:
    """One input or output of one request. Axis 0 is the batch axis, if the model has one."""

    datatype: str
    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """The axes."""
        return self.array.shape

    @property
    def nbytes(self) -> int:
        """The bytes of its array; of BYTES, the size of the references alone."""
        return self.array.nbytes


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """The declaration of one input or output of a model."""

    name: str
    datatype: str
    """A key of `DTYPES`, such as `FP32`."""
    shape: tuple[int, ...]
    """The axes, the batch axis first; -1 is an axis whose length varies."""
    optional: bool = False
    """Whether a request may leave this input out."""
    dims: tuple[str | None, ...] = ()
    """The names of the axes, one for each in `shape`, or empty. Variable axes with the same name are
    equally long within a request and its reply."""
    batched: bool = True
    """Whether axis 0 is the batch axis. An input without one belongs to every row of a batch, and
    only requests whose arrays are equal share a batch."""

    @property
    def inner(self) -> tuple[int, ...]:
        """The axes of one row: all but the batch axis."""
        return self.shape[1:] if self.batched else self.shape
