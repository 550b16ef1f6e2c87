"""Prepares a dispatched batch, and turns an executed one into an event and its requests' replies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from batcher.clock import Clock
from batcher.core.commands import Dispatch, Part
from batcher.core.events import BatchProgress, Failure, FailureCause, Timings
from batcher.core.record import record
from batcher.errors import describe, on_one_line
from batcher.executor import BatchResult, ExecutionError
from batcher.runtime.execution.execute import ExecutedBatch
from batcher.runtime.execution.gather import LARGE_BATCH, Slice
from batcher.runtime.execution.scatter import join, joinable, scatter
from batcher.runtime.interface.padding import Padding
from batcher.runtime.pending import BatchReplies, PendingRequest
from batcher.runtime.request import InferenceReply
from batcher.telemetry.tracing.log_fields import failed_fields
from batcher.tensors import Tensor

log = logging.getLogger(__name__)


@record
class RunningBatch:
    """A dispatched batch: its instance, and its requests and their rows in order."""

    instance: str
    pendings: list[PendingRequest]
    parts: tuple[Part, ...]
    rows: int
    padding: Padding | None
    lost: tuple[int, ...] = ()
    """Steps of lost sequences: they were to be in it, and are not executed."""


def prepare_batch(
    command: Dispatch,
    requests: Mapping[int, PendingRequest],
    now_ns: int,
    incarnation: Callable[[], int] = lambda: 0,
) -> tuple[RunningBatch, list[Slice]]:
    """The batch that a `Dispatch` asks for, and the rows to execute, in order.

    Sets what a request keeps of its batch: padding, time of dispatch, number of rows. Steps of sequences
    get the state; those whose sequence is lost are left out of the rows, and `report` fails them.
    `incarnation` is that of the instance.
    """
    batch: list[PendingRequest] = []
    slices: list[Slice] = []
    lost: list[int] = []
    rows = 0
    first = requests[command.parts[0].id]
    # A retry keeps the padding of the batch that failed, because it keeps its bucket.
    padding = first.target.padding if command.attempt == 1 else first.padding
    padded = None if padding is None else padding.of(command.bucket)
    for part in command.parts:
        pending = requests[part.id]
        # The first dispatch counts, for requests that are split or retried.
        if not pending.stamps.dispatched_ns:
            pending.stamps.dispatched_ns = now_ns
        pending.batches += (command.batch_id,)
        pending.padding = padding
        pending.failure = None
        request, row = pending.request, None
        if (step := pending.step) is not None:
            pending.failure = step.begin((command.instance, incarnation())) or None
            if pending.failure is not None:
                lost.append(pending.id)
                continue
            request, row = step.filled(request), step.row
        rows += part.stop - part.start
        batch.append(pending)
        slices.append(Slice(request, part.start, part.stop, padded, row))
    for pending in batch:
        pending.stamps.batch_rows = rows
    parts = command.parts
    if lost:
        parts = tuple([part for part in parts if part.id not in lost])
    return RunningBatch(command.instance, batch, parts, rows, padding, tuple(lost)), slices


def report(
    batch_id: int, batch: RunningBatch, executed: ExecutedBatch, clock: Clock
) -> BatchProgress:
    """The event that tells how each request of a batch ended.

    If taking one request's rows raises, that request fails, and no other.
    """
    result = executed.result
    cause, failed = _failures(batch, executed)
    done: list[int] = []
    whole: list[PendingRequest] = []
    offset = 0
    for pending, part in zip(batch.pendings, batch.parts, strict=True):
        if pending.outcome is None:
            pending.stamps.executed(executed.execute_start_ns, executed.execute_end_ns)
        stop = offset + part.stop - part.start
        if result is None:
            pending.failure = executed.failure
        elif (
            stop - offset == pending.summary.rows and not result.row_errors and pending.step is None
        ):
            # The usual case; nothing here can raise.
            pending.result, pending.offset, pending.padding = result, offset, batch.padding
            done.append(pending.id)
            if pending.outcome is None:
                whole.append(pending)
        else:
            try:
                failure = _taken(pending, part, result, offset, batch.padding)
            except Exception as error:
                log.exception(
                    "%s: internal error: the rows of a request could not be taken from its batch",
                    pending.target.name,
                    extra=failed_fields(pending),
                )
                pending.failure = failure_text(error)
                failure = Failure(pending.id, FailureCause.UNKNOWN)
            if failure is not None:
                failed.append(failure)
            else:
                done.append(pending.id)
                # A cancelled request gets no reply, so none is waited for.
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
        timings=Timings(
            executed.started_ns,
            executed.execute_start_ns,
            executed.execute_end_ns,
            executed.ended_ns,
            executed.submitted_ns,
        ),
        error=cause,
        retry_after_ns=executed.retry_after_ns if result is None else None,
    )


def _failures(
    batch: RunningBatch, executed: ExecutedBatch
) -> tuple[FailureCause | None, list[Failure]]:
    """Why a batch failed as a whole, None if it did not; and requests that have failed each by itself."""
    failed = [Failure(request_id, FailureCause.SEQUENCE) for request_id in batch.lost]
    if executed.result is not None:
        return None, failed
    if _by_slot(batch):
        # Their executor may have moved its state on, so that none of them can be executed again.
        return None, failed + [Failure(pending.id, executed.cause) for pending in batch.pendings]
    return executed.cause, failed


def nothing_executed(batch_id: int, batch: RunningBatch) -> BatchProgress:
    """The event for a batch in which all requests are steps of lost sequences."""
    failed = [Failure(request_id, FailureCause.SEQUENCE) for request_id in batch.lost]
    return BatchProgress(batch_id, (), tuple(failed))


def _by_slot(batch: RunningBatch) -> bool:
    """Whether the executor keeps the state of the batch's requests."""
    step = batch.pendings[0].step
    return step is not None and step.sequence.interface.config.strategy == "slot"


def answer(pending: PendingRequest) -> InferenceReply:
    """The reply to a request whose rows are all done. Drops the request's references to results.

    Raises `ExecutionError` if the outputs of a split request cannot be joined.
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
        assert pending.result is not None  # noqa: S101 - the scheduler settles only what was reported done
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


def failure_text(error: Exception) -> str:
    """An exception in one line: an `ExecutionError`'s own message, else its type and message."""
    return on_one_line(str(error)) if isinstance(error, ExecutionError) else describe(error)


def _taken(
    pending: PendingRequest, part: Part, result: BatchResult, offset: int, padding: Padding | None
) -> Failure | None:
    """Take a request's rows out of a result; returns a `Failure` if the executor refused a row."""
    if result.row_errors:
        batched = pending.target.layout.batched
        error = _row_error(part, offset, result.row_errors, batched=batched)
        if error is not None:
            pending.failure = error
            return Failure(pending.id, FailureCause.INPUT)
    if pending.step is not None and pending.outcome is None:
        # The state is taken without the padding of other outputs: its axes are fixed.
        interface, layout = pending.step.sequence.interface, pending.target.layout
        kept = tuple(state.output for state in interface.states)
        pending.step.take(scatter(result, offset, offset + 1, kept, layout))
    if part.stop - part.start == pending.summary.rows:
        pending.result, pending.offset = result, offset
        # The reply is trimmed by the padding of this batch.
        pending.padding = padding
    else:
        _keep(pending, part, result, offset, padding)
    return None


def _keep(
    pending: PendingRequest, part: Part, result: BatchResult, offset: int, padding: Padding | None
) -> None:
    """Keep the outputs of one part of a split request until all parts are done."""
    if pending.pieces is None:
        pending.pieces = {}
    wanted, layout = pending.request.outputs, pending.target.layout
    stop = offset + part.stop - part.start
    cuts = _cuts(pending, padding)
    pending.pieces[part.start] = scatter(result, offset, stop, wanted, layout, cuts)


def _cuts(pending: PendingRequest, padding: Padding | None) -> dict[str, tuple[slice, ...]] | None:
    """The slices that trim padding from the request's outputs."""
    return None if padding is None else padding.cuts(pending.summary.shapes)


def _row_error(
    part: Part, offset: int, row_errors: Mapping[int, str], *, batched: bool
) -> str | None:
    """The first error among a request's rows, with the row's number in the request."""
    for row in range(part.start, part.stop):
        message = row_errors.get(offset + row - part.start)
        if message is not None:
            text = on_one_line(str(message))
            return f"row {row}: {text}" if batched else text
    return None
