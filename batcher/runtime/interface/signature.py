"""What a model accepts, ready to be checked in constant time.

A request that passes `validate` can be executed: its inputs are the model's, of the right datatype,
rank and fixed dimensions, and agree on their number of rows. What the scheduler needs to know of it
comes back as a `RequestSummary`; the tensors stay here.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

import numpy as np

from batcher import triton
from batcher.core.events import Shapes
from batcher.core.record import record
from batcher.errors import InvalidRequest, shown
from batcher.executor import ModelMetadata
from batcher.runtime.interface.padding import Padding
from batcher.runtime.request import InferenceRequest
from batcher.tensors import Tensor, TensorSpec

BYTES_ELEMENT_OVERHEAD = 4
"""What each element of a BYTES tensor takes on the wire beside its own bytes."""

MAX_SHARED_INPUT_BYTES: Final = 1024 * 1024
"""Shared inputs of one request, together. All of them is read, on the event loop, to tell which
requests have equal ones: about a millisecond for this much."""


@record
class RequestSummary:
    """A valid request in the scheduler's terms."""

    rows: int
    nbytes: int
    shapes: Shapes
    batch_key: str


class Signature:
    """One loaded model's inputs and outputs, and what its variable axes are padded to."""

    def __init__(
        self, model: str, metadata: ModelMetadata, max_rows: int, padding: Padding | None = None
    ) -> None:
        self.model = model
        self.max_rows = max_rows
        self.inputs = {spec.name: spec for spec in metadata.inputs}
        self.outputs = {spec.name: spec for spec in metadata.outputs}
        self._specs = metadata.inputs
        self._padding = padding
        self._varies = any(-1 in spec.inner for spec in metadata.inputs)
        self._optional = any(spec.optional for spec in metadata.inputs)
        self._parameters = metadata.parameters
        whole = [spec.name for spec in metadata.inputs if not spec.batched]
        # Without a batch axis no two requests share a batch, whatever they hold.
        self._shared = whole if all(spec.batched for spec in metadata.outputs) else []
        self._keyed = bool(self._parameters or self._optional or self._shared)
        self._equally_long = _equally_long(metadata.inputs)

    def validate(self, request: InferenceRequest) -> RequestSummary:
        """Check a request; raises `InvalidRequest` naming the input, what was expected and got."""
        inputs = request.inputs
        rows = -1
        nbytes = 0
        present = 0
        shapes: list[tuple[int, ...]] = []
        for spec in self._specs:
            tensor = inputs.get(spec.name)
            if tensor is None:
                if spec.optional:
                    if self._varies:
                        shapes.append(())
                    continue
                raise self._missing(spec, inputs)
            present += 1
            array = tensor.array
            shape = array.shape
            if tensor.datatype != spec.datatype:
                raise self._wrong_datatype(spec, tensor.datatype)
            inner = shape[1:]
            if inner != spec.shape[1:] or len(shape) != len(spec.shape) or not spec.batched:
                inner = self._inner(spec, shape)
            if spec.batched and shape[0] != rows:
                rows = self._agree(spec, shape[0], rows)
            if self._varies:
                shapes.append(inner)
            nbytes += array.nbytes if spec.datatype != "BYTES" else _bytes_size(tensor)
        if present != len(inputs):
            raise self._unknown_input(inputs)
        self._check_outputs(request.outputs or ())
        own = tuple(shapes)
        if self._equally_long:
            self._check_lengths(own)
        if self._padding is not None:
            self._padding.check(own)
        # Where no input has rows, or none of those that have is there, the request is one row.
        key = self._batch_key(request) if self._keyed else ""
        return RequestSummary(rows if rows > 0 else 1, nbytes, own, key)

    def _wrong_datatype(self, spec: TensorSpec, got: str) -> InvalidRequest:
        return InvalidRequest(
            f"{self.model}: input {spec.name!r} must be {spec.datatype}, got {got}",
            triton=triton.wrong_datatype(self.model, spec.name, spec.datatype, got),
        )

    def _inner(self, spec: TensorSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The axes beside the rows, if they are the model's."""
        fits = len(shape) == len(spec.shape) and all(
            want in {-1, got} for want, got in zip(spec.shape, shape, strict=True)
        )
        if not fits:
            raise InvalidRequest(
                f"{self.model}: input {spec.name!r} must have shape {list(spec.shape)}"
                f" (-1 varies), got {list(shape)}",
                triton=triton.wrong_shape(
                    self.model, spec.name, spec.shape, shape, batched=spec.batched
                ),
            )
        return shape[1:] if spec.batched else shape

    def _agree(self, spec: TensorSpec, got: int, rows: int) -> int:
        if rows >= 0:
            raise InvalidRequest(
                f"{self.model}: inputs disagree on the number of rows:"
                f" {spec.name!r} has {got}, the ones before it have {rows}",
                triton=triton.rows_disagree(self.model, spec.name),
            )
        if got == 0:
            raise InvalidRequest(
                f"{self.model}: input {spec.name!r} has zero rows; a request needs at least one"
            )
        if got > self.max_rows:
            raise InvalidRequest(
                f"{self.model}: {got} rows in one request, at most {self.max_rows}"
                " (max_batch_size x queue.max_batches_per_request, or queue.max_rows) can be served",
                triton=triton.too_many_rows(self.model, self.max_rows),
            )
        return got

    def _missing(self, spec: TensorSpec, inputs: dict[str, Tensor]) -> InvalidRequest:
        return InvalidRequest(
            f"{self.model}: input {spec.name!r} is missing;"
            f" expected {spec.datatype} of shape {list(spec.shape)}",
            triton=self._triton_says(inputs),
        )

    def _unknown_input(self, inputs: dict[str, Tensor]) -> InvalidRequest:
        name = next(name for name in inputs if name not in self.inputs)
        known = ", ".join(self.inputs) or "none"
        return InvalidRequest(
            f"{self.model}: unknown input {shown(name)}; the inputs are {known}",
            triton=self._triton_says(inputs),
        )

    def _triton_says(self, inputs: dict[str, Tensor]) -> str:
        """Of inputs that are not the model's: it counts them first, and then looks at their names."""
        required = [spec.name for spec in self._specs if not spec.optional]
        if len(required) <= len(inputs) <= len(self._specs):
            name = next(name for name in inputs if name not in self.inputs)
            return triton.unexpected_input(self.model, name)
        return triton.wrong_inputs(self.model, list(inputs), required, len(self._specs))

    def _check_lengths(self, shapes: Shapes) -> None:
        """Axes of one name must be equally long: else a mask would not belong to its tokens."""
        for name, axes in self._equally_long:
            length = -1
            for place, axis in axes:
                shape = shapes[place]
                if not shape:
                    continue
                if length >= 0 and shape[axis] != length:
                    raise self._of_different_lengths(name, axes, shapes)
                length = shape[axis]

    def _of_different_lengths(
        self, name: str, axes: Sequence[tuple[int, int]], shapes: Shapes
    ) -> InvalidRequest:
        told = ", ".join(
            self._length_of(place, axis, shapes) for place, axis in axes if shapes[place]
        )
        return InvalidRequest(
            f"{self.model}: inputs disagree on the length of {name!r}, an axis that they share:"
            f" {told}"
        )

    def _length_of(self, place: int, axis: int, shapes: Shapes) -> str:
        spec = self._specs[place]
        return f"{spec.name!r} has {shapes[place][axis]} on axis {axis + spec.batched}"

    def _check_outputs(self, names: tuple[str, ...]) -> None:
        for name in names:
            if name not in self.outputs:
                raise InvalidRequest(
                    f"{self.model}: unknown output {shown(name)};"
                    f" the outputs are {', '.join(self.outputs)}",
                    triton=triton.unexpected_output(self.model, name),
                )

    def _batch_key(self, request: InferenceRequest) -> str:
        """Equal for requests that one call of the executor can serve; empty for the usual one.

        The text of a tuple of tuples: no two that differ have the same, whatever their names and
        values are.
        """
        given = request.parameters
        read = tuple([(name, given[name]) for name in self._parameters if given and name in given])
        if not (read or self._optional or self._shared):
            return ""
        absent = tuple([name for name in self.inputs if name not in request.inputs])
        return repr((absent, read, self._digests(request.inputs) if self._shared else ()))

    def _digests(self, inputs: dict[str, Tensor]) -> tuple[str, ...]:
        """What tells the shared inputs of a request from any others, in the model's order."""
        there = [inputs[name] for name in self._shared if name in inputs]
        size = sum(_wire_size(tensor) for tensor in there)
        if size > MAX_SHARED_INPUT_BYTES:
            raise InvalidRequest(
                f"{self.model}: {', '.join(self._shared)} have {size} bytes, at most"
                f" {MAX_SHARED_INPUT_BYTES} of inputs that requests share (batched: false) can be served"
            )
        return tuple([_digest(tensor) for tensor in there])


def _equally_long(
    specs: Sequence[TensorSpec],
) -> tuple[tuple[str, tuple[tuple[int, int], ...]], ...]:
    """Names of axes that stand at more than one place, with the places: (input, axis in a row)."""
    axes: dict[str, list[tuple[int, int]]] = {}
    for place, spec in enumerate(specs):
        for axis, name in enumerate(spec.dims[1:] if spec.batched else spec.dims):
            if name is not None and spec.inner[axis] < 0:
                axes.setdefault(name, []).append((place, axis))
    return tuple((name, tuple(places)) for name, places in axes.items() if len(places) > 1)


def _digest(tensor: Tensor) -> str:
    """Equal for tensors of one datatype, one shape and the same bytes, and for no others.

    A cryptographic hash: a collision would put a stranger's values among a caller's rows.
    """
    array = tensor.array
    found = blake2b(repr((tensor.datatype, array.shape)).encode(), digest_size=32)
    if tensor.datatype == "BYTES":
        elements = array.ravel().tolist()
        found.update(np.fromiter(map(len, elements), np.int64, len(elements)).tobytes())
        found.update(b"".join(elements))
    else:
        found.update(array.tobytes())
    return found.hexdigest()


def _wire_size(tensor: Tensor) -> int:
    return _bytes_size(tensor) if tensor.datatype == "BYTES" else tensor.array.nbytes


def _bytes_size(tensor: Tensor) -> int:
    elements = tensor.array.ravel().tolist()
    return sum(map(len, elements)) + BYTES_ELEMENT_OVERHEAD * len(elements)
