"""Refusals: why a request does not enter a queue, and when its caller should try again."""

from __future__ import annotations

from typing import Final, final

from batcher.core.commands import Outcome, Reason
from batcher.core.devices.fleet import Fleet
from batcher.core.events import RequestArrived
from batcher.core.model import Model
from batcher.core.record import record

QUEUE_FULL_RETRY_NS = 100_000_000
"""What a caller is told to wait when a queue is full: long against a window, short for a person."""

UNAVAILABLE_RETRY_NS = 1_000_000_000
"""What a caller is told to wait when no instance is up: about the time a small model loads in."""

SHORTEST_RETRY_NS = 1_000_000
"""Nobody is told to come back sooner."""


@final
@record
class Refusal:
    """A request that does not enter, and why."""

    outcome: Outcome
    reason: Reason
    retry_ns: int | None = None


UNKNOWN_MODEL: Final = Refusal(Outcome.REJECTED, Reason.UNKNOWN_MODEL)
NO_INSTANCE: Final = Refusal(Outcome.REJECTED, Reason.NO_INSTANCE, UNAVAILABLE_RETRY_NS)
TOO_MANY_ROWS: Final = Refusal(Outcome.REJECTED, Reason.TOO_MANY_ROWS)
TOO_MANY_BYTES: Final = Refusal(Outcome.REJECTED, Reason.TOO_MANY_BYTES)
DEADLINE_TOO_SHORT: Final = Refusal(Outcome.EXPIRED, Reason.DEADLINE_TOO_SHORT)


def until_clear_ns(model: Model, fleet: Fleet, now_ns: int) -> int:
    """How long what waits and runs now keeps the model busy: when a retry makes sense."""
    waiting_ns = model.times.backlog_ns(model.queue, model.queue.all_rows) / fleet.slots(model.name)
    return max(SHORTEST_RETRY_NS, int(fleet.next_free_ns(model.name, now_ns) - now_ns + waiting_ns))


def expiry_reason(arrived: RequestArrived, expires_ns: int | None) -> Reason:
    """Whose clock ran out: the caller's, or the queue's."""
    return Reason.CALLER_DEADLINE if expires_ns == arrived.deadline_ns else Reason.QUEUE_TIMEOUT
