"""What the flight recorder looks at: how many requests ended, and how many of them well."""

from __future__ import annotations

from typing import Final

from batcher.core.commands import Outcome, Reason
from batcher.journal import Tally
from batcher.telemetry.model import ModelTelemetry
from batcher.telemetry.reasons import AdmissionReason

_FAILURES: Final = (Reason.DEVICE_FAILURE, Reason.UNKNOWN_FAILURE, Reason.INSTANCE_DOWN)

_NOT_OURS: Final = frozenset(
    (
        *((Outcome.REJECTED, reason) for reason in AdmissionReason),
        (Outcome.REJECTED, Reason.TOO_MANY_ROWS),
        (Outcome.REJECTED, Reason.TOO_MANY_BYTES),
        (Outcome.REJECTED, Reason.MODEL_REMOVED),
        (Outcome.CANCELLED, Reason.CALLER_CANCELLED),
        (Outcome.FAILED, Reason.INPUT_FAILURE),
    )
)
"""Ends that say nothing of how well the model is served."""


def tally(model: ModelTelemetry) -> Tally:
    """The counts of one model up to now."""
    requests = model.requests
    answered = requests.get((Outcome.OK, Reason.NONE), 0)
    return Tally(
        ended=sum(count for kind, count in requests.items() if kind not in _NOT_OURS),
        on_time=answered - model.target_missed,
        failures=sum(requests.get((Outcome.FAILED, reason), 0) for reason in _FAILURES),
    )
