"""A scheduler's contents as a `State`; `restore.py` is the way back."""

from __future__ import annotations

from batcher.core.contents import Contents
from batcher.core.devices.instances import RunningBatch
from batcher.core.faults.suspects import SuspectGroup
from batcher.core.model import Model
from batcher.core.queueing.request import LiveRequest
from batcher.core.state import (
    SavedBatch,
    SavedBisection,
    SavedInstance,
    SavedModel,
    SavedRequest,
    SavedSuspectGroup,
    State,
)


def capture(contents: Contents) -> State:
    """Everything that decides what the scheduler does next."""
    fleet = contents.fleet
    return State(
        now_ns=contents.now_ns,
        next_batch_id=contents.next_batch_id,
        dispatches=fleet.dispatches,
        wakeup_ns=contents.ask_again_ns,
        next_promotion_at_ns=contents.next_promotion_at_ns,
        models=tuple(_model(model) for model in contents.models.values()),
        requests=tuple(_request(request) for request in contents.live.values()),
        devices=tuple(fleet.device_limits.items()),
        bisections=_bisections(contents),
        instances=tuple(
            SavedInstance(i.up, i.draining, i.last_used) for i in fleet.instances.values()
        ),
        batches=tuple(_batch(batch) for batch in fleet.batches.values()),
    )


def _request(request: LiveRequest) -> SavedRequest:
    split = request.split
    return SavedRequest(
        request.arrived,
        request.due_ns,
        request.expires_ns,
        request.batch_id,
        request.finish_by_ns,
        request.rank,
        request.promote_at_ns,
        request.canary,
        request.start,
        request.rows,
        request.suspect_parts,
        request.requeues,
        None if split is None else (split.left, tuple(sorted(split.batches))),
    )


def _batch(batch: RunningBatch) -> SavedBatch:
    return SavedBatch(
        batch.batch_id,
        batch.model,
        batch.instance,
        batch.dispatched_ns,
        tuple(sorted(batch.unreported)),
        batch.rows,
        batch.expected_end_ns,
        batch.canary,
        batch.shapes,
        batch.parts,
        batch.split,
        None if batch.suspects is None else _suspects(batch.suspects),
        batch.filled,
        batch.prefetched,
        batch.prefetch_at_ns,
    )


def _model(model: Model) -> SavedModel:
    return SavedModel(
        model.name,
        model.settings,
        model.policy_failed,
        tuple(tuple(r.id for r in group) for group in model.queue.groups.values()),
        model.blocked,
        model.reachable,
        (model.device_use.used_ns, model.device_use.share),
        model.policy.capture(),
        tuple((shapes, times.capture()) for shapes, times in model.times.items()),
        model.shares.capture(),
        model.bisections.capture(),
        tuple(_suspects(each) for each in model.bisections.suspect_groups),
        model.handling.capture(),
        model.prefetch_at_ns,
        model.dispatch_count,
    )


def _suspects(suspects: SuspectGroup) -> SavedSuspectGroup:
    return SavedSuspectGroup(
        suspects.bisection.batch_id,
        suspects.number,
        suspects.parts,
        suspects.shapes,
        suspects.cause,
        suspects.attempt,
        suspects.since_ns,
        suspects.other,
        suspects.deferred,
    )


def _bisections(contents: Contents) -> tuple[SavedBisection, ...]:
    groups = [
        each for model in contents.models.values() for each in model.bisections.suspect_groups
    ]
    groups += [b.suspects for b in contents.fleet.batches.values() if b.suspects is not None]
    found = {each.bisection.batch_id: each.bisection for each in groups}
    return tuple(
        SavedBisection(
            b.batch_id,
            b.executions_left,
            b.abandon_after,
            b.failures,
            b.some_succeeded,
            b.may_return,
            b.group_count,
            b.open_groups,
        )
        for _, b in sorted(found.items())
    )
