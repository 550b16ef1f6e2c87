"""The states of a request, a batch and an instance.

A state is not stored: `request_state`, `batch_state` and `instance_state` derive it from what the
scheduler holds. docs/scheduler-states.md has a table of every transition between them. Tests walk each
row of it, and fail on a transition of a random story that no row allows.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from batcher.core.commands import Outcome
from batcher.core.devices.fleet import Fleet
from batcher.core.devices.instances import Instance, RunningBatch
from batcher.core.queueing.ranks import LATE
from batcher.core.queueing.request import LiveRequest, queued


class RequestState(StrEnum):
    """The states of a request; the last five are its ends."""

    NEW = "new"
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


class BatchState(StrEnum):
    """The states of a batch; the last four are its ends."""

    NEW = "new"
    PREFETCHED = "prefetched"
    RUNNING = "running"
    PARTLY_DONE = "partly done"
    DONE = "done"
    BISECTED = "bisected"
    FAILED = "failed"
    LOST = "lost"


class InstanceState(StrEnum):
    """The states of an instance."""

    DOWN = "down"
    IDLE = "idle"
    BUSY = "busy"
    DRAINING = "draining"


ENDS: Final = {
    Outcome.OK: RequestState.ANSWERED,
    Outcome.REJECTED: RequestState.REFUSED,
    Outcome.EXPIRED: RequestState.EXPIRED,
    Outcome.CANCELLED: RequestState.CANCELLED,
    Outcome.FAILED: RequestState.FAILED,
}
"""The state in which a request ends with each outcome."""


def request_state(request: LiveRequest, fleet: Fleet) -> RequestState:
    """The state of a live request."""
    if queued(request):
        if request.start:
            return RequestState.PARTLY_RUN
        if request.rank == LATE:
            return RequestState.LATE
        return RequestState.WAITING
    if request.suspect_parts:
        return RequestState.SUSPECT
    ids = {request.batch_id} if request.split is None else request.split.batches
    batches = [fleet.batches[i] for i in ids if i is not None]
    if all(_prefetched(batch, fleet) for batch in batches):
        return RequestState.PREFETCHED
    return RequestState.RUNNING


def batch_state(batch: RunningBatch, fleet: Fleet) -> BatchState:
    """The state of a batch that has not ended."""
    if _prefetched(batch, fleet):
        return BatchState.PREFETCHED
    if len(batch.unreported) < len(batch.parts):
        return BatchState.PARTLY_DONE
    return BatchState.RUNNING


def instance_state(instance: Instance) -> InstanceState:
    """The state of an instance that is up."""
    if instance.draining:
        return InstanceState.DRAINING
    return InstanceState.BUSY if instance.batches else InstanceState.IDLE


def _prefetched(batch: RunningBatch, fleet: Fleet) -> bool:
    return fleet.instances[batch.instance].next == batch.batch_id
