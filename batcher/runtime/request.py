"""Requests and replies inside the server, between decoding and encoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from batcher.core.record import record
from batcher.executor import MetadataValue, ParameterValue
from batcher.telemetry.stamps import Stamps
from batcher.tensors import Tensor


@record
class SequenceParameters:
    """The request parameters `sequence_id` (None if it is absent, 0 or empty), `sequence_start`, `sequence_end`."""

    id: int | str | None
    start: bool = False
    end: bool = False


@record
class Arrival:
    """What is known of a request whether it can be read or not."""

    arrival_ns: int
    tenant: str = ""
    metadata: Sequence[tuple[str, MetadataValue]] = ()
    stream: bool = False
    id: str = ""


@record
class InferenceRequest:
    """One inference request, decoded and not yet validated (`Signature.validate`).

    Axis 0 of every input is the batch axis, and all inputs have equally many rows. `version` is
    empty for the newest one. `outputs` are the requested outputs, None for all. Times are monotonic
    nanoseconds.
    """

    model: str
    inputs: dict[str, Tensor]
    arrival_ns: int
    version: str = ""
    id: str = ""
    outputs: tuple[str, ...] | None = None
    classifications: Mapping[str, int] | None = None
    """Output name -> how many of its top classes to return instead of the tensor."""
    parameters: Mapping[str, ParameterValue] | None = None
    """The request parameters, without the reserved ones."""
    priority: int = 0
    timeout_ns: int | None = None
    """The longest time that the request may wait in the queue."""
    deadline_ns: int | None = None
    """The gRPC deadline."""
    tenant: str = ""
    metadata: Sequence[tuple[str, MetadataValue]] = ()
    """The metadata of the call, as it came. What the model's executor does not name goes nowhere."""
    sequence: SequenceParameters | None = None
    """None for a request without any of these parameters."""
    stream: bool = False
    """Whether it came on a stream."""

    @property
    def arrival(self) -> Arrival:
        """What is known of it whether it can be read or not."""
        return Arrival(self.arrival_ns, self.tenant, self.metadata, self.stream, self.id)


@dataclass(slots=True)
class InferenceReply:
    """The reply to one request: the requested outputs, with the request's rows."""

    model: str
    version: str
    id: str
    outputs: dict[str, Tensor]
    stamps: Stamps
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    batched: bool = True
    """Whether axis 0 of the outputs is the batch axis."""
    pieces: Sequence[Mapping[str, Tensor]] = ()
    """Instead of `outputs`, for a large request that was split: the outputs of each part, in order.
    Joining copies them all, so the sender decides on which thread to do it."""
