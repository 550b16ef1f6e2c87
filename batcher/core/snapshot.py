"""A scheduler to a `State` and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from batcher.core.devices.fleet import RunningBatch
from batcher.core.events import ModelConfigured
from batcher.core.faults.bisection import Bisection, SuspectGroup
from batcher.core.model import Model
from batcher.core.queueing.request import LiveRequest, Split, queued
from batcher.core.service_time.estimator import ServiceTimes
from batcher.core.state import (
    BatchState,
    BisectionState,
    InstanceState,
    ModelState,
    RequestState,
    State,
    SuspectGroupState,
)

if TYPE_CHECKING:
    from batcher.core.scheduler import Scheduler


def capture(scheduler: Scheduler) -> State:
    """Everything that decides what the scheduler does next."""
    fleet = scheduler.fleet
    return State(
        now_ns=scheduler.now_ns,
        next_batch_id=scheduler.next_batch_id,
        dispatches=fleet.dispatches,
        wakeup_ns=scheduler.ask_again_ns,
        next_promotion_at_ns=scheduler.next_promotion_at_ns,
        models=tuple(_model(model) for model in scheduler.models.values()),
        requests=tuple(
            RequestState(
                r.arrived,
                r.due_ns,
                r.expires_ns,
                r.batch_id,
                r.finish_by_ns,
                r.rank,
                r.promote_at_ns,
                r.canary,
                r.start,
                r.rows,
                r.retries,
                r.returns,
                None if r.split is None else (r.split.left, tuple(sorted(r.split.batches))),
            )
            for r in scheduler.live.values()
        ),
        devices=tuple(fleet.device_limits.items()),
        bisections=_bisections(scheduler),
        instances=tuple(
            InstanceState(i.up, i.draining, i.last_used) for i in fleet.instances.values()
        ),
        batches=tuple(
            BatchState(
                b.batch_id,
                b.model,
                b.instance,
                b.dispatched_ns,
                tuple(sorted(b.unreported)),
                b.rows,
                b.expected_end_ns,
                b.canary,
                b.shapes,
                b.parts,
                b.split,
                None if b.suspects is None else _suspects(b.suspects),
                b.filled,
                b.prefetched,
                b.prefetch_at_ns,
            )
            for b in fleet.batches.values()
        ),
    )


def _model(model: Model) -> ModelState:
    return ModelState(
        model.name,
        model.settings,
        model.policy_failed,
        tuple(tuple(r.id for r in group) for group in model.queue.groups.values()),
        model.blocked,
        model.reachable,
        model.used_ns,
        model.part,
        None if model.adaptive is None else model.adaptive.capture(),
        tuple((shapes, times.capture()) for shapes, times in model.times.items()),
        model.shares.capture(),
        model.bisections.capture(),
        tuple(_suspects(each) for each in model.bisections.suspect_groups),
        model.prefetch.capture(),
        model.prefetch_at_ns,
        model.dispatch_count,
    )


def _suspects(suspects: SuspectGroup) -> SuspectGroupState:
    return SuspectGroupState(
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


def _bisections(scheduler: Scheduler) -> tuple[BisectionState, ...]:
    groups = [
        each for model in scheduler.models.values() for each in model.bisections.suspect_groups
    ]
    groups += [b.suspects for b in scheduler.fleet.batches.values() if b.suspects is not None]
    found = {each.bisection.batch_id: each.bisection for each in groups}
    return tuple(
        BisectionState(
            b.batch_id,
            b.executions_left,
            b.give_up_after,
            b.failures,
            b.saved,
            b.may_return,
            b.suspect_groups,
            b.open,
        )
        for _, b in sorted(found.items())
    )


def rebuild(scheduler: Scheduler, state: State) -> None:
    """Fill a new scheduler with a captured state."""
    scheduler.handle([ModelConfigured(m.model, m.settings) for m in state.models], state.now_ns)
    bisections = {
        b.batch_id: Bisection(
            b.batch_id,
            b.executions_left,
            b.give_up_after,
            b.may_return,
            b.failures,
            b.saved,
            b.suspect_groups,
            b.open,
        )
        for b in state.bisections
    }
    _rebuild_fleet(scheduler, state, bisections)
    for saved in state.requests:
        request = LiveRequest(saved.arrived, saved.due_ns, saved.expires_ns)
        request.batch_id = saved.batch_id
        model = scheduler.models.get(saved.arrived.model)
        if model is not None:
            request.bucket = model.bucket_of(saved.arrived.shapes)
        request.finish_by_ns, request.rank = saved.finish_by_ns, saved.rank
        request.promote_at_ns = saved.promote_at_ns
        request.canary = saved.canary
        request.start, request.rows = saved.start, saved.rows
        request.retries, request.returns = saved.retries, saved.returns
        if saved.split is not None:
            request.split = Split(saved.split[0])
            request.split.batches.update(saved.split[1])
        scheduler.live[request.id] = request
    for model_state in state.models:
        _rebuild_model(scheduler, model_state, bisections)
    scheduler.next_batch_id = state.next_batch_id
    scheduler.ask_again_ns, scheduler.next_promotion_at_ns = (
        state.wakeup_ns,
        state.next_promotion_at_ns,
    )


def _rebuild_suspects(
    state: SuspectGroupState, bisections: Mapping[int, Bisection]
) -> SuspectGroup:
    return SuspectGroup(
        bisections[state.bisection],
        state.number,
        state.parts,
        state.shapes,
        state.cause,
        state.attempt,
        state.since_ns,
        state.other,
        state.deferred,
    )


def _rebuild_model(
    scheduler: Scheduler, state: ModelState, bisections: Mapping[int, Bisection]
) -> None:
    model = scheduler.models[state.model]
    if state.policy_failed:
        model.fall_back()
    for ids in state.groups:
        for request_id in ids:
            model.queue.add(scheduler.live[request_id])
            scheduler.expiry.add(scheduler.live[request_id])
    groups = [_rebuild_suspects(group, bisections) for group in state.suspect_groups]
    for request_id in {part.id for group in groups for part in group.parts}:
        if not queued(scheduler.live[request_id]):
            scheduler.expiry.add(scheduler.live[request_id])
    open_ = {group.bisection for group in state.suspect_groups}
    open_ |= {
        batch.suspects.bisection.batch_id
        for batch in scheduler.fleet.batches.values()
        if batch.model == state.model and batch.suspects is not None
    }
    model.bisections.restore(state.bisections, groups, len(open_))
    model.running = sum(batch.model == state.model for batch in scheduler.fleet.batches.values())
    model.blocked = state.blocked
    model.reachable = state.reachable
    model.used_ns, model.part = state.used_ns, state.part
    if model.adaptive is not None and state.arrivals is not None:
        model.adaptive.restore(state.arrivals)
    model.times = {shapes: ServiceTimes.restored(times) for shapes, times in state.times}
    model.shares.restore(state.shares)
    model.prefetch.restore(state.prefetch)
    model.prefetch_at_ns, model.dispatch_count = state.prefetch_at_ns, state.dispatch_count


def _rebuild_fleet(scheduler: Scheduler, state: State, bisections: Mapping[int, Bisection]) -> None:
    fleet = scheduler.fleet
    for device, limit in state.devices:
        fleet.limit_device(device, limit)
    for saved in state.instances:
        fleet.up(saved.up)
    for batch in state.batches:
        fleet.start(
            RunningBatch(
                batch.batch_id,
                batch.model,
                batch.instance,
                batch.dispatched_ns,
                set(batch.unreported),
                batch.rows,
                batch.expected_end_ns,
                batch.canary,
                batch.shapes,
                batch.parts,
                batch.split,
                None if batch.suspects is None else _rebuild_suspects(batch.suspects, bisections),
                batch.filled,
                batch.prefetched,
                batch.prefetch_at_ns,
            )
        )
    for saved in state.instances:
        instance = fleet.instances[saved.up.instance]
        instance.draining = saved.draining
        instance.last_used = saved.last_used
    fleet.dispatches = state.dispatches
