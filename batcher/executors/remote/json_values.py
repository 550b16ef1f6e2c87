"""Arrays as JSON values, and back.

JSON has no NaN and no infinity, no bytes, and one kind of number. So:

- a value that JSON cannot carry exactly is refused (`unfit`), never changed;
- numbers are written with as many digits as it takes to read the same value again, and whole numbers are
  exact at any size;
- what an answer has must be the declared datatype's: a fraction, or a whole number that went through a
  floating-point number beyond 2^53, is no INT64. `null` is no number: servers write it for NaN and for infinity
  alike. The words NaN and Infinity, which are not JSON and which Python writes, are read as what they say.
- BYTES are text, or `{"b64": "..."}` as in the KServe protocol, version 1.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from batcher.tensors import DTYPES, Array

__all__ = ["BytesStyle", "JsonError", "dumps", "from_json", "loads", "to_json", "unfit"]

BytesStyle: TypeAlias = Literal["text", "base64"]
"""How BYTES are written: as text, which must be UTF-8, or all as `{"b64": ...}`."""

_EXACT: Final = 1 << 53
"""Up to here every whole number is a floating-point number of its own."""

_FLOATS: Final = frozenset({"FP16", "FP32", "FP64", "BF16"})


class JsonError(ValueError):
    """Why a JSON value is not the tensor that it should be."""


def dumps(value: object) -> bytes:
    """A value as JSON in UTF-8. Raises ValueError for NaN and infinity."""
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()


def loads(data: bytes) -> Any:
    """The value that the JSON has. Raises `JsonError`."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise JsonError(f"it is not JSON ({error})") from None


def unfit(array: Array, datatype: str, style: BytesStyle) -> dict[int, str]:
    """Place along axis 0 -> why JSON cannot carry what is there; empty if it can carry all."""
    if datatype in _FLOATS:
        values = _widened(array, datatype)
        finite = np.isfinite(values)
        if finite.all():
            return {}
        rows = np.flatnonzero(~finite.reshape(len(array), -1).all(axis=1))
        return dict.fromkeys(rows.tolist(), "NaN or infinity, which JSON cannot carry")
    if datatype != "BYTES" or style == "base64":
        return {}
    found: dict[int, str] = {}
    for row, values in enumerate(array.reshape(len(array), -1)):
        try:
            for value in values:
                value.decode()
        except UnicodeDecodeError:
            found[row] = "BYTES that are not UTF-8 (options.bytes: base64 would send them)"
    return found


def to_json(array: Array, datatype: str, style: BytesStyle) -> Any:
    """The array as nested lists; call `unfit` before. A 0-dimensional one becomes a single value."""
    if datatype == "BYTES":
        write = _text if style == "text" else _base64
        written = np.empty(array.shape, object)
        for place, value in enumerate(array.flat):
            written.flat[place] = write(value)
        return written.tolist()
    return _widened(array, datatype).tolist()


def from_json(value: Any, datatype: str) -> Array:
    """The array that nested lists are, of the dtype for `datatype`. Raises `JsonError`.

    Its shape is that of the lists.
    """
    if datatype in _FLOATS:
        return _floats(value, datatype)
    try:
        values = np.array(value, object)
    except ValueError:
        raise JsonError("its lists are not equally long") from None
    flat = values.ravel().tolist()
    kinds = set(map(type, flat))
    if list in kinds:
        raise JsonError("its lists are not equally long")
    if datatype == "BYTES":
        made = np.empty(values.shape, object)
        for place, each in enumerate(flat):
            made.flat[place] = _bytes(each)
        return made
    if datatype == "BOOL":
        if not kinds <= {bool, int} or not all(each in (0, 1) for each in flat):
            raise JsonError("it has values other than true and false (and 1 and 0)")
        return values.astype(np.bool_)
    return _integers(values, flat, kinds, datatype)


def _integers(values: Array, flat: list[Any], kinds: set[type], datatype: str) -> Array:
    if not kinds <= {int, float}:
        raise JsonError(f"it has {_names(kinds - {int, float})} where {datatype} has whole numbers")
    if float in kinds:
        for each in flat:
            if type(each) is float and not (each.is_integer() and abs(each) <= _EXACT):
                raise JsonError(f"it has a number that is no {datatype}")
        values = np.array([int(each) for each in flat], object).reshape(values.shape)
    limits = np.iinfo(DTYPES[datatype])
    if flat and not (limits.min <= min(flat) and max(flat) <= limits.max):
        raise JsonError(f"it has a number that is no {datatype}")
    return values.astype(DTYPES[datatype])


def _floats(value: Any, datatype: str) -> Array:
    try:
        found = np.array(value)
        if found.dtype.kind not in "iuf":  # whole numbers of any size, or a fault
            found = _checked_numbers(np.array(value, object), datatype)
    except JsonError:
        raise
    except ValueError:
        raise JsonError("its lists are not equally long") from None
    except OverflowError:
        raise JsonError(f"it has a number that is too large for {datatype}") from None
    wide = found.astype(np.float64)
    if datatype == "FP64":
        return wide
    narrow = np.float32 if datatype == "BF16" else DTYPES[datatype]
    with np.errstate(over="ignore"):
        made = wide.astype(narrow)
        if datatype == "BF16":
            made, bits = _bfloat16(made.astype(np.float32))
        else:
            bits = made
    if bool((np.isinf(made) & np.isfinite(wide)).any()):
        raise JsonError(f"it has a number that is too large for {datatype}")
    return bits


def _checked_numbers(values: Array, datatype: str) -> Array:
    kinds = set(map(type, values.ravel().tolist()))
    if list in kinds:
        raise JsonError("its lists are not equally long")
    if not kinds <= {int, float}:
        raise JsonError(f"it has {_names(kinds - {int, float})} where {datatype} has numbers")
    return values.astype(np.float64)


def _bfloat16(values: Array) -> tuple[Array, Array]:
    """FP32 values rounded to the nearest BF16 (ties to even): as FP32, and as raw bits."""
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    rounded[np.isnan(values)] = 0x7FC0
    return (rounded.astype(np.uint32) << 16).view(np.float32), rounded


def _widened(array: Array, datatype: str) -> Array:
    """The numbers of an array: BF16, which is kept as raw bits, becomes FP32."""
    if datatype != "BF16":
        return array
    return (array.astype(np.uint32) << 16).view(np.float32)


def _text(value: bytes) -> str:
    return value.decode()


def _base64(value: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode()}


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise JsonError("it has text that UTF-8 cannot carry") from None
    if isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except binascii.Error:
            raise JsonError("it has a b64 that is not base64") from None
    raise JsonError(f"it has {_names({type(value)})} where BYTES has text or b64")


_WORDS: Final = {
    type(None): "null",
    bool: "true or false",
    int: "numbers",
    float: "numbers",
    str: "text",
    dict: "objects",
    list: "lists",
}


def _names(kinds: set[type]) -> str:
    return ", ".join(sorted({_WORDS.get(kind, kind.__name__) for kind in kinds}))
