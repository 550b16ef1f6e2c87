"""Why an execution failed, as an executor says it."""

from __future__ import annotations

from typing import Final

from batcher.clock import SECOND

CAUSES: Final = ("device", "input", "memory", "overloaded", "unavailable", "unknown")
"""The causes of an `ExecutionError`."""

MAX_RETRY_AFTER_NS: Final = 3600 * SECOND
"""Nanoseconds: the longest delay that a caller is told to wait for a backend; a longer one is cut."""


class ExecutionError(Exception):
    """Raise this from `execute` to say why the whole batch failed.

    `message` goes to the callers, on one line and shortened. `cause` decides what happens next:

    - `"input"`: some row of the batch is wrong. Parts of the batch are executed again to find the
      request that has it (bisection). That request ends with INVALID_ARGUMENT, the others are
      answered.
    - `"device"`: the device or the runtime is broken. Nothing is executed again; the requests end
      with UNAVAILABLE, so that callers retry.
    - `"memory"`: the device has no memory for a batch of this size. No request has failed by that: they
      are executed again in smaller batches, and the model's batches stay smaller for a while. A
      request that cannot be made smaller ends with RESOURCE_EXHAUSTED.
    - `"overloaded"`: the backend has no room and has not executed the batch. Nothing is executed
      again; the requests end with RESOURCE_EXHAUSTED.
    - `"unavailable"`: the backend is not there, is draining, or the connection was lost. Nothing is
      executed again; the requests end with UNAVAILABLE.
    - `"unknown"` (the default, and what every other exception counts as): as `"input"`, but the
      request ends with INTERNAL.

    `"overloaded"` and `"unavailable"` say nothing of the model: nothing is learned of service times
    or of failing requests, and the batch does not count towards `health.failure_threshold`
    (`Watches` tells what is unhealthy). `retry_after_ns` is when the backend wants callers to come
    back (nanoseconds, cut to `MAX_RETRY_AFTER_NS`); None leaves it to batcher. The other causes ignore it.

    If you know which rows are wrong, return `BatchResult.row_errors` instead: that costs no retry.
    """

    def __init__(
        self, message: str, *, cause: str = "unknown", retry_after_ns: int | None = None
    ) -> None:
        if cause not in CAUSES:
            raise ValueError(f"cause must be one of {', '.join(CAUSES)}, not {cause!r}")
        if retry_after_ns is not None and retry_after_ns < 0:
            raise ValueError(f"retry_after_ns must not be negative, got {retry_after_ns}")
        super().__init__(message)
        self.cause = cause
        self.retry_after_ns = (
            None if retry_after_ns is None else int(min(retry_after_ns, MAX_RETRY_AFTER_NS))
        )
