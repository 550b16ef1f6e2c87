"""The states of a request.

A state is not stored: `request_state` derives it from what the scheduler holds.
docs/scheduler-states.md has a table of every transition between them, and of those of batches and
instances.
"""

from __future__ import annotations

from enum import StrEnum

from batcher.core.devices.fleet import Fleet
from batcher.core.devices.instances import RunningBatch
from batcher.core.queueing.ranks import LATE
from batcher.core.queueing.request import LiveRequest, queued


class RequestState(StrEnum):
    """The states of a request; the last five are its ends."""

    NEW = "new"
    HELD = "held"
    WAITING = "waiting"
    LATE = "late"
    PARTLY_RUN = "partly run"
    PREFETCHED = "prefetched"
    RUNNING = "running"
    SUSPECT = "suspect"
    ANSWERED = "answered"
    REFUSED = "refused"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    FAILED = "failed"


def request_state(request: LiveRequest, fleet: Fleet) -> RequestState:
    """The state of a live request."""
    if queued(request):
        if request.start:
            return RequestState.PARTLY_RUN
        return RequestState.LATE if request.rank == LATE else RequestState.WAITING
    if request.held:
        return RequestState.HELD
    if request.suspect_parts:
        return RequestState.SUSPECT
    ids = {request.batch_id} if request.split is None else request.split.batches
    batches = [fleet.batches[i] for i in ids if i is not None]
    if all(is_prefetched(batch, fleet) for batch in batches):
        return RequestState.PREFETCHED
    return RequestState.RUNNING


def is_prefetched(batch: RunningBatch, fleet: Fleet) -> bool:
    """Whether a batch waits at its instance for the one that runs there."""
    return fleet.instances[batch.instance].next == batch.batch_id
