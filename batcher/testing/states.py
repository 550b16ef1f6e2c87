"""The states of a batch and of an instance, derived from what the scheduler holds.

docs/scheduler-states.md has a table of every transition between them. Tests walk each row of it, and
fail on a transition of a random story that no row allows.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from batcher.core.commands import Outcome
from batcher.core.devices.fleet import Fleet
from batcher.core.devices.instances import Instance, RunningBatch
from batcher.core.lifecycle import RequestState, is_prefetched


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


def batch_state(batch: RunningBatch, fleet: Fleet) -> BatchState:
    """The state of a batch that has not ended."""
    if is_prefetched(batch, fleet):
        return BatchState.PREFETCHED
    if len(batch.unreported) < len(batch.parts):
        return BatchState.PARTLY_DONE
    return BatchState.RUNNING


def instance_state(instance: Instance) -> InstanceState:
    """The state of an instance that is up."""
    if instance.draining:
        return InstanceState.DRAINING
    return InstanceState.BUSY if instance.batches else InstanceState.IDLE
