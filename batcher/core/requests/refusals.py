"""Refusals: why a request does not enter a queue, and when its caller should try again."""

from __future__ import annotations

from typing import Final, final

from batcher.core.commands import Blame, Outcome, Reason
from batcher.core.devices.fleet import Fleet
from batcher.core.events import FailureCause, RequestArrived
from batcher.core.model import Model
from batcher.core.record import record
from batcher.core.times import LATELY_NS, TIMER_NS

QUEUE_FULL_RETRY_NS = 100_000_000
"""What a client is told to wait when a queue is full: several batches later. The value decides only how
often such clients come back."""

UNAVAILABLE_RETRY_NS: Final = LATELY_NS
"""What a client is told to wait when no instance is up: about the time that a small model takes to load."""

FAILURE_RETRY_NS: Final = {
    FailureCause.DEVICE: UNAVAILABLE_RETRY_NS,
    FailureCause.MEMORY: LATELY_NS,
    FailureCause.OVERLOADED: QUEUE_FULL_RETRY_NS,
    FailureCause.UNAVAILABLE: UNAVAILABLE_RETRY_NS,
}
"""Cause -> what a client is told to wait where the backend does not say; a retry helps after no other."""


@final
@record
class Refusal:
    """How a request that is not admitted ends, and why. `retry_ns` is None where a retry will not help.

    `blame` is given where a prediction refuses it.
    """

    outcome: Outcome
    reason: Reason
    retry_ns: int | None = None
    blame: Blame | None = None


UNKNOWN_MODEL: Final = Refusal(Outcome.REJECTED, Reason.UNKNOWN_MODEL)
NO_INSTANCE: Final = Refusal(Outcome.REJECTED, Reason.NO_INSTANCE, UNAVAILABLE_RETRY_NS)
TOO_MANY_ROWS: Final = Refusal(Outcome.REJECTED, Reason.TOO_MANY_ROWS)
TOO_MANY_BYTES: Final = Refusal(Outcome.REJECTED, Reason.TOO_MANY_BYTES)


def busy_ns(model: Model, fleet: Fleet, now_ns: int) -> int:
    """Nanoseconds for which the model is busy with what waits and runs: when a retry makes sense."""
    waiting_ns = model.times.backlog_ns(model.queue, model.queue.all_rows) / fleet.slots(model.name)
    return max(TIMER_NS, int(fleet.next_free_ns(model.name, now_ns) - now_ns + waiting_ns))


def expiry_reason(arrived: RequestArrived, expires_ns: int | None) -> Reason:
    """Whether it was the caller's deadline or the queue's timeout that a request missed."""
    return Reason.CALLER_DEADLINE if expires_ns == arrived.deadline_ns else Reason.QUEUE_TIMEOUT
