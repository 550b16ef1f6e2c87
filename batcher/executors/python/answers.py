"""What a function returned as the outputs of a batch, checked against what it says that it returns."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from batcher.errors import describe
from batcher.executor import DTYPES, Array, Batch, ExecutionError, TensorSpec
from batcher.executors.python.interface import Interface

__all__ = ["Answers"]

_FITTING: Final = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}
"""The kind of a numpy dtype -> the kinds that values of Python may have for it."""


MOST_KINDS: Final = 16
"""Types of results that are remembered. A function returns one or two; one that made a class for each call
would fill memory."""


class Answers:
    """Makes outputs of what a function returns. `name` is the function's, for messages."""

    def __init__(self, interface: Interface, name: str) -> None:
        self._specs = interface.outputs
        self._inputs = [each.spec for each in interface.inputs]
        self._fields = interface.fields
        self._name = name
        self._readers: dict[type, Callable[[Any], Sequence[Any]]] = {}

    def of_batch(self, result: object, rows: int, wanted: Iterable[str] | None) -> dict[str, Array]:
        """The outputs of a function that took all rows.

        Raises `ExecutionError`, which names the output and what is wrong with it.
        """
        values = self._values(result)
        return {
            spec.name: self._array(spec, value, rows)
            for spec, value in zip(self._specs, values, strict=True)
            if wanted is None or spec.name in wanted
        }

    def of_none(self, batch: Batch) -> dict[str, Array]:
        """Outputs of zeros and empty text, for a batch whose rows have all failed.

        A variable axis is as long as that of its name in an input, else as the first that varies.
        """
        lengths: dict[str | None, int] = {}
        for spec in self._inputs:
            shape = batch.inputs[spec.name].shape if spec.name in batch.inputs else ()
            names = spec.dims or (None,) * len(shape)
            for axis, length in enumerate(shape):
                if axis and spec.shape[axis] < 0:
                    lengths.setdefault(names[axis], length)
                    lengths.setdefault(None, length)
        outputs = {}
        for spec in self._specs:
            if batch.outputs is not None and spec.name not in batch.outputs:
                continue
            names = spec.dims or (None,) * len(spec.shape)
            sizes = [
                lengths.get(name, lengths.get(None, 1)) if length < 0 else length
                for length, name in zip(spec.shape, names, strict=True)
            ]
            if spec.batched:
                sizes[0] = batch.rows
            outputs[spec.name] = _zeros(sizes, DTYPES[spec.datatype])
        return outputs

    def of_rows(
        self, results: Mapping[int, object], rows: int, wanted: Iterable[str] | None
    ) -> dict[str, Array]:
        """The outputs of a function that took one row: row -> what it returned, at least one.

        Rows that are not there have failed; they get zeros and empty text. Raises as `of_batch`.
        """
        values = {row: self._values(result) for row, result in results.items()}
        outputs = {}
        for place, spec in enumerate(self._specs):
            if wanted is not None and spec.name not in wanted:
                continue
            column = [values[row][place] for row in results]
            array = self._array(spec, column, len(column))
            if len(column) < rows:
                whole = _zeros((rows, *array.shape[1:]), array.dtype)
                whole[list(results)] = array
                array = whole
            outputs[spec.name] = array
        return outputs

    def _values(self, result: object) -> Sequence[Any]:
        """The value of each output."""
        kind = type(result)
        read = self._readers.get(kind)
        if read is None:
            read = self._reader(result)
            if len(self._readers) < MOST_KINDS:
                self._readers[kind] = read
        return read(result)

    def _reader(self, result: Any) -> Callable[[Any], Sequence[Any]]:
        """What takes the values out of results of this kind. Raises `ExecutionError` if there is none."""
        if inspect.iscoroutine(result):
            result.close()
        kind = "None" if result is None else type(result).__name__
        if inspect.isawaitable(result) or inspect.isgenerator(result) or inspect.isasyncgen(result):
            raise ExecutionError(f"{self._name} returned a {kind}; allowed: {self._allowed()}")
        if isinstance(result, Mapping):
            return self._by_key
        if dataclasses.is_dataclass(result) or hasattr(result, "_fields"):
            return self._by_attribute
        if len(self._specs) == 1 and result is not None:
            return lambda result: (result,)
        if isinstance(result, (tuple, list)):
            return self._by_place
        raise ExecutionError(f"{self._name} returned {kind}; allowed: {self._allowed()}")

    def _by_key(self, result: Mapping[str, Any]) -> Sequence[Any]:
        return self._all_there([result.get(field) for field in self._fields])

    def _by_attribute(self, result: object) -> Sequence[Any]:
        return self._all_there([getattr(result, field, None) for field in self._fields])

    def _by_place(self, result: Sequence[Any]) -> Sequence[Any]:
        if len(result) != len(self._specs):
            raise ExecutionError(
                f"{self._name} returned {len(result)} values; allowed: {self._allowed()}"
            )
        return result

    def _all_there(self, values: Sequence[Any]) -> Sequence[Any]:
        for value, spec in zip(values, self._specs, strict=True):
            if value is None:
                raise ExecutionError(f"{self._name} returned no output {spec.name!r}")
        return values

    def _allowed(self) -> str:
        names = ", ".join(spec.name for spec in self._specs)
        return f"a value for output {names}" if len(self._specs) == 1 else f"values for {names}"

    def _array(self, spec: TensorSpec, value: Any, rows: int) -> Array:
        """The array of an output, of all rows."""
        dtype = DTYPES[spec.datatype]
        try:
            array = _texts(value) if dtype.hasobject else _numbers(value, dtype)
        except _Wrong as wrong:
            raise ExecutionError(
                f"{self._name} returned a wrong output {spec.name!r}: {wrong}"
            ) from None
        shape = (rows, *spec.inner) if spec.batched else spec.shape
        fits = len(array.shape) == len(shape) and all(
            want in (-1, have) for want, have in zip(shape, array.shape, strict=True)
        )
        if not fits:
            raise ExecutionError(
                f"{self._name} returned a wrong output {spec.name!r}: its shape is"
                f" {list(array.shape)}; allowed: {list(shape)}"
            )
        return array


def _zeros(shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """Zeros, or empty texts."""
    return np.full(shape, b"" if dtype.hasobject else 0, dtype)


class _Wrong(Exception):
    """What is wrong with a value."""


def _numbers(value: Any, dtype: np.dtype[Any]) -> Array:
    """An array has to have the dtype; numbers of Python are converted to it."""
    exact = isinstance(value, np.ndarray) or hasattr(value, "__array__")
    if isinstance(value, (list, tuple)):
        for each in value:
            if isinstance(each, np.ndarray) and each.dtype != dtype:
                raise _Wrong(f"its dtype is {each.dtype}, not {dtype}")
    try:
        array = np.asarray(value)
    except Exception as error:  # noqa: BLE001 - of a foreign `__array__`, or rows of different shapes
        raise _Wrong(f"it cannot become an array of {dtype}: {describe(error)}") from None
    if array.dtype == dtype:
        return array
    if exact and not isinstance(value, np.generic):
        raise _Wrong(f"its dtype is {array.dtype}, not {dtype}")
    if array.dtype.kind not in _FITTING[dtype.kind]:
        raise _Wrong(f"its values are {array.dtype}, not {dtype}")
    if dtype.kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise _Wrong(f"it has a value outside of {limits.min} to {limits.max} ({dtype})")
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def _texts(value: Any) -> Array:
    """An array of bytes. Text is encoded as UTF-8."""
    try:
        array = np.asarray(value) if hasattr(value, "__array__") else _objects(value)
    except Exception as error:  # noqa: BLE001 - of a foreign `__array__`, or no sequence
        raise _Wrong(f"it cannot become an array of texts: {describe(error)}") from None
    texts = np.empty(array.shape, np.object_)
    flat = texts.reshape(-1)
    for place, each in enumerate(array.reshape(-1).tolist()):
        if isinstance(each, str):
            try:
                flat[place] = each.encode()
            except UnicodeEncodeError:
                raise _Wrong("it has text that UTF-8 cannot encode") from None
        elif isinstance(each, bytes):
            flat[place] = each
        else:
            raise _Wrong(f"it has {type(each).__name__}; allowed: str and bytes")
    return texts


def _objects(value: Any) -> Array:
    return np.array(value, dtype=np.object_)
