"""The argument and the result of `execute`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from batcher.tensors import Array

ParameterValue = bool | int | float | str
"""A value of a request parameter."""

MetadataValue = str | bytes
"""A value of a caller's metadata: bytes where the name ends with `-bin`."""


@dataclass(frozen=True, slots=True)
class SequenceRow:
    """Which step of which sequence a row is. A batch has at most one row of a sequence."""

    id: int | str
    """The id that the client chose, unique only among the sequences of one caller."""
    slot: int
    """Under `sequence.strategy: slot`, where the executor keeps the sequence's state: from 0 to
    `LoadContext.sequence_slots` - 1, the same for all its steps. -1 under the strategy `state`."""
    start: bool
    """Whether it is the first step: whatever the slot held before belongs to another sequence."""
    end: bool
    """Whether it is the last step."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The argument of `execute`: the rows of one or more requests, gathered.

    A batch whose requests have all ended (cancelled, expired) is cancelled: the coroutine of
    `execute` gets a `CancelledError` and should end at once. A thread cannot be cancelled.

    The arrays are C-contiguous and aligned. They may be views of the requests' messages, so they
    may be read-only, and an executor must not write to them or keep them after `execute` returns.
    """

    inputs: Mapping[str, Array]
    """Input -> array `[rows, ...]` of the dtype in `DTYPES`. An optional input that the requests
    lack is absent. An input with `batched=False` has its own shape and belongs to all rows."""
    rows: int
    """The number of rows, from 1 to `max_batch_size`; with `ModelMetadata.batch_sizes` one of these."""
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    """The request parameters that `ModelMetadata.parameters` declares and the requests have."""
    outputs: frozenset[str] | None = None
    """The outputs that at least one request wants; None for all. Others may be left out."""
    deadline_ns: int | None = None
    """When the last caller stops waiting (nanoseconds of `time.monotonic_ns`); None if one of the
    requests has no deadline."""
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    """The caller's metadata that `ModelMetadata.metadata` names and the requests have."""
    raw: Mapping[str, Sequence[memoryview]] = field(default_factory=dict)
    """With `Capabilities(raw=True)`, instead of `inputs` (which is empty then): input -> the pieces of
    its contents, as bytes. Concatenated, they are the elements in row-major order, little-endian; each
    element of BYTES comes after its length (four bytes). The same promises as for arrays."""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """With `Capabilities(raw=True)`: input -> the shape of its contents, the rows first."""
    sequences: Sequence[SequenceRow] = ()
    """For a model with the section `sequence`: what each row is a step of, in the order of the rows.
    Rows beyond these only fill the batch up (`ModelMetadata.batch_sizes`); warm-up and test batches
    have none."""


def nothing_to_release() -> None:
    """The default of `BatchResult.release`, for arrays that the executor does not reuse."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What `execute` returns."""

    outputs: Mapping[str, Array]
    """Output -> array `[rows, ...]` in the order of the batch's rows, of the dtype in `DTYPES` for
    its datatype. Every output in `Batch.outputs` must be there."""
    row_errors: Mapping[int, str] = field(default_factory=dict)
    """Row -> why this row failed (from 0). Its request is refused with that message; the others of
    the batch are answered. The outputs need some value in that row."""
    release: Callable[[], None] = nothing_to_release
    """Called once, when the arrays are no longer needed. Set it if you reuse the arrays' memory for
    other batches: until it is called they must not change. It may run on another thread."""
