"""Commands: what the scheduler tells the runtime to do. Each is carried out exactly once, in order."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, TypeAlias

from batcher.core.events import FailureCause, Shapes
from batcher.core.record import record


class Outcome(StrEnum):
    """How a request ends. Every request ends with exactly one of these."""

    OK = "ok"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    FAILED = "failed"


class Reason(StrEnum):
    """Why a request ended that way."""

    NONE = ""
    UNKNOWN_MODEL = "unknown_model"
    MODEL_REMOVED = "model_removed"
    NO_INSTANCE = "no_instance"
    TOO_MANY_ROWS = "too_many_rows"
    TOO_MANY_BYTES = "too_many_bytes"
    QUEUE_REQUESTS = "queue_requests"
    QUEUE_GROUPS = "queue_groups"
    QUEUE_ROWS = "queue_rows"
    QUEUE_BYTES = "queue_bytes"
    PREDICTED_LATE = "predicted_late"
    CALLER_DEADLINE = "caller_deadline"
    DEADLINE_TOO_SHORT = "deadline_too_short"
    QUEUE_TIMEOUT = "queue_timeout"
    CALLER_CANCELLED = "caller_cancelled"
    INSTANCE_DOWN = "instance_down"
    DEVICE_FAILURE = "device"
    INPUT_FAILURE = "input"
    UNKNOWN_FAILURE = "unknown"
    DEVICE_MEMORY = "memory"
    BACKEND_OVERLOADED = "backend_overloaded"
    BACKEND_UNAVAILABLE = "backend_unavailable"
    SEQUENCE_LOST = "sequence"


FAILURE_REASONS: Final = {
    FailureCause.DEVICE: Reason.DEVICE_FAILURE,
    FailureCause.INPUT: Reason.INPUT_FAILURE,
    FailureCause.UNKNOWN: Reason.UNKNOWN_FAILURE,
    FailureCause.MEMORY: Reason.DEVICE_MEMORY,
    FailureCause.OVERLOADED: Reason.BACKEND_OVERLOADED,
    FailureCause.UNAVAILABLE: Reason.BACKEND_UNAVAILABLE,
    FailureCause.SEQUENCE: Reason.SEQUENCE_LOST,
    # No request waits for an abandoned batch; if one does, the shell was wrong.
    FailureCause.ABANDONED: Reason.UNKNOWN_FAILURE,
}
"""Cause -> the reason with which the requests of a failed batch end."""


def failure_outcome(cause: FailureCause) -> Outcome:
    """How requests of a failed batch end: those that were not executed are refused."""
    refused = cause is FailureCause.OVERLOADED or cause is FailureCause.SEQUENCE
    return Outcome.REJECTED if refused else Outcome.FAILED


class RefusalCause(StrEnum):
    """What a refusal for a prediction is blamed on."""

    QUEUE_AHEAD = "queue_ahead"
    """What waits and runs before the request, or others that it would make late."""
    MARGIN = "margin"
    """Without the margin for batches that take longer than predicted, it would be in time."""
    SERVICE_TIME = "service_time"
    """One batch alone takes longer than the target or the limit."""
    DEADLINE = "deadline"
    """One batch alone takes longer than the caller's deadline."""


class MissedTime(StrEnum):
    """Which of its times a request that is refused would miss."""

    TARGET = "target"
    LIMIT = "limit"
    DEADLINE = "deadline"
    QUEUE_TIMEOUT = "queue_timeout"


@record
class Blame:
    """Why a prediction refused a request, and by how much it would miss which time.

    `late_by_ns` is 0 where it is refused because it would make others late.
    """

    cause: RefusalCause
    missed: MissedTime
    late_by_ns: int


@record
class Part:
    """Rows `start` to `stop` (exclusive) of a request, as one piece of a batch."""

    id: int
    start: int
    stop: int


@record
class Dispatch:
    """Gather these parts, in this order, padded to `bucket`, and execute them on the instance."""

    batch_id: int
    model: str
    instance: str
    bucket: Shapes
    parts: tuple[Part, ...]
    attempt: int = 1


@record
class Settle:
    """These requests have ended. `retry_after_ns` is None where a retry will not help.

    `blame` is given where a prediction refused them.
    """

    ids: tuple[int, ...]
    outcome: Outcome
    reason: Reason = Reason.NONE
    retry_after_ns: int | None = None
    blame: Blame | None = None


@record
class PolicyFailed:
    """A policy broke its contract; its model forms batches greedily until it is configured anew."""

    model: str
    error: str


@record
class SettingsRefused:
    """The policy of a known model's new settings could not be made: the old ones stay in force."""

    model: str
    error: str


@record
class FailureStorm:
    """Batches of a model fail so often that none is bisected any more; or that is `over`."""

    model: str
    over: bool = False


@record
class BatchCeiling:
    """A model's device has no memory for a batch of `rows` rows; or that is `over`.

    Its batches have at most `most_rows` of that bucket for a while, and fewer where that fails as well.
    """

    model: str
    rows: int = 0
    most_rows: int = 0
    over: bool = False


Command: TypeAlias = (
    Dispatch | Settle | PolicyFailed | SettingsRefused | FailureStorm | BatchCeiling
)
