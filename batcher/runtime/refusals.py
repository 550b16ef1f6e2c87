"""The error that a caller gets for each reason with which the scheduler ends a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from batcher import errors
from batcher.clock import MILLISECOND
from batcher.core.commands import Blame, MissedTime, Outcome, Reason, RefusalCause, Settle
from batcher.core.settings import Adaptive, ModelSettings


class _Refusal(NamedTuple):
    """The class and the message of an error. `advice` follows the executor's message, if there is one.

    `after_failure` is said instead of `what` where the last batch with rows of the request has failed.
    """

    error: type[errors.RequestError]
    what: str | Callable[[ModelSettings], str]
    advice: str = ""
    after_failure: str = ""


def _too_many_rows(settings: ModelSettings) -> str:
    most, batches = settings.max_request_rows, settings.queue.max_batches_per_request
    key = "queue.max_rows"
    if most == settings.max_batch_size * batches:
        key = "max_batch_size x queue.max_batches_per_request"
    return f"the request has more than {most} rows, the most of one request ({key})"


def _blamed(blame: Blame, settings: ModelSettings, *, retry: bool) -> tuple[str, str]:
    """What is said of a refusal for a prediction, and what would prevent it. `retry`: a retry might."""
    time = _time_text(blame.missed, settings)
    late = _milliseconds(blame.late_by_ns)
    match blame.cause:
        case RefusalCause.DEADLINE:
            text = f"one batch alone takes {late} longer than the caller's deadline leaves"
            if retry:
                return text, "allow more time"
            return text, "allow more time: no retry with the same deadline helps"
        case RefusalCause.SERVICE_TIME:
            what = f"one batch alone takes {late} longer than {time} leaves"
        case RefusalCause.MARGIN:
            what = f"with the margin for slow batches the reply would come {late} after {time}"
        case RefusalCause.QUEUE_AHEAD if blame.late_by_ns:
            what = (
                f"overloaded: behind what waits and runs the reply would come {late} after {time}"
            )
        case RefusalCause.QUEUE_AHEAD:
            what = f"overloaded: a reply before {time} would make other requests late"
    return what, _WHAT_TO_CHANGE[blame.missed]


def _milliseconds(duration_ns: int) -> str:
    """At least three digits: `0.25 ms`, `31.2 ms`, `1200 ms`."""
    ms = duration_ns / MILLISECOND
    return f"{ms:.0f} ms" if ms >= 100 else f"{ms:.3g} ms"


_WHAT_TO_CHANGE: Final = {
    MissedTime.TARGET: "another batching.limit than target would serve it late",
    MissedTime.LIMIT: "a longer batching.limit, or more instances, would serve it",
    MissedTime.DEADLINE: "allow more time",
    MissedTime.QUEUE_TIMEOUT: "a longer queue.timeout, or more instances, would serve it",
}


def _time_text(missed: MissedTime, settings: ModelSettings) -> str:
    """A time of a request as a message names it: with its length and its key."""
    policy = settings.policy
    limit_ns = policy.limit_ns if isinstance(policy, Adaptive) else None
    name, key, length_ns = {
        MissedTime.TARGET: ("its target", " (batching.target_p99)", settings.target_ns),
        MissedTime.LIMIT: ("its limit", " (batching.limit)", limit_ns),
        MissedTime.DEADLINE: ("the caller's deadline", "", None),
        MissedTime.QUEUE_TIMEOUT: (
            "its time to wait",
            " (queue.timeout, or its own timeout)",
            settings.queue.timeout_ns,
        ),
    }[missed]
    return f"{name} of {length_ns / MILLISECOND:g} ms{key}" if length_ns else f"{name}{key}"


def _queue_timeout(settings: ModelSettings) -> str:
    timeout_ns = settings.queue.timeout_ns
    if timeout_ns is None:
        return "the request waited longer than its own timeout"
    return (
        f"the request waited longer than {timeout_ns / MILLISECOND:g} ms (queue.timeout), or than its"
        " own timeout"
    )


_REFUSALS: dict[Reason, _Refusal] = {
    Reason.UNKNOWN_MODEL: _Refusal(errors.ModelUnavailable, "the model is no longer served"),
    Reason.MODEL_REMOVED: _Refusal(
        errors.ModelUnavailable, "the model was unloaded while the request waited"
    ),
    Reason.NO_INSTANCE: _Refusal(
        errors.InstanceUnavailable, "no instance is up", "RepositoryIndex says why"
    ),
    Reason.TOO_MANY_ROWS: _Refusal(
        errors.InvalidRequest,
        _too_many_rows,
        "send several requests",
    ),
    Reason.TOO_MANY_BYTES: _Refusal(
        errors.InvalidRequest,
        lambda settings: (
            f"the request has more than the {settings.queue.max_bytes} bytes of input that may wait"
            " (queue.max_bytes)"
        ),
        "send several requests",
    ),
    Reason.QUEUE_REQUESTS: _Refusal(
        errors.Overloaded,
        lambda settings: (
            f"the queue is full: at most {settings.queue.max_requests} requests may wait"
            " (queue.max_requests)"
        ),
    ),
    Reason.QUEUE_GROUPS: _Refusal(
        errors.Overloaded,
        lambda settings: (
            f"the queue is full: at most {settings.queue.max_groups} groups of requests that cannot"
            " share a batch may wait (queue.max_groups)"
        ),
    ),
    Reason.QUEUE_ROWS: _Refusal(
        errors.Overloaded,
        lambda settings: (
            f"the queue is full: at most {settings.queue.max_rows} rows may wait (queue.max_rows)"
        ),
    ),
    Reason.QUEUE_BYTES: _Refusal(
        errors.Overloaded,
        lambda settings: (
            f"the queue is full: at most {settings.queue.max_bytes} bytes may wait (queue.max_bytes)"
        ),
    ),
    Reason.PREDICTED_LATE: _Refusal(
        errors.Overloaded,
        lambda settings: (
            f"overloaded: not answered before {_time_text(MissedTime.LIMIT, settings)}"
        ),
        _WHAT_TO_CHANGE[MissedTime.LIMIT],
    ),
    Reason.CALLER_DEADLINE: _Refusal(
        errors.DeadlineExpired,
        "the caller's deadline passed before the request was answered",
        after_failure="its batch failed, and the caller's deadline has passed meanwhile",
    ),
    Reason.DEADLINE_TOO_SHORT: _Refusal(
        errors.DeadlineExpired,
        "the caller's deadline is shorter than the time of the fastest batch",
        "allow more time",
    ),
    Reason.QUEUE_TIMEOUT: _Refusal(
        errors.DeadlineExpired,
        _queue_timeout,
        after_failure="its batch failed, and the time that it may wait has passed meanwhile"
        " (queue.timeout, or its own timeout)",
    ),
    Reason.CALLER_CANCELLED: _Refusal(errors.RequestCancelled, "the caller cancelled the request"),
    Reason.INSTANCE_DOWN: _Refusal(
        errors.InstanceUnavailable,
        "the instance that ran the request went down, and may have executed it",
    ),
    Reason.DEVICE_FAILURE: _Refusal(
        errors.InstanceUnavailable, "the device failed", "the server's log has details"
    ),
    Reason.DEVICE_MEMORY: _Refusal(
        errors.Overloaded,
        "the device has no memory for the request, not even in the smallest batch",
    ),
    Reason.SEQUENCE_LOST: _Refusal(
        errors.SequenceError,
        "the sequence was lost before this step",
        "start it again, with sequence_start",
    ),
    Reason.INPUT_FAILURE: _Refusal(errors.InputRefused, "the executor refused the input"),
    Reason.UNKNOWN_FAILURE: _Refusal(
        errors.ExecutionFailed,
        "a batch with rows of this request failed, and they could not be executed again",
        "try it once more; the server's log has details",
        after_failure="the executor failed",
    ),
    Reason.BACKEND_OVERLOADED: _Refusal(
        errors.Overloaded,
        "the backend that executes the model is overloaded, and has not executed the request",
    ),
    Reason.BACKEND_UNAVAILABLE: _Refusal(
        errors.InstanceUnavailable,
        "the backend that executes the model is unavailable; it may have executed the request",
    ),
}
"""Reason -> error class and message, for every `Reason` except `NONE` (answered)."""


def error_classes() -> dict[str, type[errors.RequestError]]:
    """Reason -> the class of the error that the caller gets."""
    return {reason.value: refusal.error for reason, refusal in _REFUSALS.items()}


def error_for(
    settle: Settle, model: str, settings: ModelSettings, failure: str | None
) -> errors.RequestError:
    """The error for one request of a `Settle`; `failure` is the executor's message, if any."""
    assert settle.outcome is not Outcome.OK  # noqa: S101 - an answered request has no error
    kind, what, advice, after_failure = _REFUSALS[settle.reason]
    if failure is not None and after_failure:
        what = after_failure
    if settle.blame is not None:
        what, advice = _blamed(settle.blame, settings, retry=settle.retry_after_ns is not None)
    elif not isinstance(what, str):
        what = what(settings)
    message = f"{model}: {what}" if failure is None else f"{model}: {what}: {failure}"
    if advice:
        message = f"{message}; {advice}"
    if settle.retry_after_ns is not None:
        delay_ms = -(-settle.retry_after_ns // MILLISECOND)
        message = f"{message}; retry in {delay_ms} ms, or on another replica"
    return kind(message, retry_after_ns=settle.retry_after_ns)
