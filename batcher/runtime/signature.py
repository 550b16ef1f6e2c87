"""What a model accepts, ready to be checked in constant time.

A request that passes `measure` can be executed: its inputs are the model's, of the right datatype,
rank and fixed dimensions, and agree on their number of rows. What the scheduler needs to know of it
comes back as a `Measure`; the tensors stay here.
"""

from __future__ import annotations

from batcher.core.events import Shapes
from batcher.core.record import record
from batcher.errors import InvalidRequest
from batcher.executor import ModelMetadata
from batcher.runtime.padding import Padding
from batcher.runtime.request import InferenceRequest
from batcher.tensors import Tensor, TensorSpec

BYTES_ELEMENT_OVERHEAD = 4
"""What each element of a BYTES tensor takes on the wire beside its own bytes."""


@record
class Measure:
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
        self._varies = any(-1 in spec.shape[1:] for spec in metadata.inputs)
        self._optional = any(spec.optional for spec in metadata.inputs)

    def measure(self, request: InferenceRequest) -> Measure:
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
                raise self._missing(spec)
            present += 1
            array = tensor.array
            shape = array.shape
            if tensor.datatype != spec.datatype:
                raise InvalidRequest(
                    f"{self.model}: input {spec.name!r} must be {spec.datatype},"
                    f" got {tensor.datatype}"
                )
            if len(shape) != len(spec.shape) or shape[1:] != spec.shape[1:]:
                self._check_shape(spec, shape)
            if shape[0] != rows:
                rows = self._agree(spec, shape[0], rows)
            if self._varies:
                shapes.append(shape[1:])
            nbytes += array.nbytes if spec.datatype != "BYTES" else _bytes_size(tensor)
        if present != len(inputs) or not present:
            raise self._wrong_inputs(inputs)
        if request.outputs is not None:
            self._check_outputs(request.outputs)
        own = tuple(shapes)
        if self._padding is not None:
            self._padding.check(own)
        return Measure(rows, nbytes, own, self._batch_key(request))

    def _check_shape(self, spec: TensorSpec, shape: tuple[int, ...]) -> None:
        fits = len(shape) == len(spec.shape) and all(
            want in {-1, got} for want, got in zip(spec.shape[1:], shape[1:], strict=True)
        )
        if not fits:
            raise InvalidRequest(
                f"{self.model}: input {spec.name!r} must have shape {list(spec.shape)}"
                f" (-1 varies), got {list(shape)}"
            )

    def _agree(self, spec: TensorSpec, got: int, rows: int) -> int:
        if rows >= 0:
            raise InvalidRequest(
                f"{self.model}: inputs disagree on the number of rows:"
                f" {spec.name!r} has {got}, the ones before it have {rows}"
            )
        if got == 0:
            raise InvalidRequest(
                f"{self.model}: input {spec.name!r} has zero rows; a request needs at least one"
            )
        if got > self.max_rows:
            raise InvalidRequest(
                f"{self.model}: {got} rows in one request, at most {self.max_rows}"
                " (max_batch_size x queue.max_request_batches, or queue.max_rows) can be served"
            )
        return got

    def _missing(self, spec: TensorSpec) -> InvalidRequest:
        return InvalidRequest(
            f"{self.model}: input {spec.name!r} is missing;"
            f" expected {spec.datatype} of shape {list(spec.shape)}"
        )

    def _wrong_inputs(self, inputs: dict[str, Tensor]) -> InvalidRequest:
        name = next((name for name in inputs if name not in self.inputs), None)
        what = "the request has no inputs" if name is None else f"unknown input {name!r}"
        return InvalidRequest(f"{self.model}: {what}; the inputs are {', '.join(self.inputs)}")

    def _check_outputs(self, names: tuple[str, ...]) -> None:
        for name in names:
            if name not in self.outputs:
                raise InvalidRequest(
                    f"{self.model}: unknown output {name!r};"
                    f" the outputs are {', '.join(self.outputs)}"
                )

    def _batch_key(self, request: InferenceRequest) -> str:
        """Equal for requests that one call of the executor can serve; empty for the usual one."""
        if not request.parameters and not self._optional:
            return ""
        absent = [name for name in self.inputs if name not in request.inputs]
        return repr((absent, sorted((request.parameters or {}).items())))


def _bytes_size(tensor: Tensor) -> int:
    elements = tensor.array.ravel().tolist()
    return sum(map(len, elements)) + BYTES_ELEMENT_OVERHEAD * len(elements)
