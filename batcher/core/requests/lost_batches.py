"""Requests of batches that went down with their instance: they fail, or run once more.

They run once more where the model is `idempotent`, if their deadline and limit have not passed: each at most once in its
life, and no step of a sequence, whose state may have gone with the instance. Which request brought the
instance down, if any did, is not known. So those that ran become suspects that run in small groups, in the order
in which they were in their batch, and before what came after them. What had not begun goes back to the queue.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from batcher.core.commands import Outcome, Part, Reason
from batcher.core.devices.instances import RunningBatch
from batcher.core.events import FailureCause
from batcher.core.model import Model
from batcher.core.queueing.request import LiveRequest
from batcher.core.requests.failed_batches import make_suspect, refit
from batcher.core.requests.ledger import Ledger
from batcher.core.requests.promotion import requeue
from batcher.core.requests.refusals import UNAVAILABLE_RETRY_NS, expiry_reason


def settle_lost(
    batches: Sequence[RunningBatch],
    begun: frozenset[int],
    model: Model | None,
    ledger: Ledger,
    now_ns: int,
) -> list[Part]:
    """End the requests of an instance's lost batches, or have them run once more; returns what does.

    The batches have been taken off the instance; `begun` are the ids of those that it may have begun. `model` is
    theirs, None where it was removed meanwhile.
    """
    again: list[Part] = []
    if model is not None and model.settings.idempotent:
        for request in list(_left(batches, ledger)):
            if request.expires_ns is not None and request.expires_ns <= now_ns:
                ledger.forget(request)
                reason = expiry_reason(request.arrived, request.expires_ns)
                ledger.settle((request.id,), Outcome.EXPIRED, reason)
        saved = _saved(_left(batches, ledger), model, now_ns)
        model.bisections.saved += len(saved)
        for batch in batches:
            parts = [p for p in batch.parts if p.id in saved and p.id in batch.unreported]
            _run_again(batch, parts, model, ledger, now_ns, begun=batch.batch_id in begun)
            again += parts
        # Settings may have changed since the batches began.
        refit(model, ledger, FailureCause.UNKNOWN, now_ns)
    kept = {part.id for part in again if part.id in ledger.live}
    failed = [request for request in _left(batches, ledger) if request.id not in kept]
    for request in failed:
        # Of a split request, what waits or runs elsewhere is given up, too.
        ledger.forget(request)
    lost = tuple(sorted([request.id for request in failed]))
    ledger.settle(lost, Outcome.FAILED, Reason.INSTANCE_DOWN, retry_ns=UNAVAILABLE_RETRY_NS)
    return again


def _left(batches: Sequence[RunningBatch], ledger: Ledger) -> Iterator[LiveRequest]:
    """The live requests that the batches have not reported, in the order of the batches."""
    ids = {part.id: None for each in batches for part in each.parts if part.id in each.unreported}
    return iter([ledger.live[request_id] for request_id in ids if request_id in ledger.live])


def _saved(requests: Iterable[LiveRequest], model: Model, now_ns: int) -> frozenset[int]:
    """Those that run once more, and are marked so: no more of them wait for that than may wait at all."""
    room = max(0, model.settings.queue.max_requests - model.bisections.waiting_lost)
    may = [
        each
        for each in requests
        if not each.lost and each.arrived.sequence is None and each.limit_ns > now_ns
    ]
    saved = list(islice(may, room))
    for request in saved:
        request.lost = True
    return frozenset([request.id for request in saved])


def _run_again(
    batch: RunningBatch,
    parts: Sequence[Part],
    model: Model,
    ledger: Ledger,
    now_ns: int,
    *,
    begun: bool,
) -> None:
    """Put parts of a lost batch where they wait: those of a batch that had begun, among suspects."""
    suspects: list[Part] = []
    for part in parts:
        request = ledger.live[part.id]
        make_suspect(request, batch.batch_id, ledger)
        if begun or request.split is not None:
            suspects.append(part)
        else:
            request.suspect_parts -= 1
            requeue(request, model, now_ns)
    if suspects:
        model.bisections.run_again(batch.batch_id, suspects, batch.shapes, now_ns)
