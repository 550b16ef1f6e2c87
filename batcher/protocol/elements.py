"""Tensor elements on the wire <-> arrays: raw contents and typed contents.

Raw contents are little-endian elements in row-major order; BYTES puts a four-byte length before
each element. Arrays made from raw contents are read-only views of the message and may lie at any
offset, so they are not always aligned (`array.flags.aligned`).

A tensor that is wrong raises MalformedTensorError, without the names of the model and the tensor: the
caller adds them. Making that text for every tensor would take longer than reading it.
"""

from __future__ import annotations

import struct

import numpy as np

from batcher.protocol._generated import inference_service as inference
from batcher.tensors import DTYPES, Array

_LENGTH = struct.Struct("<I")

_TYPED_FIELDS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Datatype -> the field of InferTensorContents that holds it; FP16 and BF16 have none."""


class MalformedTensorError(ValueError):
    """The elements do not fit the datatype and shape of the tensor.

    `sizes` are the bytes of raw contents that are too short or too long: expected, and got.
    """

    def __init__(self, message: str, sizes: tuple[int, int] | None = None) -> None:
        super().__init__(message)
        self.sizes = sizes


def from_raw(
    data: bytes,
    offset: int,
    length: int,
    datatype: str,
    shape: tuple[int, ...],
    elements: int,
) -> Array:
    """The tensor of `elements` elements whose raw contents are `data[offset:offset + length]`.

    Raises MalformedTensorError for contents that are too short or too long, and for malformed BYTES.
    """
    if datatype == "BYTES":
        return _bytes_from_raw(data, offset, length, elements).reshape(shape)
    dtype = DTYPES[datatype]
    expected = elements * dtype.itemsize
    if length != expected:
        raise _wrong_size(datatype, shape, expected, length)
    array: Array = np.ndarray(shape, dtype, data, offset)
    if datatype == "BOOL" and array.view(np.uint8).max(initial=0) > 1:
        raise MalformedTensorError("BOOL elements in raw_input_contents must be the byte 0 or 1")
    return array


def check_raw(
    data: bytes, offset: int, length: int, datatype: str, shape: tuple[int, ...], elements: int
) -> None:
    """Check raw contents as `from_raw` does, and raise what it raises; makes no elements of BYTES."""
    if datatype == "BYTES":
        _check_bytes(data, offset, length, elements)
        return
    expected = elements * DTYPES[datatype].itemsize
    if length != expected:
        raise _wrong_size(datatype, shape, expected, length)
    if datatype == "BOOL":
        from_raw(data, offset, length, datatype, shape, elements)


def _wrong_size(
    datatype: str, shape: tuple[int, ...], expected: int, got: int
) -> MalformedTensorError:
    return MalformedTensorError(
        f"expected {expected} bytes of raw contents for {datatype} {list(shape)}, got {got}",
        (expected, got),
    )


def row_starts(contents: memoryview, rows: int, elements: int) -> list[int]:
    """Where each of the rows of valid BYTES contents begins, of `elements` elements each; and the end."""
    read, position = _LENGTH.unpack_from, 0
    starts = [0]
    for _ in range(rows):
        for _ in range(elements):
            position += _LENGTH.size + read(contents, position)[0]
        starts.append(position)
    return starts


_COPY_ALONE = 1024 * 1024
"""Bytes of an element from which on it is copied without the GIL."""


def _bytes_from_raw(data: bytes, offset: int, length: int, elements: int) -> Array:
    """The flat object array of the length-prefixed elements in `data[offset:offset + length]`."""
    if length < elements * _LENGTH.size:
        raise _too_few_bytes(length, elements)
    array = np.empty(elements, np.object_)
    view = memoryview(data)
    position, end = offset, offset + length
    for index in range(elements):
        start = position + _LENGTH.size
        if start > end:
            raise _ends_early(length, elements, index)
        position = start + _LENGTH.unpack_from(data, position)[0]
        if position > end:
            raise _too_long(index, position - start, end - start)
        if position - start < _COPY_ALONE:
            array[index] = data[start:position]
        else:  # joining releases the GIL
            array[index] = b"".join((view[start:position],))
    if position != end:
        raise _left_over(length, elements, end - position)
    return array


def _check_bytes(data: bytes, offset: int, length: int, elements: int) -> None:
    """Check the lengths of the BYTES elements in `data[offset:offset + length]`."""
    if length < elements * _LENGTH.size:
        raise _too_few_bytes(length, elements)
    read, position, end = _LENGTH.unpack_from, offset, offset + length
    for index in range(elements):
        start = position + 4
        if start > end:
            raise _ends_early(length, elements, index)
        position = start + read(data, position)[0]
        if position > end:
            raise _too_long(index, position - start, end - start)
    if position != end:
        raise _left_over(length, elements, end - position)


def _too_few_bytes(length: int, elements: int) -> MalformedTensorError:
    return MalformedTensorError(
        f"expected {elements} BYTES elements, which take at least "
        f"{elements * _LENGTH.size} bytes of raw contents, got {length} bytes"
    )


def _ends_early(length: int, elements: int, index: int) -> MalformedTensorError:
    return MalformedTensorError(
        f"the raw contents ({length} bytes) end after {index} of {elements} BYTES elements"
    )


def _too_long(index: int, length: int, left: int) -> MalformedTensorError:
    return MalformedTensorError(
        f"BYTES element {index} has the length {length}, but only "
        f"{left} bytes of the raw contents are left"
    )


def _left_over(length: int, elements: int, left: int) -> MalformedTensorError:
    return MalformedTensorError(
        f"{left} of {length} bytes of raw contents are left after {elements} BYTES elements"
    )


def from_typed(
    contents: inference.InferTensorContents,
    datatype: str,
    shape: tuple[int, ...],
    elements: int,
) -> Array:
    """The tensor of `elements` elements from typed contents.

    Raises MalformedTensorError for elements in the wrong field, a wrong number of them, values out of the
    datatype's range, and for a datatype that can only travel raw.
    """
    expected = _TYPED_FIELDS.get(datatype)
    if expected is None:
        raise MalformedTensorError(
            f"{datatype} has no typed contents; send it in raw_input_contents"
        )
    for descriptor, _ in contents.ListFields():
        if descriptor.name != expected:
            raise MalformedTensorError(
                f"{datatype} elements belong in {expected}, got {descriptor.name}"
            )
    values = getattr(contents, expected)
    if len(values) != elements:
        raise MalformedTensorError(
            f"expected {elements} elements in {expected} for {datatype} {list(shape)}, "
            f"got {len(values)}"
        )
    dtype = DTYPES[datatype]
    if datatype == "BYTES":
        array = np.empty(elements, np.object_)
        array[:] = list(values)
        return array.reshape(shape)
    if dtype.itemsize < 4 and datatype != "BOOL":
        limits = np.iinfo(dtype)
        wide = np.array(values, np.int64)
        if elements and (wide.min() < limits.min or wide.max() > limits.max):
            raise MalformedTensorError(
                f"{datatype} elements must be {limits.min} to {limits.max}, "
                f"got {wide.min()} to {wide.max()}"
            )
        return wide.astype(dtype).reshape(shape)
    return np.array(values, dtype).reshape(shape)


def to_raw(array: Array) -> bytes | memoryview:
    """The raw contents of a tensor that is not BYTES: a view of its memory where that is possible."""
    if array.nbytes > _COPY_LIMIT:
        return np.ascontiguousarray(array).data.cast("B")
    return array.tobytes()


_COPY_LIMIT = 4096
"""Bytes up to which a copy costs less than a view."""


def bytes_to_raw(array: Array) -> tuple[list[bytes], int]:
    """The raw contents of a BYTES tensor in parts, and how many bytes they are together.

    Raises MalformedTensorError for an element that is neither bytes nor text (text is UTF-8).
    """
    parts: list[bytes] = []
    nbytes = 0
    for element in array.flat:
        if isinstance(element, str):
            content = element.encode()
        elif isinstance(element, (bytes, bytearray, memoryview)):
            content = bytes(element)
        else:
            raise MalformedTensorError(
                f"BYTES elements must be bytes or text, got {type(element).__name__}"
            )
        parts += (_LENGTH.pack(len(content)), content)
        nbytes += _LENGTH.size + len(content)
    return parts, nbytes
