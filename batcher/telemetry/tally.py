"""Counts for the flight recorder: how many requests ended, were on time, or failed."""

from __future__ import annotations

from typing import Final

from batcher.core.commands import Outcome, Reason
from batcher.journal import Tally
from batcher.telemetry.model import ModelTelemetry
from batcher.telemetry.reasons import AdmissionReason

_FAILURES: Final = (
    Reason.DEVICE_FAILURE,
    Reason.UNKNOWN_FAILURE,
    Reason.INSTANCE_DOWN,
    Reason.BACKEND_UNAVAILABLE,
)

_CAUSED_BY_CALLERS: Final = frozenset(
    (
        *((Outcome.REJECTED, reason) for reason in AdmissionReason),
        (Outcome.REJECTED, Reason.TOO_MANY_ROWS),
        (Outcome.REJECTED, Reason.TOO_MANY_BYTES),
        (Outcome.REJECTED, Reason.MODEL_REMOVED),
        (Outcome.CANCELLED, Reason.CALLER_CANCELLED),
        (Outcome.FAILED, Reason.INPUT_FAILURE),
    )
)
"""Ends that the caller caused: they say nothing about how well the model is served."""


def tally(model: ModelTelemetry) -> Tally:
    """The counts of one model up to now."""
    requests = model.requests
    answered = requests.get((Outcome.OK, Reason.NONE), 0)
    return Tally(
        ended=sum(count for kind, count in requests.items() if kind not in _CAUSED_BY_CALLERS),
        on_time=answered - model.target_missed,
        failures=sum(requests.get((Outcome.FAILED, reason), 0) for reason in _FAILURES),
    )
