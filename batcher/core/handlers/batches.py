"""Batches report what is done and what has failed, and end."""

from __future__ import annotations

from collections.abc import Sequence

from batcher.core.commands import FailureStorm, Part
from batcher.core.contents import Contents
from batcher.core.devices.instances import RunningBatch
from batcher.core.events import UNTOLD, BatchProgress, FailureCause, RepliesTook, Timings
from batcher.core.handlers.memory import lower_ceiling, note_room
from batcher.core.model import Model
from batcher.core.queueing.request import LiveRequest
from batcher.core.requests.blame import refuse_late
from batcher.core.requests.failed_batches import settle_unreported
from batcher.core.requests.splitting import next_turn, note_done


def progress(contents: Contents, event: BatchProgress) -> None:
    """End the requests that a batch reports, and the batch itself with its last report.

    Reports of an unknown batch and of requests that have ended already are ignored.
    """
    batch = contents.fleet.batches.get(event.batch_id)
    if batch is None:
        return
    done, unreported = event.done, batch.unreported
    named = set(done)
    if len(named) < len(done) or not named <= unreported:
        # A request that its caller left, or that is named twice, has ended already.
        done = tuple(i for i in dict.fromkeys(done) if i in unreported)
    unreported.difference_update(done)
    if batch.split:
        done = _all_done(contents, batch, done)
    contents.ledger.done(done)
    for failure in event.failed:
        if failure.id in batch.unreported:
            contents.ledger.fail((failure.id,), failure.cause, event.retry_after_ns)
    if (event.error is not None or event.failed) and _without_memory(event):
        model = contents.models.get(batch.model)
        if model is not None:
            lower_ceiling(contents, model, batch)
    if event.last or event.error is not None:
        failed = bool(event.failed) or event.error is not None
        if batch.unreported or batch.suspects is not None:
            _settle_unreported(contents, batch, event)
        _finish(contents, batch, event.timings, failed=failed, cause=event.error)


def _without_memory(event: BatchProgress) -> bool:
    """Whether the device had no memory for a batch, or for some request of it."""
    memory = FailureCause.MEMORY
    return event.error is memory or any(failure.cause is memory for failure in event.failed)


def _settle_unreported(contents: Contents, batch: RunningBatch, event: BatchProgress) -> None:
    """End the requests that a batch leaves unreported, or have them run again."""
    unreported = [part for part in batch.parts if part.id in batch.unreported]
    model = contents.models.get(batch.model)
    settle_unreported(batch, event, model, contents.ledger, now_ns=contents.now_ns)
    if model is None:
        return
    note_again(contents, model, unreported)


def note_again(contents: Contents, model: Model, parts: Sequence[Part]) -> None:
    """Refuse those of requests that wait again whose limit has passed; count the rows of the others."""
    over: dict[int, LiveRequest] = {}
    for part in parts:
        request = contents.live.get(part.id)
        if request is None:
            continue
        if request.limit_ns <= contents.now_ns:
            over[request.id] = request
        else:
            contents.note_limit(request.limit_ns)
            model.late.again(part.stop - part.start)
    refuse_late(list(over.values()), model, contents.ledger, contents.now_ns)


def replies_took(contents: Contents, event: RepliesTook) -> None:
    """Learn how long a batch's answers took to leave."""
    model = contents.models.get(event.model)
    if model is not None:
        model.handling.observe_replies(event.rows, event.took_ns, contents.now_ns)


def _all_done(contents: Contents, batch: RunningBatch, ids: tuple[int, ...]) -> tuple[int, ...]:
    """Those of the requests whose rows in a batch are done that have no other rows left."""
    rows = {part.id: part.stop - part.start for part in batch.parts}
    done: list[int] = []
    for request_id in ids:
        request = contents.live[request_id]
        split = request.split
        if split is None or note_done(request, split, batch.batch_id, rows[request_id]):
            done.append(request_id)
        elif split.queued and request_id != batch.filled:
            # What came while these rows ran goes before the others.
            model = contents.models[batch.model]
            model.queue.discard(request)
            next_turn(request, model, contents.now_ns)
            model.queue.add(request)
    return tuple(done)


def _finish(
    contents: Contents,
    batch: RunningBatch,
    timings: Timings | None,
    *,
    failed: bool,
    cause: FailureCause | None,
) -> None:
    """Take a batch off its instance, and learn from what it took, unless it tells nothing (`UNTOLD`)."""
    now_ns = contents.now_ns
    ended_ns = 0 if timings is None else timings.ended_ns
    submitted_ns = 0 if timings is None else timings.submitted_ns
    contents.fleet.finish(batch.batch_id, now_ns, ended_ns, submitted_ns)
    contents.unblock()
    model = contents.models.get(batch.model)
    if model is None:
        return
    if not failed:
        alone = batch.prefetched and contents.fleet.alone(batch.model)
        model.observe(batch, timings, now_ns, alone=alone)
        model.judge_target()
        if model.memory.elements is not None:
            note_room(contents, model, batch)
        if model.bisections.note_success(now_ns):
            contents.ledger.commands.append(FailureStorm(model.name, over=True))
    try:
        model.policy.on_batch_done(batch.rows, now_ns)
    except Exception as exc:  # noqa: BLE001 - a policy's own code; the model goes on without it
        model.policy_raised(exc)
    if batch.suspects is None and cause not in UNTOLD:
        model.bisections.batch_cap.count(batch.rows)
    model.running -= 1
    if cause not in UNTOLD:
        model.late.ended(batch.rows)
