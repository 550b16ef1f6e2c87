"""Arrays in messages: [name, dtype, shape, offset in the arena or -1, contents].

The contents are the bytes themselves, or with an offset how many bytes are there: of numbers their
memory in row-major order, of BYTES a packed list of the elements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Final

import msgpack
import numpy as np

from batcher.executors.isolated.arena import ALIGNMENT, Mapped, aligned
from batcher.executors.isolated.messages import INLINE
from batcher.tensors import DTYPES, Array

CODES: Final = {dtype: dtype.str for dtype in DTYPES.values()}
"""The dtypes that can travel -> how a message names them."""

OF_CODE: Final = {code: dtype for dtype, code in CODES.items()}

OBJECTS: Final = DTYPES["BYTES"].str

MAX_AXES: Final = 32
"""Axes of a tensor: what numpy 1 has at most."""

Items = list[tuple[str, Array, bytes | None]]
"""Names, arrays, and of BYTES the packed elements."""


def prepared(arrays: Mapping[str, Array]) -> tuple[Items, int]:
    """What is to be sent, and how many bytes of the arena it takes; 0: it travels in the message.

    Raises `TypeError` for an element of BYTES that is neither bytes nor text.
    """
    items: Items = []
    nbytes = 0
    for name, array in arrays.items():
        packed = None
        size = array.nbytes
        if array.dtype.hasobject:
            packed = packed_elements(name, array)
            size = len(packed)
        items.append((name, array, packed))
        nbytes += aligned(size)
    return items, nbytes if nbytes > INLINE else 0


def packed_elements(name: str, array: Array) -> bytes:
    """The elements of BYTES, packed."""
    elements = array.ravel().tolist()
    for element in elements:
        if not isinstance(element, (bytes, str, bytearray, memoryview)):
            kind = type(element).__name__
            raise TypeError(f"BYTES elements of {name!r} must be bytes or text, got {kind}")
    packed: bytes = msgpack.packb(elements)
    return packed


def inline(items: Items) -> list[list[Any]]:
    """The tensors with their contents."""
    return [
        [name, CODES[array.dtype], array.shape, -1, array.tobytes() if packed is None else packed]
        for name, array, packed in items
    ]


def placed(items: Items, mapped: Mapped, offset: int) -> list[list[Any]]:
    """The tensors, after they were copied into the arena from `offset` on.

    What lies there already (`Mapped.array`) is not copied.
    """
    tensors: list[list[Any]] = []
    for name, array, packed in items:
        if packed is None:
            size = array.nbytes
            there = mapped.array(offset, array.shape, array.dtype)
            if size and array.ctypes.data != there.ctypes.data:
                np.copyto(there, array)
        else:
            size = len(packed)
            mapped.copy_in(offset, packed)
        tensors.append([name, CODES[array.dtype], array.shape, offset, size])
        offset += aligned(size)
    return tensors


def nbytes_of(tensors: Sequence[Any], code: str | None = None) -> int:
    """The bytes of tensors in a message (of this dtype), as far as they can be told. Never raises."""
    nbytes = 0
    for each in tensors:
        if type(each) is list and len(each) == 5 and (code is None or each[1] == code):
            contents = each[4]
            nbytes += contents if type(contents) is int else 0
            nbytes += len(contents) if type(contents) is bytes else 0
    return nbytes


def received(
    tensor: Any, mapped: Mapped, room: tuple[int, int], memory: Array | None = None
) -> tuple[str, Array]:
    """The name and the array of a tensor in a message, whose contents lie in `room`: from, to.

    The array is a view of `memory`, all of that room, or else of the arena. Raises `ValueError` for
    what is no tensor.
    """
    if type(tensor) is not list or len(tensor) != 5:
        raise ValueError("a tensor of other than five parts")
    name, code, shape, offset, contents = tensor
    if type(name) is not str or type(code) is not str or type(offset) is not int:
        raise ValueError("a tensor whose name, dtype or offset has another type")
    dtype = OF_CODE.get(code)
    if dtype is None:
        raise ValueError(f"a tensor of dtype {code[:20]!r}")
    axes = _shape(shape)
    if offset != -1:
        offset = _inside(offset, contents, room)
    elif type(contents) is not bytes:
        raise ValueError("a tensor without contents")
    if code == OBJECTS:
        packed = contents if offset == -1 else mapped.copy_out(offset, contents)
        return name, _elements(packed, axes)
    nbytes = prod(axes) * dtype.itemsize
    if nbytes != (contents if offset >= 0 else len(contents)):
        raise ValueError(
            f"a tensor of shape {axes} and dtype {code} with other than {nbytes} bytes"
        )
    try:
        if offset == -1:
            return name, np.ndarray(axes, dtype, contents)
        if memory is None:
            return name, mapped.array(offset, axes, dtype)
        return name, np.ndarray(axes, dtype, memory.data, offset - room[0])
    except (TypeError, ValueError, OverflowError, MemoryError):
        raise ValueError(f"a tensor of shape {axes}, which cannot be made") from None


def _shape(shape: Any) -> tuple[int, ...]:
    if type(shape) is not list or len(shape) > MAX_AXES:
        raise ValueError("a tensor without a shape")
    for axis in shape:
        if type(axis) is not int or axis < 0:
            raise ValueError("a tensor with an axis that is no length")
    return tuple(shape)


def _inside(offset: int, nbytes: Any, room: tuple[int, int]) -> int:
    start, stop = room
    if type(nbytes) is not int or nbytes < 0 or offset < start or offset + nbytes > stop:
        raise ValueError("a tensor outside the memory for it")
    if offset % ALIGNMENT:
        raise ValueError("a tensor that is not aligned")
    return offset


def _elements(packed: bytes, shape: tuple[int, ...]) -> Array:
    try:
        elements = msgpack.unpackb(packed)
    except Exception as error:  # noqa: BLE001 - of many kinds, and the bytes are foreign
        raise ValueError(f"BYTES that are not msgpack: {type(error).__name__}") from None
    if type(elements) is not list or len(elements) != prod(shape):
        raise ValueError("BYTES with another number of elements than their shape has")
    for element in elements:
        if type(element) is not bytes and type(element) is not str:
            raise ValueError("BYTES with an element that is neither bytes nor text")
    array: Array = np.empty(len(elements), np.object_)
    array[:] = elements
    return array.reshape(shape)
