"""What the scheduler observes of all generations of a model, as one observation.

A generation is a model of its own for the scheduler, and none for people: while an old one drains beside a
new one, their queues add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from batcher.core.observation import ModelObservation


def merged(generations: Sequence[ModelObservation], serving: str) -> ModelObservation:
    """The observations of one model's generations as one, with the name of the first.

    What waits and runs adds up, and ages are those of the oldest request; what was learned is that of the
    generation called `serving`, else of the newest.
    """
    if len(generations) == 1:
        return generations[0]
    newest = next((each for each in generations if each.model == serving), generations[-1])
    return replace(
        newest,
        model=generations[0].model,
        waiting_requests=sum(each.waiting_requests for each in generations),
        waiting_rows=sum(each.waiting_rows for each in generations),
        waiting_bytes=sum(each.waiting_bytes for each in generations),
        held_requests=sum(each.held_requests for each in generations),
        executing_requests=sum(each.executing_requests for each in generations),
        oldest_waiting_ns=_oldest(each.oldest_waiting_ns for each in generations),
        oldest_executing_ns=_oldest(each.oldest_executing_ns for each in generations),
        backlog_ns=sum(each.backlog_ns for each in generations),
        bisected_batches=sum(each.bisected_batches for each in generations),
        bisect_executions=sum(each.bisect_executions for each in generations),
        storm=any(each.storm for each in generations),
        ceiling_rows=min(each.ceiling_rows for each in generations),
        offered_rows_per_s=_sum(each.offered_rows_per_s for each in generations),
        load=_sum(each.load for each in generations),
        device_loads=_by_device(generations),
    )


def _sum(found: Iterable[float | None]) -> float | None:
    """The sum of what is known; None where nothing is."""
    known = [each for each in found if each is not None]
    return sum(known) if known else None


def _by_device(generations: Sequence[ModelObservation]) -> tuple[tuple[str, float], ...]:
    loads: dict[str, float] = {}
    for each in generations:
        for device, load in each.device_loads:
            loads[device] = loads.get(device, 0.0) + load
    return tuple(loads.items())


def _oldest(found_ns: Iterable[int | None]) -> int | None:
    return max((age_ns for age_ns in found_ns if age_ns is not None), default=None)
