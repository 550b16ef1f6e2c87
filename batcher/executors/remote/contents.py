"""The raw contents of an array, whatever its datatype."""

from __future__ import annotations

from batcher.protocol.elements import bytes_to_raw, to_raw
from batcher.tensors import Array

__all__ = ["raw_contents"]


def raw_contents(array: Array) -> bytes | memoryview:
    """The elements in row-major order, little-endian; each element of BYTES comes after its length."""
    if array.dtype == object:
        return b"".join(bytes_to_raw(array)[0])
    return to_raw(array)
