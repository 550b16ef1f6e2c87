"""The error that a caller gets for each reason with which the scheduler ends a request."""

from __future__ import annotations

from batcher import errors
from batcher.core.commands import Outcome, Reason, Settle

_REFUSALS: dict[Reason, tuple[type[errors.RequestError], str]] = {
    Reason.UNKNOWN_MODEL: (errors.ModelUnavailable, "is no longer served"),
    Reason.MODEL_REMOVED: (errors.ModelUnavailable, "was unloaded while the request waited"),
    Reason.NO_INSTANCE: (errors.DeviceLost, "has no instance up; one is being started"),
    Reason.TOO_MANY_ROWS: (errors.InvalidRequest, "takes fewer rows in one request"),
    Reason.TOO_MANY_BYTES: (
        errors.InvalidRequest,
        "takes fewer input bytes in one request (queue.max_bytes)",
    ),
    Reason.QUEUE_REQUESTS: (errors.Overloaded, "queue is full (queue.max_requests)"),
    Reason.QUEUE_GROUPS: (
        errors.Overloaded,
        "queue is full of requests that cannot share a batch (queue.max_groups)",
    ),
    Reason.QUEUE_ROWS: (errors.Overloaded, "queue is full (queue.max_rows)"),
    Reason.QUEUE_BYTES: (errors.Overloaded, "queue is full (queue.max_bytes)"),
    Reason.PREDICTED_LATE: (
        errors.Overloaded,
        "cannot answer in time: the target or the caller's deadline would be missed",
    ),
    Reason.CALLER_DEADLINE: (
        errors.DeadlineExpired,
        "did not get to the request before the caller's deadline",
    ),
    Reason.DEADLINE_TOO_SHORT: (
        errors.DeadlineExpired,
        "takes longer for one batch alone than the caller's deadline allows",
    ),
    Reason.QUEUE_TIMEOUT: (
        errors.DeadlineExpired,
        "did not get to the request within queue.timeout, or its own timeout",
    ),
    Reason.CALLER_CANCELLED: (errors.RequestCancelled, "request was cancelled by the caller"),
    Reason.INSTANCE_DOWN: (errors.DeviceLost, "lost the instance that ran the request"),
    Reason.DEVICE_FAILURE: (errors.DeviceLost, "device failed"),
    Reason.INPUT_FAILURE: (errors.InputRefused, "executor refused the input"),
    Reason.UNKNOWN_FAILURE: (errors.ExecutionFailed, "executor failed"),
}
"""Reason -> error class and message, for every `Reason` except `NONE` (answered)."""


def error_for(settle: Settle, model: str, failure: str | None) -> errors.RequestError:
    """The error for one request of a `Settle`; `failure` is the executor's message, if any."""
    assert settle.outcome is not Outcome.OK  # noqa: S101 - an answered request has no error
    kind, text = _REFUSALS[settle.reason]
    message = f"{model}: {text}" if failure is None else f"{model}: {text}: {failure}"
    return kind(message, retry_after_ns=settle.retry_after_ns)
