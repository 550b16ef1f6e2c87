"""Tells the tracer of batches: when one was dispatched, and how it ended.

Where the executor sends the trace context of callers on, the batch's own takes its place: what the
next server does belongs below the batch that caused it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from batcher.core.commands import Dispatch
from batcher.core.record import copied
from batcher.errors import InvalidRequest
from batcher.executor import TRACE_METADATA, MetadataValue
from batcher.runtime.execution.execute import ExecutedBatch
from batcher.runtime.execution.gather import Slice
from batcher.runtime.execution.results import RunningBatch
from batcher.runtime.interface.forwarded import forwarded
from batcher.runtime.pending import PendingRequest
from batcher.runtime.request import InferenceRequest
from batcher.telemetry.tracing import TraceContext, TracedBatch, Tracer
from batcher.telemetry.tracing.context import PARENT, with_parent

log = logging.getLogger(__name__)

_DEFECT = "internal error in tracing: a batch has no span; it is served all the same"


class TracedBatches:
    """What the runner calls for each batch while requests are traced."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def began(
        self,
        command: Dispatch,
        batch: RunningBatch,
        slices: list[Slice],
        now_ns: int,
    ) -> list[Slice]:
        """A batch is about to be executed. Returns the rows to execute instead of `slices`. Never raises."""
        try:
            return self._began(command, batch, slices, now_ns)
        except Exception:
            log.exception(_DEFECT)
            return slices

    def ended(self, batch_id: int, executed: ExecutedBatch) -> None:
        """A batch has ended. Never raises."""
        try:
            self._tracer.batch_ended(
                batch_id,
                executed.started_ns,
                executed.execute_start_ns,
                executed.execute_end_ns,
                executed.ended_ns,
                "" if executed.result is not None else executed.cause,
            )
        except Exception:
            log.exception(_DEFECT)

    def lost(self, batch_ids: Iterable[int], now_ns: int, why: str) -> None:
        """Batches that will not end: their instance went down, or they could not be started. Never raises."""
        try:
            for batch_id in batch_ids:
                self._tracer.batch_lost(batch_id, now_ns, why)
        except Exception:
            log.exception(_DEFECT)

    def _began(
        self,
        command: Dispatch,
        batch: RunningBatch,
        slices: list[Slice],
        now_ns: int,
    ) -> list[Slice]:
        target = batch.pendings[0].target
        traced = TracedBatch(
            command.batch_id,
            target.name,
            target.version,
            command.instance,
            target.device,
            str(command.bucket) if command.bucket else "",
            command.attempt,
            batch.rows,
            len(batch.pendings),
            now_ns,
            # Steps of lost sequences end, too, and were dispatched in it.
            len(command.parts) + 1,
        )
        self._tracer.batch_began(traced)
        if PARENT not in target.layout.metadata:
            return slices
        own = self._tracer.send_on(traced, [self._context(each) for each in batch.pendings])
        first, *others = slices
        chosen = next(
            each.request
            for each in batch.pendings
            if each.trace is not None and each.trace.execute_id == own.parent_id
        )
        metadata = _sent_on(first.request, chosen, own)
        try:
            forwarded(target.layout.metadata, metadata)
        except InvalidRequest:
            # With ours it is too much; without it, the requests were admitted.
            return slices
        request = copied(InferenceRequest, first.request, metadata=metadata)
        return [copied(Slice, first, request=request), *others]

    def _context(self, pending: PendingRequest) -> TraceContext:
        """The trace context of a request; the same each time that it is executed."""
        if pending.trace is None:
            pending.trace = self._tracer.context(pending.request.metadata)
        return pending.trace


def _sent_on(
    first: InferenceRequest, chosen: InferenceRequest, own: TraceContext
) -> list[tuple[str, MetadataValue]]:
    """The metadata of the batch's first request, with the trace context of the batch.

    What belongs to that besides (`baggage`) is of the request that the batch is traced with.
    """
    kept = [item for item in first.metadata if item[0] not in TRACE_METADATA]
    kept += (item for item in chosen.metadata if item[0] in TRACE_METADATA)
    return with_parent(kept, own.trace_id, own.span_id, sampled=own.sampled, state=own.state)
