"""Validates requests against a loaded model, in time that does not depend on their size.

A request that passes `Signature.validate` can be executed: it has the model's inputs with the right
datatype, rank and fixed dimensions, and equally many rows in each. The scheduler gets a
`RequestSummary` of it and never sees a tensor.
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
from batcher.protocol.raw_tensor import RawTensor
from batcher.runtime.interface.forwarded import forwarded, forwarded_key
from batcher.runtime.interface.padding import Padding
from batcher.runtime.request import InferenceRequest
from batcher.tensors import Tensor, TensorSpec

BYTES_ELEMENT_OVERHEAD = 4
"""Bytes of the length prefix of each element of a BYTES tensor on the wire."""

MAX_SHARED_INPUT_BYTES: Final = 1024 * 1024
"""Bytes of all inputs without a batch axis in one request. They are hashed on the event loop, to
find the requests that may share a batch; this much takes about a millisecond."""


@record
class RequestSummary:
    """What the scheduler needs to know about a valid request."""

    rows: int
    nbytes: int
    shapes: Shapes
    batch_key: str


class Signature:
    """The inputs, outputs and padding of one loaded model."""

    def __init__(
        self,
        model: str,
        metadata: ModelMetadata,
        max_rows: int,
        padding: Padding | None = None,
        supplied: frozenset[str] = frozenset(),
    ) -> None:
        self.model = model
        self.max_rows = max_rows
        self._supplied = supplied
        """Inputs that clients do not send, because the server fills them: the state of sequences."""
        self.inputs = {spec.name: spec for spec in metadata.inputs if spec.name not in supplied}
        self.outputs = {spec.name: spec for spec in metadata.outputs}
        self._specs = metadata.inputs
        self._padding = padding
        self._varies = any(-1 in spec.inner for spec in metadata.inputs)
        self._optional = any(spec.optional for spec in metadata.inputs)
        self._parameters = metadata.parameters
        whole = [spec.name for spec in metadata.inputs if not spec.batched]
        # Without a batch axis no two requests share a batch, so nothing has to be hashed.
        self._shared = whole if all(spec.batched for spec in metadata.outputs) else []
        self._metadata = metadata.metadata
        self._keyed = bool(self._parameters or self._optional or self._shared or self._metadata)
        self._equally_long = _equally_long(metadata.inputs)

    def validate(self, request: InferenceRequest) -> RequestSummary:
        """Return the summary of a valid request.

        Raises `InvalidRequest`, which names the input, what it is and what was expected.
        """
        inputs = request.inputs
        rows = -1
        nbytes = 0
        present = 0
        shapes: list[tuple[int, ...]] = []
        if self._supplied and not self._supplied.isdisjoint(inputs):
            raise self._unknown_input(inputs)
        for spec in self._specs:
            tensor = inputs.get(spec.name)
            if tensor is None:
                shapes.append(self._absent(spec, inputs))
                continue
            present += 1
            # A raw tensor has a shape and a size, and its array would have to be made.
            sized = tensor.array if type(tensor) is Tensor else tensor
            shape = sized.shape
            if tensor.datatype != spec.datatype:
                raise self._wrong_datatype(spec, tensor.datatype)
            inner = shape[1:]
            if inner != spec.shape[1:] or len(shape) != len(spec.shape) or not spec.batched:
                inner = self._inner(spec, shape)
            if spec.batched and shape[0] != rows:
                rows = self._check_rows(spec, shape[0], rows)
            if self._varies:
                shapes.append(inner)
            nbytes += sized.nbytes if spec.datatype != "BYTES" else _bytes_size(tensor)
        if present != len(inputs):
            raise self._unknown_input(inputs)
        self._check_outputs(request.outputs or ())
        own = tuple(shapes) if self._varies else ()
        if self._equally_long:
            self._check_lengths(own)
        if self._padding is not None:
            self._padding.check(own)
        # A request whose inputs all lack a batch axis is one row.
        key = self._batch_key(request) if self._keyed else ""
        return RequestSummary(rows if rows > 0 else 1, nbytes, own, key)

    def _absent(self, spec: TensorSpec, inputs: dict[str, Tensor]) -> tuple[int, ...]:
        """The axes of an input that a request may lack. Raises `InvalidRequest` if it must not."""
        if spec.name in self._supplied:
            return spec.inner
        if spec.optional:
            return ()
        raise self._missing(spec, inputs)

    def _wrong_datatype(self, spec: TensorSpec, got: str) -> InvalidRequest:
        return InvalidRequest(
            f"{self.model}: input {spec.name!r} must be {spec.datatype}, got {got}",
            triton=triton.wrong_datatype(self.model, spec.name, spec.datatype, got),
        )

    def _inner(self, spec: TensorSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The axes after the batch axis. Raises `InvalidRequest` if they are not the model's."""
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

    def _check_rows(self, spec: TensorSpec, got: int, rows: int) -> int:
        if rows >= 0:
            raise InvalidRequest(
                f"{self.model}: inputs have different numbers of rows:"
                f" {spec.name!r} has {got}, the inputs before it have {rows}",
                triton=triton.rows_disagree(self.model, spec.name),
            )
        if got == 0:
            raise InvalidRequest(
                f"{self.model}: input {spec.name!r} has zero rows; allowed: at least one"
            )
        if got > self.max_rows:
            raise InvalidRequest(
                f"{self.model}: the request has {got} rows; allowed: at most {self.max_rows}"
                " (max_batch_size x queue.max_batches_per_request, or queue.max_rows); send several"
                " requests",
                triton=triton.too_many_rows(self.model, self.max_rows),
            )
        return got

    def _missing(self, spec: TensorSpec, inputs: dict[str, Tensor]) -> InvalidRequest:
        return InvalidRequest(
            f"{self.model}: input {spec.name!r} is missing;"
            f" expected {spec.datatype} of shape {list(spec.shape)}",
            triton=self._triton_text(inputs),
        )

    def _unknown_input(self, inputs: dict[str, Tensor]) -> InvalidRequest:
        name = next(name for name in inputs if name not in self.inputs)
        known = ", ".join(self.inputs) or "none"
        return InvalidRequest(
            f"{self.model}: unknown input {shown(name)}; the inputs are {known}",
            triton=self._triton_text(inputs),
        )

    def _triton_text(self, inputs: dict[str, Tensor]) -> str:
        """Triton's text for wrong inputs; Triton compares their number first, then their names."""
        required = [spec.name for spec in self.inputs.values() if not spec.optional]
        if len(required) <= len(inputs) <= len(self.inputs):
            name = next(name for name in inputs if name not in self.inputs)
            return triton.unexpected_input(self.model, name)
        return triton.wrong_inputs(self.model, list(inputs), required, len(self.inputs))

    def _check_lengths(self, shapes: Shapes) -> None:
        """Check that axes of one name are equally long, such as those of tokens and their mask."""
        for name, axes in self._equally_long:
            length = -1
            for place, axis in axes:
                shape = shapes[place]
                if not shape:
                    continue
                if length >= 0 and shape[axis] != length:
                    raise self._different_lengths(name, axes, shapes)
                length = shape[axis]

    def _different_lengths(
        self, name: str, axes: Sequence[tuple[int, int]], shapes: Shapes
    ) -> InvalidRequest:
        lengths = ", ".join(
            self._length_of(place, axis, shapes) for place, axis in axes if shapes[place]
        )
        return InvalidRequest(
            f"{self.model}: inputs have different lengths on the axis {name!r}, which they share:"
            f" {lengths}"
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
        """A key that is equal for requests which one batch can hold; usually empty.

        It covers absent optional inputs, parameters, metadata that is sent on, and inputs without a
        batch axis. Raises `InvalidRequest` for metadata that cannot be sent on. The `repr` of
        a tuple is unambiguous, whatever the names and values contain.
        """
        given = request.parameters
        read = tuple([(name, given[name]) for name in self._parameters if given and name in given])
        sent = ""
        if self._metadata and request.metadata:
            sent = forwarded_key(forwarded(self._metadata, request.metadata, self.model))
        if not (read or sent or self._optional or self._shared):
            return ""
        absent = tuple([name for name in self.inputs if name not in request.inputs])
        shared = self._digests(request.inputs) if self._shared else ()
        return repr((absent, read, shared, sent) if sent else (absent, read, shared))

    def _digests(self, inputs: dict[str, Tensor]) -> tuple[str, ...]:
        """A digest of each input without a batch axis, in the model's order."""
        there = [inputs[name] for name in self._shared if name in inputs]
        size = sum(_wire_size(tensor) for tensor in there)
        if size > MAX_SHARED_INPUT_BYTES:
            raise InvalidRequest(
                f"{self.model}: {', '.join(self._shared)} (inputs with batched: false) have {size}"
                f" bytes; allowed: at most {MAX_SHARED_INPUT_BYTES} together"
            )
        return tuple([_digest(tensor) for tensor in there])


def _equally_long(
    specs: Sequence[TensorSpec],
) -> tuple[tuple[str, tuple[tuple[int, int], ...]], ...]:
    """Names that several variable axes share -> their places: (input, axis within a row)."""
    axes: dict[str, list[tuple[int, int]]] = {}
    for place, spec in enumerate(specs):
        for axis, name in enumerate(spec.dims[1:] if spec.batched else spec.dims):
            if name is not None and spec.inner[axis] < 0:
                axes.setdefault(name, []).append((place, axis))
    return tuple((name, tuple(places)) for name, places in axes.items() if len(places) > 1)


def _digest(tensor: Tensor) -> str:
    """Equal for tensors of equal datatype, shape and bytes only.

    A cryptographic hash, because a collision would mix one caller's values into another's batch.
    """
    found = blake2b(repr((tensor.datatype, tensor.shape)).encode(), digest_size=32)
    if isinstance(tensor, RawTensor):
        found.update(tensor.raw)
        return f"raw {found.hexdigest()}"
    array = tensor.array
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
    if isinstance(tensor, RawTensor):
        return tensor.nbytes
    elements = tensor.array.ravel().tolist()
    return sum(map(len, elements)) + BYTES_ELEMENT_OVERHEAD * len(elements)
