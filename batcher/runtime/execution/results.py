"""From an executed batch to what the scheduler is told of it, and to the answers of its requests."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from batcher.clock import Clock
from batcher.core.commands import Part
from batcher.core.events import BatchProgress, Failure, FailureCause, Timings
from batcher.core.record import record
from batcher.errors import describe, on_one_line
from batcher.executor import BatchResult, ExecutionError
from batcher.runtime.execution.execute import ExecutedBatch
from batcher.runtime.execution.gather import LARGE_BATCH
from batcher.runtime.execution.scatter import join, joinable, scatter
from batcher.runtime.interface.padding import Padding
from batcher.runtime.pending import BatchReplies, PendingRequest
from batcher.runtime.request import InferenceReply
from batcher.tensors import Tensor

log = logging.getLogger(__name__)


@record
class RunningBatch:
    """A dispatched batch: where it went, and which rows of whom are in it, in order."""

    instance: str
    pendings: list[PendingRequest]
    parts: tuple[Part, ...]
    rows: int
    padding: Padding | None


def report(
    batch_id: int, batch: RunningBatch, executed: ExecutedBatch, clock: Clock
) -> BatchProgress:
    """What became of each request of a batch. Rows that cannot be kept have failed, alone."""
    result = executed.result
    failed: list[Failure] = []
    done: list[int] = []
    whole: list[PendingRequest] = []
    offset = 0
    for pending, part in zip(batch.pendings, batch.parts, strict=True):
        stamps = pending.stamps
        if not stamps.execute_start_ns:
            stamps.execute_start_ns = executed.execute_start_ns
        stamps.execute_end_ns = executed.execute_end_ns
        stop = offset + part.stop - part.start
        if result is None:
            pending.failure = executed.failure
        elif stop - offset == pending.summary.rows and not result.row_errors:
            # Most requests: nothing here can raise.
            pending.result, pending.offset, pending.padding = result, offset, batch.padding
            done.append(pending.id)
            if pending.outcome is None:
                whole.append(pending)
        else:
            try:
                failure = _taken(pending, part, result, offset, batch.padding)
            except Exception as error:
                log.exception("%s: rows of a batch could not be kept", pending.target.name)
                pending.failure = why(error)
                failure = Failure(pending.id, FailureCause.UNKNOWN)
            if failure is not None:
                failed.append(failure)
            else:
                done.append(pending.id)
                # Whose caller has left gets no answer that could be waited for.
                if pending.result is not None and pending.outcome is None:
                    whole.append(pending)
        offset = stop
    if whole:
        replies = BatchReplies(len(whole), batch.rows, clock())
        for pending in whole:
            pending.replies = replies
    return BatchProgress(
        batch_id,
        tuple(done),
        tuple(failed),
        last=True,
        timings=Timings(executed.started_ns, executed.execute_start_ns, executed.execute_end_ns),
        error=executed.cause if result is None else None,
    )


def answer(pending: PendingRequest) -> InferenceReply:
    """The answer to a request whose rows are all done; it lets go of their results.

    Raises what putting it together raises.
    """
    request, target = pending.request, pending.target
    outputs: dict[str, Tensor] = {}
    pieces: tuple[Mapping[str, Tensor], ...] = ()
    if pending.pieces is not None:
        pieces = joinable(pending.pieces)
        pending.pieces = None
        if sum(t.array.nbytes for piece in pieces for t in piece.values()) <= LARGE_BATCH:
            outputs, pieces = join(pieces), ()
    else:
        assert pending.result is not None  # noqa: S101 - the core settled what was reported done
        stop = pending.offset + pending.summary.rows
        outputs = scatter(
            pending.result,
            pending.offset,
            stop,
            request.outputs,
            target.layout,
            _cuts(pending, pending.padding),
        )
        pending.result = None
    return InferenceReply(
        target.name,
        target.version,
        request.id,
        outputs,
        pending.stamps,
        batched=target.layout.batched,
        pieces=pieces,
    )


def why(error: Exception) -> str:
    """A failure in one line: the executor's own word as it is, anything else with its type."""
    return on_one_line(str(error)) if isinstance(error, ExecutionError) else describe(error)


def _taken(
    pending: PendingRequest, part: Part, result: BatchResult, offset: int, padding: Padding | None
) -> Failure | None:
    """Take a request's rows out of a result, or say why they failed."""
    if result.row_errors:
        batched = pending.target.layout.batched
        error = _row_error(part, offset, result.row_errors, batched=batched)
        if error is not None:
            pending.failure = error
            return Failure(pending.id, FailureCause.INPUT)
    if part.stop - part.start == pending.summary.rows:
        pending.result, pending.offset = result, offset
        # What the answer is cut by is what its batch was padded by.
        pending.padding = padding
    else:
        _keep(pending, part, result, offset, padding)
    return None


def _keep(
    pending: PendingRequest, part: Part, result: BatchResult, offset: int, padding: Padding | None
) -> None:
    """Hold the outputs of some of a request's rows until all of them are done."""
    if pending.pieces is None:
        pending.pieces = {}
    wanted, layout = pending.request.outputs, pending.target.layout
    stop = offset + part.stop - part.start
    cuts = _cuts(pending, padding)
    pending.pieces[part.start] = scatter(result, offset, stop, wanted, layout, cuts)


def _cuts(pending: PendingRequest, padding: Padding | None) -> dict[str, tuple[slice, ...]] | None:
    """What of an answer is the request's own."""
    return None if padding is None else padding.cuts(pending.summary.shapes)


def _row_error(
    part: Part, offset: int, row_errors: Mapping[int, str], *, batched: bool
) -> str | None:
    """The first error among a request's own rows, naming the row as the caller counts it."""
    for row in range(part.start, part.stop):
        message = row_errors.get(offset + row - part.start)
        if message is not None:
            text = on_one_line(str(message))
            return f"row {row}: {text}" if batched else text
    return None
