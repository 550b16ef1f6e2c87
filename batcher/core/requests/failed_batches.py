"""Requests that a batch leaves unreported when it ends: they fail, or run again in suspect groups."""

from __future__ import annotations

from collections.abc import Sequence

from batcher.core.commands import FailureStorm, Outcome, Part
from batcher.core.devices.instances import RunningBatch
from batcher.core.events import BatchProgress, FailureCause
from batcher.core.faults.bisection import MAX_RETURNS
from batcher.core.faults.suspects import SuspectGroup
from batcher.core.model import Model
from batcher.core.requests.ledger import Ledger
from batcher.core.requests.promotion import requeue
from batcher.core.requests.refusals import expiry_reason


def settle_unreported(
    batch: RunningBatch, event: BatchProgress, model: Model | None, ledger: Ledger, *, now_ns: int
) -> None:
    """Settle the requests that a batch has not reported, or have them run again in suspect groups.

    They run again where the batch failed as a whole and is bisected; else they have failed. `model`
    is None where it was removed meanwhile. A request fails with the cause `input` only where it ran
    alone, or is the only one left that can be the failing one: for requests that failed together it
    is not known which of them is invalid.
    """
    cause = event.error or FailureCause.UNKNOWN
    shared = FailureCause.UNKNOWN if cause is FailureCause.INPUT else cause
    left = _still_wanted(batch, ledger, now_ns)
    lost: Sequence[Part] = left
    at_fault: SuspectGroup | None = None
    if model is not None:
        lost, at_fault = _bisect(batch, event, left, model, ledger, now_ns)
        report_storm(model, ledger, now_ns)
    gone = {part.id for part in lost}
    for part in left:
        if part.id not in gone:
            _make_suspect(part.id, batch, ledger)
    alone = {part.id for part in batch.parts} if len(batch.parts) == 1 else set()
    ledger.fail(gone & alone, cause)
    ledger.fail(gone - alone, shared)
    if at_fault is not None:
        ledger.fail([part.id for part in at_fault.parts], at_fault.cause)
    if model is not None:
        # The largest batch may have become smaller than the one that failed.
        refit(model, ledger, shared, now_ns)


def refit(model: Model, ledger: Ledger, cause: FailureCause, now_ns: int) -> None:
    """Make suspect groups fit `max_batch_size`, which may have become smaller.

    A request which does not fit even alone goes back to the queue, to be split. Of a request that is
    split already, a piece cannot be split again: the request fails with the `cause`.
    """
    lost: set[int] = set()
    for part in model.bisections.refit(model.settings.max_batch_size):
        request = ledger.live[part.id]
        if request.split is None:
            request.suspect_parts -= 1
            requeue(request, model, now_ns)
        else:
            lost.add(part.id)
    ledger.fail(lost, cause)


def report_storm(model: Model, ledger: Ledger, now_ns: int, *, succeeded: bool = False) -> None:
    """Add a `FailureStorm` where a storm has begun, or is over because a batch `succeeded`."""
    bisections = model.bisections
    if succeeded and bisections.storm.end(now_ns):
        ledger.commands.append(FailureStorm(model.name, over=True))
    elif bisections.storm.unreported:
        bisections.storm.unreported = False
        ledger.commands.append(FailureStorm(model.name))


def _still_wanted(batch: RunningBatch, ledger: Ledger, now_ns: int) -> list[Part]:
    """The parts that were not reported, without those which have expired meanwhile: these are settled."""
    for request_id in sorted(batch.unreported):
        request = ledger.live[request_id]
        if request.expires_ns is not None and request.expires_ns <= now_ns:
            ledger.forget(request)
            reason = expiry_reason(request.arrived, request.expires_ns)
            ledger.settle((request_id,), Outcome.EXPIRED, reason)
    return [part for part in batch.parts if part.id in batch.unreported]


def _bisect(
    batch: RunningBatch,
    event: BatchProgress,
    left: list[Part],
    model: Model,
    ledger: Ledger,
    now_ns: int,
) -> tuple[Sequence[Part], SuspectGroup | None]:
    """Go on with the bisection that a batch belongs to, or begin one.

    Returns the parts of `left` that have failed for good, and a suspect group of one request which
    must be the failing one because the rest of its suspect group has succeeded.
    """
    bisections, suspects = model.bisections, batch.suspects
    cause = event.error or FailureCause.UNKNOWN
    again = event.error not in (None, FailureCause.DEVICE)
    again = again and bool(left) and ledger.fleet.serves(model.name)
    if suspects is None:
        may_return = not batch.split and all(
            ledger.live[part.id].requeues < MAX_RETURNS for part in left
        )
        begun = again and bisections.begin(
            batch.batch_id, left, batch.shapes, cause, now_ns, may_return=may_return
        )
        return (() if begun else left), None
    if again:
        lost, cleared = bisections.failed(suspects, left, cause, now_ns)
        for part in cleared:
            request = ledger.live[part.id]
            request.suspect_parts -= 1
            requeue(request, model, now_ns)
        return lost, None
    if event.error is None:
        return left, bisections.succeeded(suspects, wholly=not event.failed and not left)
    bisections.lost(suspects)
    return left, None


def _make_suspect(request_id: int, batch: RunningBatch, ledger: Ledger) -> None:
    """Note that a part of a request was put into a suspect group of its failed batch."""
    request = ledger.live[request_id]
    request.suspect_parts += 1
    if request.split is not None:
        request.split.batches.discard(batch.batch_id)
    if request.batch_id is not None:
        request.batch_id = None
        if request.expires_ns is not None:
            ledger.expiry.add(request)
