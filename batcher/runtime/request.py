"""Requests and replies as the house passes them on, after the wire and before the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from batcher.core.record import record
from batcher.executor import ParameterValue
from batcher.telemetry.stamps import Stamps
from batcher.tensors import Tensor


@record
class InferenceRequest:
    """One caller's rows for one model, as parsed from the wire and not yet validated.

    All inputs share the length of axis 0, the rows; admission checks that and everything else that
    the model declares. `version` is empty for "the newest". `outputs` names what the caller wants,
    None for all. Times are monotonic nanoseconds.
    """

    model: str
    inputs: dict[str, Tensor]
    arrival_ns: int
    version: str = ""
    id: str = ""
    outputs: tuple[str, ...] | None = None
    classifications: Mapping[str, int] | None = None
    """Output name -> how many of the top classes to answer with, instead of the tensor."""
    parameters: Mapping[str, ParameterValue] | None = None
    """Request parameters that are passed on to the executor (the reserved ones are taken out)."""
    priority: int = 0
    timeout_ns: int | None = None
    """The longest time this request may wait in the queue."""
    deadline_ns: int | None = None
    """When the caller stops waiting (monotonic), from the gRPC deadline."""
    tenant: str = ""
    sequence: int | str | None = None


@dataclass(slots=True)
class InferenceReply:
    """The answer to one request: every requested output, with the request's own rows."""

    model: str
    version: str
    id: str
    outputs: dict[str, Tensor]
    stamps: Stamps
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    batched: bool = True
    """Whether axis 0 of the outputs is the rows; a model without a batch axis has none."""
    pieces: Sequence[Mapping[str, Tensor]] = ()
    """Instead of `outputs`, where many rows ran in several batches: those of each, still to be
    joined. That copies them all, so whoever sends the answer chooses where."""
