"""Reads a `ModelInferResponse` into arrays: views of the message where its contents are raw.

The message comes from another process, so nothing of it is believed: names, datatypes and shapes must
be those of the model, the rows those of the batch, and contents as long as their shape says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from math import prod
from typing import Final, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from batcher.errors import shown
from batcher.protocol import inference
from batcher.protocol.elements import MalformedTensorError, from_raw, from_typed
from batcher.tensors import DTYPES, Array, TensorSpec

MAX_OUTPUTS: Final = 4096
"""The most outermost fields of an answer; no model has half as many."""

_SMALL: Final = 256
"""Bytes up to which a read header is kept: names, datatypes and shapes repeat."""

_MODEL_NAME, _MODEL_VERSION, _ID, _PARAMETERS, _OUTPUTS, _RAW = 1, 2, 3, 4, 5, 6

SHARED_MEMORY: Final = "shared_memory_region"
"""The parameter of an output whose contents are in shared memory."""


class WrongAnswerError(ValueError):
    """The neighbor's answer does not fit the model or the batch, or is no `ModelInferResponse`."""


class Output(NamedTuple):
    """One output as the answer describes it. `typed` are its contents unless they are raw."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    shared: bool
    typed: inference.InferTensorContents | None


Contents = tuple[bytes | memoryview, int, int]
"""A buffer, and where an output's contents begin in it and how long they are."""


class AnswerReader:
    """Reads the answers of one model."""

    def __init__(self, outputs: Mapping[str, TensorSpec], *, batched: bool) -> None:
        """`batched`: whether the outputs have the rows of the batch first."""
        self._specs = outputs
        self._batched = batched

    def read(
        self,
        data: bytes,
        wanted: frozenset[str],
        rows: int,
        shared: Mapping[str, memoryview] | None = None,
    ) -> dict[str, Array]:
        """The wanted outputs; others of the model that the answer has as well are left out.

        `shared` has the memory of the outputs that the neighbor was asked to put there. Raises
        `WrongAnswerError`.
        """
        found: dict[str, Array] = {}
        for output, contents in _outputs(data):
            name = output.name
            spec = self._specs.get(name)
            if spec is None:
                known = ", ".join(self._specs)
                raise WrongAnswerError(
                    f"an output {shown(name)} that the model lacks; it has {known}"
                )
            if name in found:
                raise WrongAnswerError(f"output {shown(name)} twice")
            if name not in wanted:
                continue
            self._check(output, spec, rows)
            # Triton answers with empty contents, and does not repeat the parameter that it was sent.
            there = not contents or not contents[2]
            if output.shared or (there and shared is not None and name in shared):
                contents = _shared(name, shared)  # noqa: PLW2901 - where they really are
            found[name] = _array(output, contents)
        missing = wanted.difference(found)
        if missing:
            raise WrongAnswerError(f"no output {', '.join(map(shown, sorted(missing)))}")
        return found

    def _check(self, output: Output, spec: TensorSpec, rows: int) -> None:
        what = f"output {shown(output.name)}"
        if output.datatype != spec.datatype:
            raise WrongAnswerError(f"{what} as {shown(output.datatype)}, not {spec.datatype}")
        shape = output.shape
        fits = len(shape) == len(spec.shape) and all(
            got == want or (want < 0 <= got) for got, want in zip(shape, spec.shape, strict=True)
        )
        if not fits:
            raise WrongAnswerError(
                f"{what} of shape {list(shape)}, which {list(spec.shape)} excludes"
            )
        if self._batched and shape[0] != rows:
            raise WrongAnswerError(f"{what} of shape {list(shape)} for a batch of {rows} rows")


def _shared(name: str, shared: Mapping[str, memoryview] | None) -> Contents:
    if shared is None or name not in shared:
        raise WrongAnswerError(
            f"output {shown(name)} in shared memory that it was not asked to use"
        )
    return shared[name], 0, len(shared[name])


def _array(output: Output, contents: Contents | None) -> Array:
    elements = prod(output.shape)
    try:
        if output.typed is not None:
            return from_typed(output.typed, output.datatype, output.shape, elements)
        if contents is None:
            if elements:
                raise MalformedTensorError("no contents")
            contents = b"", 0, 0
        data, offset, length = contents
        if isinstance(data, memoryview):
            return np.ndarray(output.shape, DTYPES[output.datatype], data[:length])
        return from_raw(data, offset, length, output.datatype, output.shape, elements)
    except ValueError as error:  # contents that do not fit, or a shape that numpy cannot have
        raise WrongAnswerError(f"a malformed output {shown(output.name)}: {error}") from error


def _outputs(data: bytes) -> Iterator[tuple[Output, Contents | None]]:
    """Each output with its raw contents, if it has any."""
    headers: list[Output] = []
    raw: list[Contents] = []
    for field, start, stop in _fields(data):
        if field == _OUTPUTS:
            small = stop - start <= _SMALL
            headers.append((_header if small else _read_header)(data[start:stop]))
        elif field == _RAW:
            raw.append((data, start, stop - start))
    if len(raw) == len(headers):
        yield from zip(headers, raw, strict=True)
        return
    # Servers leave out the entries of outputs that are typed or in shared memory.
    mine = [header for header in headers if header.typed is None and not header.shared]
    if len(raw) not in {0, len(mine)}:
        raise WrongAnswerError(f"{len(headers)} outputs and {len(raw)} raw contents")
    entries = iter(raw)
    for header in headers:
        yield header, next(entries, None) if header in mine else None


def _fields(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The number of each outermost field with the positions where its contents begin and end."""
    position, end = 0, len(data)
    for _ in range(MAX_OUTPUTS):
        if position == end:
            return
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == 2:
            length, position = _varint(data, position)
            stop = position + length
        elif kind == 0:
            stop = _varint(data, position)[1]
        elif kind in {1, 5}:
            stop = position + (8 if kind == 1 else 4)
        else:
            raise WrongAnswerError(f"{end} bytes that are no ModelInferResponse")
        if stop > end or not tag >> 3:
            raise WrongAnswerError(f"{end} bytes that are no ModelInferResponse")
        if kind == 2:
            yield tag >> 3, position, stop
        position = stop
    if position != end:
        raise WrongAnswerError(f"more than {MAX_OUTPUTS} fields")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    try:
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
            shift += 7
            if shift > 63:
                break
    except IndexError:
        pass
    raise WrongAnswerError(f"{len(data)} bytes that are no ModelInferResponse")


def _read_header(data: bytes) -> Output:
    try:
        tensor = inference.ModelInferResponse.InferOutputTensor.FromString(data)
    except DecodeError as error:
        raise WrongAnswerError(
            f"an output ({len(data)} bytes) that is not valid protobuf"
        ) from error
    typed = (
        tensor.contents if tensor.HasField("contents") and tensor.contents.ListFields() else None
    )
    shape = tuple(tensor.shape)
    if any(size < 0 for size in shape) or prod(shape) > 2**40:
        raise WrongAnswerError(f"output {shown(tensor.name)} of shape {list(shape)}")
    shared = SHARED_MEMORY in tensor.parameters
    return Output(tensor.name, tensor.datatype, shape, shared, typed)


_header = lru_cache(maxsize=1024)(_read_header)
