"""Reasons for which requests end outside the scheduler, and every combination that can occur."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, TypeAlias

from batcher.core.commands import Outcome, Reason


class AdmissionReason(StrEnum):
    """Why a request was refused before the scheduler saw it."""

    INVALID = "invalid"
    UNAVAILABLE = "unavailable"
    DRAINING = "draining"
    SEQUENCE = "sequence"
    """A step that its sequence cannot take; the scheduler refuses some with the same reason."""
    SEQUENCE_LIMIT = "sequence_limit"
    """One sequence, or one waiting step of a sequence, too many."""


class UnreadReason(StrEnum):
    """Why a request was refused before its model was known."""

    INVALID = "invalid"
    UNKNOWN_MODEL = "unknown_model"
    MESSAGE_TOO_LARGE = "message_too_large"
    METADATA_TOO_LARGE = "metadata_too_large"
    INTERNAL = "internal"


class ReplyReason(StrEnum):
    """Why a request that the scheduler answered or failed ended in another way."""

    ANSWER_TOO_LARGE = "answer_too_large"
    BUFFER_FULL = "buffer_full"
    """`server.max_buffered` left no space for the answer."""
    INTERNAL = "internal"
    ANSWER_LOST = "answer_lost"
    """The caller cancelled, or its connection ended, while the answer was written."""
    ANSWER_STALLED = "answer_stalled"
    """The caller did not read the answer for `server.write_timeout`."""


class ReloadResult(StrEnum):
    """How a load of a model that is served ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class LossReason(StrEnum):
    """Why an instance was lost."""

    KILLED = "killed"
    """Its child process was ended by a signal: a crash, the kernel where memory has run out, or a person."""
    EXITED = "exited"
    """Its child process ended by itself."""
    BROKEN = "broken"
    """Its child process closed its connection, or said what cannot be; it was killed."""
    HUNG = "hung"
    """A batch or a health check did not end in time; it was killed or abandoned."""
    UNHEALTHY = "unhealthy"
    """Its child process was unhealthy for `health.restart_after` checks in a row; it was killed."""
    DEVICE = "device"
    """Its device has failed."""


EndReason: TypeAlias = Reason | AdmissionReason | ReplyReason
End: TypeAlias = tuple[Outcome, EndReason]

ENDS: Final[tuple[End, ...]] = (
    (Outcome.OK, Reason.NONE),
    *((Outcome.REJECTED, reason) for reason in AdmissionReason),
    (Outcome.REJECTED, Reason.UNKNOWN_MODEL),
    (Outcome.REJECTED, Reason.MODEL_REMOVED),
    (Outcome.REJECTED, Reason.NO_INSTANCE),
    (Outcome.REJECTED, Reason.TOO_MANY_ROWS),
    (Outcome.REJECTED, Reason.TOO_MANY_BYTES),
    (Outcome.REJECTED, Reason.QUEUE_REQUESTS),
    (Outcome.REJECTED, Reason.QUEUE_GROUPS),
    (Outcome.REJECTED, Reason.QUEUE_ROWS),
    (Outcome.REJECTED, Reason.QUEUE_BYTES),
    (Outcome.REJECTED, Reason.PREDICTED_LATE),
    (Outcome.EXPIRED, Reason.CALLER_DEADLINE),
    (Outcome.EXPIRED, Reason.DEADLINE_TOO_SHORT),
    (Outcome.EXPIRED, Reason.QUEUE_TIMEOUT),
    (Outcome.CANCELLED, Reason.CALLER_CANCELLED),
    (Outcome.REJECTED, Reason.BACKEND_OVERLOADED),
    (Outcome.FAILED, Reason.BACKEND_UNAVAILABLE),
    (Outcome.FAILED, Reason.INSTANCE_DOWN),
    (Outcome.FAILED, Reason.DEVICE_FAILURE),
    (Outcome.FAILED, Reason.DEVICE_MEMORY),
    (Outcome.FAILED, Reason.INPUT_FAILURE),
    (Outcome.FAILED, Reason.UNKNOWN_FAILURE),
    (Outcome.FAILED, ReplyReason.ANSWER_TOO_LARGE),
    (Outcome.FAILED, ReplyReason.BUFFER_FULL),
    (Outcome.FAILED, ReplyReason.INTERNAL),
    (Outcome.CANCELLED, ReplyReason.ANSWER_LOST),
    (Outcome.CANCELLED, ReplyReason.ANSWER_STALLED),
)
"""Every way in which a request of a model can end: all of these counters exist from the start."""

CALLER_ERRORS: Final[frozenset[EndReason]] = frozenset(
    {
        AdmissionReason.INVALID,
        AdmissionReason.SEQUENCE,
        Reason.TOO_MANY_ROWS,
        Reason.TOO_MANY_BYTES,
        Reason.DEADLINE_TOO_SHORT,
        Reason.INPUT_FAILURE,
    }
)
"""Reasons that are the caller's fault: another server would not answer such a request, either."""
