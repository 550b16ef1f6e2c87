"""The error that a caller gets for each reason with which the scheduler ends a request."""

from __future__ import annotations

from batcher import errors
from batcher.core.commands import Outcome, Reason, Settle

_REFUSALS: dict[Reason, tuple[type[errors.RequestError], str]] = {
    Reason.UNKNOWN_MODEL: (errors.ModelUnavailable, "the model is no longer served"),
    Reason.MODEL_REMOVED: (
        errors.ModelUnavailable,
        "the model was unloaded while the request waited",
    ),
    Reason.NO_INSTANCE: (errors.DeviceLost, "no instance is up; one is being started"),
    Reason.TOO_MANY_ROWS: (
        errors.InvalidRequest,
        "the request has more rows than the model takes now (max_batch_size x queue.max_batches_per_request, or queue.max_rows)",
    ),
    Reason.TOO_MANY_BYTES: (
        errors.InvalidRequest,
        "the request has more bytes of input than the queue may hold (queue.max_bytes)",
    ),
    Reason.QUEUE_REQUESTS: (errors.Overloaded, "the queue is full (queue.max_requests)"),
    Reason.QUEUE_GROUPS: (
        errors.Overloaded,
        "the queue is full of requests that cannot share a batch (queue.max_groups)",
    ),
    Reason.QUEUE_ROWS: (errors.Overloaded, "the queue is full (queue.max_rows)"),
    Reason.QUEUE_BYTES: (errors.Overloaded, "the queue is full (queue.max_bytes)"),
    Reason.PREDICTED_LATE: (
        errors.Overloaded,
        "the reply would come too late for the target (target_p99) or the caller's deadline",
    ),
    Reason.CALLER_DEADLINE: (
        errors.DeadlineExpired,
        "the caller's deadline passed before the request was executed",
    ),
    Reason.DEADLINE_TOO_SHORT: (
        errors.DeadlineExpired,
        "the caller's deadline is shorter than the time of the fastest batch",
    ),
    Reason.QUEUE_TIMEOUT: (
        errors.DeadlineExpired,
        "the request waited longer than queue.timeout or its own timeout",
    ),
    Reason.CALLER_CANCELLED: (errors.RequestCancelled, "the caller cancelled the request"),
    Reason.INSTANCE_DOWN: (errors.DeviceLost, "the instance that ran the request went down"),
    Reason.DEVICE_FAILURE: (errors.DeviceLost, "the device failed"),
    Reason.INPUT_FAILURE: (errors.InputRefused, "the executor refused the input"),
    Reason.UNKNOWN_FAILURE: (errors.ExecutionFailed, "the executor failed"),
}
"""Reason -> error class and message, for every `Reason` except `NONE` (answered)."""


def error_for(settle: Settle, model: str, failure: str | None) -> errors.RequestError:
    """The error for one request of a `Settle`; `failure` is the executor's message, if any."""
    assert settle.outcome is not Outcome.OK  # noqa: S101 - an answered request has no error
    kind, text = _REFUSALS[settle.reason]
    message = f"{model}: {text}" if failure is None else f"{model}: {text}: {failure}"
    return kind(message, retry_after_ns=settle.retry_after_ns)
