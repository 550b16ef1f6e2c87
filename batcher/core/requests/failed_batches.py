"""Requests that a batch leaves unreported when it ends: they fail, or run again in suspect groups."""

from __future__ import annotations

from collections.abc import Sequence

from batcher.core.commands import FailureStorm, Outcome, Part
from batcher.core.devices.instances import RunningBatch
from batcher.core.events import SEARCHED, UNTOLD, BatchProgress, FailureCause
from batcher.core.model import Model
from batcher.core.queueing.request import LiveRequest
from batcher.core.requests.ledger import Ledger
from batcher.core.requests.out_of_memory import cut_suspects, run_smaller
from batcher.core.requests.promotion import requeue
from batcher.core.requests.refusals import expiry_reason


def settle_unreported(
    batch: RunningBatch, event: BatchProgress, model: Model | None, ledger: Ledger, *, now_ns: int
) -> None:
    """Settle the requests that a batch has not reported, or have them run again in suspect groups.

    They run again where the batch failed as a whole and is bisected, or where the device had no memory
    for it; else they have failed. Where its backend was overloaded or unavailable, nothing of it is executed again. `model`
    is None where it was removed meanwhile. A request fails with the cause `input` only where it ran
    alone: for requests that failed together it is not known which of them is invalid.
    """
    cause = event.error or FailureCause.UNKNOWN
    shared = FailureCause.UNKNOWN if cause is FailureCause.INPUT else cause
    left = _still_wanted(batch, ledger, now_ns)
    lost: Sequence[Part] = left
    again: Sequence[Part] = ()
    if model is not None and event.error is FailureCause.MEMORY:
        lost, again = run_smaller(batch, left, model, ledger, now_ns)
    elif model is not None:
        lost = _bisect(batch, event, left, model, ledger, now_ns)
        if model.bisections.storm_unreported:
            model.bisections.storm_unreported = False
            ledger.commands.append(FailureStorm(model.name))
        again = [part for part in left if part not in lost]
    gone = {part.id for part in lost}
    for part in again:
        make_suspect(ledger.live[part.id], batch.batch_id, ledger)
    alone = {part.id for part in batch.parts} if len(batch.parts) == 1 else set()
    retry_ns = None if cause in SEARCHED else event.retry_after_ns
    ledger.fail(gone & alone, cause, retry_ns)
    ledger.fail(gone - alone, shared, retry_ns)
    if model is not None:
        # The largest batch may have become smaller than the one that failed.
        refit(model, ledger, shared if cause not in UNTOLD else FailureCause.UNKNOWN, now_ns)


def refit(model: Model, ledger: Ledger, cause: FailureCause, now_ns: int) -> None:
    """Make suspects fit the largest batch, which may have become smaller since theirs was dispatched.

    What there is no memory for now is cut. A request that has more than `max_batch_size` rows goes back to
    the queue, to be split. Of a request that is split already, a piece cannot be split again: the request
    fails with the `cause`.
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
    cut_suspects(model, ledger.live)


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
) -> Sequence[Part]:
    """Go on with the bisection that a batch belongs to, or begin one; returns what failed for good."""
    bisections, suspects = model.bisections, batch.suspects
    cause = event.error or FailureCause.UNKNOWN
    again = event.error in SEARCHED and model.name in ledger.fleet.serving
    if suspects is None:
        again = again and bool(left)
        begun = again and bisections.begin(batch.batch_id, left, batch.shapes, cause, now_ns)
        return () if begun else left
    if again:

        def may_return(part: Part) -> bool:
            request = ledger.live[part.id]
            return request.split is None and not request.requeues

        lost, cleared = bisections.failed(suspects, left, cause, now_ns, may_return)
        for part in cleared:
            request = ledger.live[part.id]
            request.suspect_parts -= 1
            requeue(request, model, now_ns)
        return lost
    if event.error is None:
        bisections.succeeded(suspects, wholly=not event.failed and not left)
    else:
        bisections.lost(suspects)
    return left


def make_suspect(request: LiveRequest, batch_id: int, ledger: Ledger) -> None:
    """Note that a part of a request was put into a suspect group of its failed batch."""
    request.suspect_parts += 1
    if request.split is not None:
        request.split.batches.discard(batch_id)
    if request.batch_id is not None:
        request.batch_id = None
        if request.expires_ns is not None:
            ledger.expiry.add(request)
