"""A scheduler's contents from a `State` that `snapshot.py` captured."""

from __future__ import annotations

from batcher.core.contents import Contents
from batcher.core.devices.instances import RunningBatch
from batcher.core.events import ModelConfigured
from batcher.core.faults.bisection import Bisection
from batcher.core.handlers.memory import note_ceilings
from batcher.core.handlers.models import configure
from batcher.core.queueing.request import LiveRequest, Split, queued
from batcher.core.record import copied
from batcher.core.state import CAPTURED, SavedModel, SavedRequest, State


def restore(contents: Contents, state: State) -> None:
    """Fill a new scheduler's contents with a captured state."""
    contents.now_ns = state.now_ns
    for model_state in state.models:
        configure(contents, ModelConfigured(model_state.model, model_state.settings))
    # Which policies have failed is known already.
    contents.ledger.take_commands()
    contents.policy_errors.clear()
    for model_state in state.models:
        contents.models[model_state.model].bisections.open = [
            copied(Bisection, saved) for saved in model_state.open_bisections
        ]
    _restore_fleet(contents, state)
    for saved in state.requests:
        _restore_request(contents, saved)
    for model_state in state.models:
        _restore_model(contents, model_state)
    contents.next_batch_id = state.next_batch_id
    contents.ask_again_ns = state.wakeup_ns
    contents.note_limit(state.next_limit_ns)
    note_ceilings(contents)


def _restore_request(contents: Contents, state: SavedRequest) -> None:
    request = LiveRequest(state.arrived, state.due_ns, state.expires_ns, state.limit_ns)
    for name in SavedRequest.__dataclass_fields__.keys() - {"split"}:
        setattr(request, name, getattr(state, name))
    if state.split is not None:
        request.split = Split(state.split[0])
        request.split.batches.update(state.split[1])
    contents.live[request.id] = request
    if state.arrived.sequence is not None:
        contents.ledger.sequences.add(request)
    if state.held:
        contents.models[state.arrived.model].queue.hold(request)
        contents.expiry.add(request)


def _restore_model(contents: Contents, state: SavedModel) -> None:
    model = contents.models[state.model]
    if state.policy_failed:
        model.fall_back()
    for ids in state.groups:
        for request_id in ids:
            model.queue.add(contents.live[request_id])
            contents.expiry.add(contents.live[request_id])
    for request_id in {part.id for part in model.bisections.waiting_parts()}:
        if not queued(contents.live[request_id]):
            contents.expiry.add(contents.live[request_id])
    model.running = sum(batch.model == state.model for batch in contents.fleet.batches.values())
    for name in ("blocked", "reachable", "prefetch_at_ns", "dispatch_count", "replaces"):
        setattr(model, name, getattr(state, name))
    model.whole = dict(state.whole)
    for name in CAPTURED:
        getattr(model, name).restore(getattr(state, name))
    model.times.restore(state.times)


def _restore_fleet(contents: Contents, state: State) -> None:
    fleet = contents.fleet
    bisections = {
        each.batch_id: each for model in contents.models.values() for each in model.bisections.open
    }
    for device, limit in state.devices:
        fleet.limit_device(device, limit)
    for saved in state.instances:
        fleet.add(saved.up)
    for batch in state.batches:
        suspects = None if batch.suspects is None else bisections[batch.suspects]
        unreported = set(batch.unreported)
        fleet.start(copied(RunningBatch, batch, unreported=unreported, suspects=suspects))
    for saved in state.instances:
        instance = fleet.instances[saved.up.instance]
        instance.draining = saved.draining
        instance.last_used = saved.last_used
    fleet.changed()
    fleet.dispatches = state.dispatches
