"""Reads a scheduler for a scrape, without changing it."""

from __future__ import annotations

from collections.abc import Mapping

from batcher.core.fleet import Fleet
from batcher.core.model import Model
from batcher.core.observation import InstanceObservation, ModelObservation, Observation
from batcher.core.request import LiveRequest


def observe(
    models: Mapping[str, Model], fleet: Fleet, live: Mapping[int, LiveRequest], now_ns: int
) -> Observation:
    """Depths, live ages and instances at `now_ns`."""
    executing: dict[str, list[int]] = {}
    for batch in fleet.batches.values():
        arrivals = executing.setdefault(batch.model, [])
        arrivals.extend(live[i].arrived.arrival_ns for i in batch.unreported)
    return Observation(
        now_ns,
        tuple(_model(m, executing.get(name, []), now_ns) for name, m in models.items()),
        tuple(
            InstanceObservation(
                name,
                instance.up.incarnation,
                instance.up.model,
                instance.up.device,
                instance.draining,
                len(instance.batches),
            )
            for name, instance in fleet.instances.items()
        ),
    )


def _model(model: Model, executing_arrivals_ns: list[int], now_ns: int) -> ModelObservation:
    queue = model.queue
    waiting_ns = queue.oldest_arrival_ns()
    rate = model.best_rate()
    return ModelObservation(
        model=model.name,
        waiting_requests=queue.requests,
        waiting_rows=queue.rows,
        waiting_bytes=queue.nbytes,
        executing_requests=len(executing_arrivals_ns),
        oldest_waiting_ns=None if waiting_ns is None else max(0, now_ns - waiting_ns),
        oldest_executing_ns=(
            max(0, now_ns - min(executing_arrivals_ns)) if executing_arrivals_ns else None
        ),
        target_ns=model.settings.target_ns,
        work_ns=queue.rows / rate if rate else 0.0,
        reachable=model.reachable,
    )
