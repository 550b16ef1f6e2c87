"""Invariants of live requests, which tests check after each step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from batcher.core.devices.fleet import Fleet
from batcher.core.model import Model
from batcher.core.queueing.request import LiveRequest, queued


def validate_requests(
    models: Mapping[str, Model], live: Mapping[int, LiveRequest], fleet: Fleet
) -> None:
    """Raise `AssertionError` unless each request is where it says, and each row is in one place."""
    rows: Counter[int] = Counter()
    waiting: set[int] = set()
    retries: Counter[int] = Counter()
    for model in models.values():
        model.queue.validate()
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
