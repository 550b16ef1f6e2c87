"""What must hold of a scheduler after each step, for tests."""

from __future__ import annotations

from collections import Counter

from batcher.core.contents import Contents
from batcher.core.devices.fleet import Fleet
from batcher.core.model import Model
from batcher.core.queueing.queue import ModelQueue
from batcher.core.queueing.request import queued
from batcher.core.scheduler import Scheduler


def validate(scheduler: Scheduler) -> None:
    """Raise `AssertionError` where an invariant does not hold."""
    contents = scheduler.contents
    _validate_fleet(contents.fleet)
    _validate_expiry(contents)
    _validate_requests(contents)
    assert not contents.ledger.commands


def _validate_fleet(fleet: Fleet) -> None:
    """Raise `AssertionError` where loads or limits disagree with the batches that run."""
    load = dict.fromkeys(fleet.device_load, 0)
    prefetched = 0
    for name, instance in fleet.instances.items():
        assert instance.up.instance == name
        assert len(instance.batches) <= instance.up.max_in_flight
        assert instance in fleet.by_model[instance.up.model]
        if instance.next is not None:
            assert len(instance.batches) == instance.up.max_in_flight
            assert instance.next not in instance.batches
            assert fleet.batches[instance.next].instance == name
            assert fleet.batches[instance.next].prefetched
            prefetched += 1
        load[instance.up.device] += len(instance.batches)
        for batch_id in instance.batches:
            assert fleet.batches[batch_id].instance == name
    assert load == fleet.device_load
    assert sum(load.values()) + prefetched == len(fleet.batches)


def _validate_expiry(contents: Contents) -> None:
    """Every waiting request with an expiry is in the heap, and the heap is bounded."""
    expiry = contents.expiry
    listed = {request_id for _, request_id in expiry.heap}
    expected = {
        r.id for r in contents.live.values() if r.batch_id is None and r.expires_ns is not None
    }
    assert expected <= listed, f"not watched: {expected - listed}"
    assert expiry.waiting == len(expected)
    assert len(expiry.heap) <= 2 * (expiry.waiting + 1) + 1


def validate_queue(queue: ModelQueue) -> None:
    """Raise `AssertionError` unless totals are right, nothing is empty, and classes are in order."""
    for key, group in queue.groups.items():
        assert group.classes, f"empty group {key}"
        assert group.key == key
        assert group.rows == sum(r.rows for r in group)
        assert all(r.batch_id is None and r.group_key == key for r in group)
        ranks = [priority_class.rank for priority_class in group.classes]
        assert ranks == sorted(set(ranks))
        for priority_class in group.classes:
            assert priority_class.requests
            assert (
                priority_class.finish_by
                == [r.finish_by_ns for r in priority_class.requests]
                == sorted(priority_class.finish_by)
            )
            assert all(r.rank == priority_class.rank for r in priority_class.requests)
            assert priority_class.rows == sum(r.rows for r in priority_class.requests)
    assert queue.requests == sum(len(group) for group in queue.groups.values())
    assert queue.rows == sum(group.rows for group in queue.groups.values())
    assert queue.nbytes == sum(r.nbytes for r in queue)
    assert queue.splits == sum(r.split is not None for r in queue)
    assert queue.later_rows == sum(r.later_rows for r in queue)
    assert all(r.split.queued for r in queue if r.split is not None)


def _validate_requests(contents: Contents) -> None:
    """Raise `AssertionError` unless each request is where it says, and each row is in one place."""
    models, live, fleet = contents.models, contents.live, contents.fleet
    rows: Counter[int] = Counter()
    waiting: set[int] = set()
    retries: Counter[int] = Counter()
    for model in models.values():
        validate_queue(model.queue)
        ids = {request.id for request in model.queue}
        assert len(ids) == model.queue.requests
        assert not ids & waiting
        assert all(queued(live[i]) for i in ids)
        waiting |= ids
        for request in model.queue:
            assert request.rows <= model.settings.max_batch_size
            rows[request.id] += request.arrived.rows - request.start
        _validate_groups(model, fleet)
        for part in model.bisections.waiting_parts():
            retries[part.id] += 1
            rows[part.id] += part.stop - part.start
    waiting |= set(retries)
    waiting |= _validate_sequences(contents, rows)
    assert waiting == {r.id for r in live.values() if r.batch_id is None}
    running: dict[int, set[int]] = {}
    for batch in fleet.batches.values():
        sizes = {part.id: part.stop - part.start for part in batch.parts}
        assert len(sizes) == len(batch.parts)
        for request_id in batch.unreported:
            running.setdefault(request_id, set()).add(batch.batch_id)
            rows[request_id] += sizes[request_id]
    for request in live.values():
        assert request.suspect_parts == retries[request.id]
        batches = running.get(request.id, set())
        if request.split is None:
            assert batches == ({request.batch_id} - {None})
            assert rows[request.id] == request.arrived.rows
        else:
            assert batches == request.split.batches
            assert request.batch_id is None or request.batch_id in batches
            assert rows[request.id] == request.split.left
            assert request.split.left > 0
    assert set(running) <= set(live)


def _validate_sequences(contents: Contents, rows: Counter[int]) -> set[int]:
    """Raise `AssertionError` unless of each sequence all steps but the first are held. Adds their rows.

    Returns the ids of all held steps.
    """
    sequences, held = contents.ledger.sequences, set[int]()
    assert not sequences.released
    for key, steps in sequences.steps.items():
        assert steps
        assert all((r.arrived.model, r.arrived.sequence) == key for r in steps)
        assert [r.held for r in steps] == [False, *[True] * (len(steps) - 1)]
        assert all(contents.live[r.id] is r for r in steps)
        held |= {r.id for r in steps[1:]}
    stepping = sum(len(steps) for steps in sequences.steps.values())
    assert stepping == sum(r.arrived.sequence is not None for r in contents.live.values())
    kept = [r for model in contents.models.values() for r in model.queue.held.values()]
    assert {r.id for r in kept} == held
    for model in contents.models.values():
        own = model.queue.held
        assert all(r.id == i and r.arrived.model == model.name for i, r in own.items())
        assert model.queue.held_rows == sum(r.arrived.rows for r in own.values())
        assert model.queue.held_bytes == sum(r.nbytes for r in own.values())
    for request in kept:
        rows[request.id] += request.arrived.rows
    return held


def _validate_groups(model: Model, fleet: Fleet) -> None:
    """Raise `AssertionError` unless something of each open bisection waits or runs, as it says."""
    bisections = model.bisections
    running = [
        batch.suspects
        for batch in fleet.batches.values()
        if batch.model == model.name and batch.suspects is not None
    ]
    assert all(each in bisections.open and each.running for each in running)
    for each in bisections.open:
        assert each.running == (running.count(each) == 1)
        assert each.running or each.waiting
    assert not bisections.storm_unreported
