"""What is kept of a request or a batch until its spans are made, on another thread.

No record refers to a request's tensors or metadata, so that what waits to be sent has a bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from batcher.core.commands import Blame, Outcome
from batcher.telemetry.families import Stage
from batcher.telemetry.stamps import Stamps
from batcher.telemetry.tracing.context import TraceContext

SpanId: TypeAlias = tuple[int, int]
"""Trace id, span id."""

MAX_LINKS: Final = 128
"""Links of one span: OpenTelemetry's own default. A batch may have more requests."""

MAX_ID: Final = 128
"""Characters of what the caller calls a request that a span has."""

_MIDDLE: Final = (Stage.ADMISSION, Stage.QUEUE, Stage.GATHER, Stage.EXECUTE)


@dataclass(slots=True)
class TracedRequest:
    """A request that is traced and has ended. Times are monotonic nanoseconds."""

    context: TraceContext
    model: str
    version: str
    outcome: Outcome
    reason: str
    status: str
    """The name of its gRPC status code."""
    rows: int
    stamps: Stamps
    target_ns: int | None = None
    late: bool | None = None
    """Whether it was answered after its target; None without a target or an answer."""
    late_hop: str = ""
    upstream_ns: int | None = None
    blame: Blame | None = None
    id: str = ""
    batches: tuple[SpanId, ...] = ()
    """The spans of the batches that it was in."""
    attempts: int = 0
    """How many batches it was dispatched in."""
    stream: bool = False
    """Whether it came on a stream."""
    tenant: str = ""

    @property
    def end_ns(self) -> int:
        """When nothing of it went on any more."""
        return self.stamps.replied_ns or self.stamps.settled_ns

    def count_spans(self) -> int:
        """How many spans it has."""
        return 1 + sum(1 for _ in self.stages())

    def stages(self) -> Iterator[tuple[Stage, int, int]]:
        """Each stage that it reached, with its beginning and its end. Together they are all of its time."""
        stamps = self.stamps
        began_ns = stamps.arrival_ns
        last = Stage.SCATTER
        for stage, moment_ns in zip(
            _MIDDLE,
            (
                stamps.enqueued_ns,
                stamps.dispatched_ns,
                stamps.execute_start_ns,
                stamps.execute_end_ns,
            ),
            strict=True,
        ):
            if not moment_ns:
                last = stage
                break
            # A request that was given up while its batch ran has ended before that.
            ended_ns = min(moment_ns, stamps.settled_ns)
            yield stage, began_ns, ended_ns
            began_ns = ended_ns
            if moment_ns > stamps.settled_ns:
                last = stage
                break
        if began_ns < stamps.settled_ns or last is Stage.SCATTER:
            yield last, began_ns, stamps.settled_ns
        if stamps.replied_ns:
            yield Stage.REPLY, stamps.settled_ns, stamps.replied_ns


@dataclass(slots=True)
class TracedBatch:
    """A batch, from its dispatch until its last request has ended. Times are monotonic nanoseconds."""

    id: int
    model: str
    version: str
    instance: str
    device: str
    bucket: str
    attempt: int
    rows: int
    requests: int
    dispatched_ns: int
    left: int
    """Of its requests and itself, how many have not ended."""
    started_ns: int = 0
    execute_start_ns: int = 0
    execute_end_ns: int = 0
    ended_ns: int = 0
    failure: str = ""
    """Why it failed; empty if it did not."""
    context: TraceContext | None = None
    """Its own span, in the trace of one of its requests; None while none of them is traced."""
    has_parent: bool = False
    """Whether that request is traced, so that its stage `execute` has a span."""
    links: list[SpanId] = field(default_factory=list)
    """The spans of its traced requests."""


Traced: TypeAlias = TracedRequest | TracedBatch
