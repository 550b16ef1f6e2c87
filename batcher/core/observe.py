"""Reads the scheduler's contents for metrics and health, without changing them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from batcher.core.devices.fleet import Fleet
from batcher.core.loads import ModelLoad, loads
from batcher.core.model import Model
from batcher.core.observation import InstanceObservation, ModelObservation, Observation
from batcher.core.queueing.request import LiveRequest, queued
from batcher.core.record import copied


def observe(
    models: Mapping[str, Model], fleet: Fleet, live: Mapping[int, LiveRequest], now_ns: int
) -> Observation:
    """Depths, live ages and instances at `now_ns`."""
    executing: dict[str, set[int]] = {}
    for batch in fleet.batches.values():
        executing.setdefault(batch.model, set()).update(batch.unreported)
    loaded, devices, desired_ratio = loads(models, fleet, now_ns)
    return Observation(
        now_ns,
        tuple(
            _model(m, executing.get(name, ()), live, loaded[name], now_ns)
            for name, m in models.items()
        ),
        tuple(
            copied(InstanceObservation, i.up, draining=i.draining, in_flight=len(i.batches))
            for i in fleet.instances.values()
        ),
        devices,
        desired_ratio,
    )


def _model(
    model: Model,
    executing: Collection[int],
    live: Mapping[int, LiveRequest],
    load: ModelLoad,
    now_ns: int,
) -> ModelObservation:
    queue, bisections = model.queue, model.bisections
    again = list(bisections.waiting_parts())
    rows = queue.all_rows + queue.held_rows + sum(part.stop - part.start for part in again)
    # A split request may wait in the queue and to be run again.
    again_ids = {part.id for part in again if not queued(live[part.id])}
    arrivals_ns = [live[i].arrived.arrival_ns for i in again_ids]
    waiting_ns = queue.oldest_arrival_ns()
    if arrivals_ns:
        waiting_ns = min(arrivals_ns) if waiting_ns is None else min(waiting_ns, *arrivals_ns)
    last = next(reversed(model.times.values()), None)
    executing_arrivals_ns = [live[i].arrived.arrival_ns for i in executing]
    return ModelObservation(
        model=model.name,
        waiting_requests=queue.requests + len(queue.held) + len(again_ids),
        waiting_rows=rows,
        waiting_bytes=queue.nbytes + queue.held_bytes + sum(live[i].nbytes for i in again_ids),
        executing_requests=len(executing_arrivals_ns),
        oldest_waiting_ns=None if waiting_ns is None else max(0, now_ns - waiting_ns),
        oldest_executing_ns=(
            max(0, now_ns - min(executing_arrivals_ns)) if executing_arrivals_ns else None
        ),
        target_ns=model.settings.target_ns,
        backlog_ns=model.times.backlog_ns(queue, rows),
        reachable=model.reachable,
        late_buckets=sum(not times.reachable for times in model.times.values()),
        bisected_batches=bisections.bisected,
        bisect_executions=bisections.reruns,
        storm=bisections.storm_until_ns is not None,
        margin=last.margin if last else 1.0,
        drift=last.drift if last else 1.0,
        handling_ns=last.handling_ns if last else 0.0,
        copy_ns=last.copies[-1] if last is not None and last.copies else 0.0,
        shapes=tuple(model.times),
        held_requests=len(queue.held),
        ceiling_rows=model.smallest_rows,
        saved_requests=bisections.saved,
        offered_rows_per_s=load.offered_rows_per_s,
        capacity_rows_per_s=load.capacity_rows_per_s,
        load=load.load,
        device_loads=load.device_loads,
    )
