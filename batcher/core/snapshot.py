"""A scheduler's contents as a `State`; `restore.py` is the way back."""

from __future__ import annotations

from batcher.core.contents import Contents
from batcher.core.devices.instances import RunningBatch
from batcher.core.faults.bisection import Bisection
from batcher.core.model import Model
from batcher.core.queueing.request import LiveRequest
from batcher.core.record import copied
from batcher.core.state import CAPTURED, SavedBatch, SavedInstance, SavedModel, SavedRequest, State


def capture(contents: Contents) -> State:
    """Everything that decides what the scheduler does next."""
    fleet = contents.fleet
    return State(
        now_ns=contents.now_ns,
        next_batch_id=contents.next_batch_id,
        dispatches=fleet.dispatches,
        wakeup_ns=contents.ask_again_ns,
        next_limit_ns=contents.next_limit_ns,
        models=tuple(_model(model) for model in contents.models.values()),
        requests=tuple(_request(request) for request in contents.live.values()),
        devices=tuple(fleet.device_limits.items()),
        instances=tuple(
            SavedInstance(i.up, i.draining, i.last_used) for i in fleet.instances.values()
        ),
        batches=tuple(_batch(batch) for batch in fleet.batches.values()),
    )


def _request(request: LiveRequest) -> SavedRequest:
    split = request.split
    progress = None if split is None else (split.left, tuple(sorted(split.batches)))
    return copied(SavedRequest, request, split=progress)


def _batch(batch: RunningBatch) -> SavedBatch:
    suspects = None if batch.suspects is None else batch.suspects.batch_id
    return copied(SavedBatch, batch, unreported=tuple(sorted(batch.unreported)), suspects=suspects)


def _model(model: Model) -> SavedModel:
    learned = {name: getattr(model, name).capture() for name in CAPTURED}
    return copied(
        SavedModel,
        model,
        model=model.name,
        whole=tuple(model.whole.items()),
        groups=tuple(tuple(r.id for r in group) for group in model.queue.groups.values()),
        times=tuple((shapes, times.capture()) for shapes, times in model.times.items()),
        open_bisections=tuple(copied(Bisection, each) for each in model.bisections.open),
        **learned,
    )
