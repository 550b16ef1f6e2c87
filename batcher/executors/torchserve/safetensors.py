"""Tensors in the format safetensors: the length of a JSON header, the header, and the elements.

The header maps each name to its dtype, its shape and where its elements begin and end; elements are
little-endian and in row-major order. The key `__metadata__` holds texts by name. Handlers read and write it by
`safetensors.torch.load` and `save`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import Any, Final

import numpy as np

from batcher.errors import shown
from batcher.executors.remote.contents import raw_contents
from batcher.protocol.elements import from_raw
from batcher.tensors import Array

__all__ = ["FormatError", "load", "save"]

_DTYPES: Final = {
    "BOOL": "BOOL",
    "UINT8": "U8",
    "UINT16": "U16",
    "UINT32": "U32",
    "UINT64": "U64",
    "INT8": "I8",
    "INT16": "I16",
    "INT32": "I32",
    "INT64": "I64",
    "FP16": "F16",
    "FP32": "F32",
    "FP64": "F64",
    "BF16": "BF16",
}
"""Protocol datatype -> the format's dtype."""

_METADATA: Final = "__metadata__"


class FormatError(ValueError):
    """Why bytes are not the tensors that they should be."""


def save(tensors: Mapping[str, tuple[str, Array]]) -> bytes:
    """The bytes of tensors: name -> datatype and array."""
    header: dict[str, Any] = {}
    contents = []
    offset = 0
    for name, (datatype, array) in tensors.items():
        raw = raw_contents(array)
        end = offset + len(raw)
        header[name] = {
            "dtype": _DTYPES[datatype],
            "shape": list(array.shape),
            "data_offsets": [offset, end],
        }
        contents.append(raw)
        offset = end
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)  # so that the elements are aligned
    return b"".join((len(head).to_bytes(8, "little"), head, *contents))


def load(data: bytes, datatypes: Mapping[str, str]) -> tuple[dict[str, Array], dict[str, str]]:
    """The tensors that `datatypes` names, and the metadata. Raises `FormatError`.

    The arrays are views of `data`, unless they would not be aligned.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise FormatError("it is not in the format safetensors")
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        raise FormatError("it is not in the format safetensors") from None
    if not isinstance(header, dict):
        raise FormatError("it is not in the format safetensors")
    found = header.pop(_METADATA, {})
    metadata = found if isinstance(found, dict) else {}
    tensors = {}
    for name, datatype in datatypes.items():
        if name not in header:
            raise FormatError(f"it has no output {name!r}")
        try:
            tensors[name] = _tensor(header[name], datatype, data, 8 + length)
        except FormatError as error:
            raise FormatError(f"output {name!r}: {error}") from None
    return tensors, {str(key): str(value) for key, value in metadata.items()}


def _tensor(entry: Any, datatype: str, data: bytes, start: int) -> Array:
    if not isinstance(entry, dict):
        raise FormatError("its entry is no object")
    if entry.get("dtype") != _DTYPES[datatype]:
        raise FormatError(f"its dtype is {shown(str(entry.get('dtype')))}, not {_DTYPES[datatype]}")
    shape, offsets = _numbers(entry.get("shape")), _numbers(entry.get("data_offsets"))
    if len(offsets) != 2 or not offsets[0] <= offsets[1] <= len(data) - start:
        raise FormatError("its offsets are outside of the data")
    try:
        array = from_raw(
            data, start + offsets[0], offsets[1] - offsets[0], datatype, shape, prod(shape)
        )
    except ValueError as error:
        raise FormatError(str(error)) from None
    return array if array.flags.aligned else np.array(array)


def _numbers(found: Any) -> tuple[int, ...]:
    if not isinstance(found, list) or not all(type(each) is int and each >= 0 for each in found):
        raise FormatError("its shape or its offsets are no whole numbers")
    return tuple(found)
