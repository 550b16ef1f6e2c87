"""A scheduler to a `State` and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batcher.core.events import ModelConfigured
from batcher.core.fleet import RunningBatch
from batcher.core.request import LiveRequest
from batcher.core.state import BatchState, InstanceState, ModelState, RequestState, State

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
        models=tuple(
            ModelState(
                name,
                model.settings,
                model.policy_failed,
                tuple(tuple(r.id for r in lane) for lane in model.queue.lanes.values()),
            )
            for name, model in scheduler.models.items()
        ),
        requests=tuple(
            RequestState(r.arrived, r.due_ns, r.expires_ns, r.batch_id)
            for r in scheduler.live.values()
        ),
        devices=tuple(fleet.device_limits.items()),
        instances=tuple(
            InstanceState(i.up, i.draining, i.last_used) for i in fleet.instances.values()
        ),
        batches=tuple(
            BatchState(
                b.batch_id, b.model, b.instance, b.dispatched_ns, tuple(sorted(b.unreported))
            )
            for b in fleet.batches.values()
        ),
    )


def rebuild(scheduler: Scheduler, state: State) -> None:
    """Fill a new scheduler with a captured state."""
    scheduler.handle([ModelConfigured(m.model, m.settings) for m in state.models], state.now_ns)
    _rebuild_fleet(scheduler, state)
    for saved in state.requests:
        request = LiveRequest(saved.arrived, saved.due_ns, saved.expires_ns)
        request.batch_id = saved.batch_id
        scheduler.live[request.id] = request
    for model_state in state.models:
        model = scheduler.models[model_state.model]
        if model_state.policy_failed:
            model.fall_back()
        for lane in model_state.lanes:
            for request_id in lane:
                model.queue.add(scheduler.live[request_id])
                scheduler.expiry.add(scheduler.live[request_id])
    scheduler.next_batch_id = state.next_batch_id
    scheduler.ask_again_ns = state.wakeup_ns


def _rebuild_fleet(scheduler: Scheduler, state: State) -> None:
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
            )
        )
    for saved in state.instances:
        instance = fleet.instances[saved.up.instance]
        instance.draining = saved.draining
        instance.last_used = saved.last_used
    fleet.dispatches = state.dispatches
