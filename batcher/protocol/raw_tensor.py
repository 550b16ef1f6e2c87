"""Tensors whose contents stay as they are on the wire, for executors that send batches on."""

from __future__ import annotations

from math import prod

import numpy as np

from batcher.protocol.elements import bytes_to_raw, check_raw, from_raw, row_starts
from batcher.tensors import Array, Tensor


class RawTensor(Tensor):
    """The input whose raw contents are `data[offset:offset + length]`, which have been validated.

    Its array is made when it is first asked for, which costs most for BYTES.
    """

    __slots__ = ("_made", "_offset", "_shape", "_starts", "raw")

    def __init__(
        self, datatype: str, shape: tuple[int, ...], data: bytes, offset: int, length: int
    ) -> None:
        self.datatype = datatype
        self._shape = shape
        self.raw = memoryview(data)[offset : offset + length]
        """Its contents, little-endian; each element of BYTES comes after its length."""
        self._offset = offset
        self._made: Array | None = None
        self._starts: list[int] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The axes."""
        return self._shape

    @property
    def nbytes(self) -> int:
        """The bytes of its contents."""
        return len(self.raw)

    @property
    def array(self) -> Array:  # type: ignore[override] # made when it is asked for
        """The elements, as `from_raw` makes them."""
        if self._made is None:
            data: bytes = self.raw.obj  # type: ignore[assignment] # what it was made of
            self._made = from_raw(
                data, self._offset, self.nbytes, self.datatype, self.shape, prod(self.shape)
            )
        return self._made

    def rows(self, start: int, stop: int) -> memoryview:
        """The contents of rows `start` to `stop` (exclusive)."""
        rows = self.shape[0]
        if stop - start == rows:
            return self.raw
        if self.datatype == "BYTES":
            if self._starts is None:
                self._starts = row_starts(self.raw, rows, prod(self.shape[1:]))
            return self.raw[self._starts[start] : self._starts[stop]]
        row = self.nbytes // rows
        return self.raw[start * row : stop * row]


def read_raw(
    data: bytes, offset: int, length: int, datatype: str, shape: tuple[int, ...], elements: int
) -> RawTensor:
    """The tensor of `elements` elements whose raw contents are `data[offset:offset + length]`.

    Raises MalformedTensorError where `from_raw` does.
    """
    check_raw(data, offset, length, datatype, shape, elements)
    return RawTensor(datatype, shape, data, offset, length)


def encoded(datatype: str, array: Array) -> RawTensor:
    """The tensor with the contents of an array, encoded. Raises MalformedTensorError as `bytes_to_raw`."""
    data = contents_of(datatype, array)
    held = data if isinstance(data, bytes) else bytes(data)
    return RawTensor(datatype, array.shape, held, 0, len(held))


def raw_contents(tensor: Tensor) -> memoryview:
    """The raw contents of a tensor, encoded if it has an array alone."""
    if isinstance(tensor, RawTensor):
        return tensor.raw
    return memoryview(contents_of(tensor.datatype, tensor.array))


def raw_rows(tensor: Tensor, start: int, stop: int) -> memoryview:
    """The raw contents of its rows `start` to `stop` (exclusive)."""
    if isinstance(tensor, RawTensor):
        return tensor.rows(start, stop)
    return memoryview(contents_of(tensor.datatype, tensor.array[start:stop]))


def contents_of(datatype: str, array: Array) -> bytes | memoryview:
    """The raw contents of an array: a view of it where that is possible.

    Raises MalformedTensorError for a BYTES element that is neither bytes nor text.
    """
    if datatype == "BYTES":
        return b"".join(bytes_to_raw(array)[0])
    if not array.size:
        return b""
    return np.ascontiguousarray(array).data.cast("B")
