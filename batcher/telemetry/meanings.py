"""What each outcome and reason of a request means, in words for docs/metrics.md."""

from __future__ import annotations

from typing import Final

from batcher.core.commands import Outcome, Reason
from batcher.telemetry.reasons import AdmissionReason, EndReason, ReplyReason

MEANINGS: Final[tuple[tuple[Outcome, tuple[EndReason, ...], str], ...]] = (
    (Outcome.OK, (Reason.NONE,), "the last byte of the answer was handed to the transport"),
    (
        Outcome.REJECTED,
        (AdmissionReason.INVALID,),
        "the request does not fit the model, or cannot be read",
    ),
    (
        Outcome.REJECTED,
        (AdmissionReason.UNAVAILABLE,),
        "the model is loading, failed to load, or was unloaded",
    ),
    (Outcome.REJECTED, (AdmissionReason.DRAINING,), "the server shuts down"),
    (
        Outcome.REJECTED,
        (AdmissionReason.SEQUENCE,),
        "a step that its sequence cannot take: its first step did not have `sequence_start`, or it has ended, expired or was lost ([sequences.md](sequences.md#errors))",
    ),
    (
        Outcome.REJECTED,
        (AdmissionReason.SEQUENCE_LIMIT,),
        "one sequence, or one waiting step, too many: `sequence.max_sequences`, `max_state` or `max_waiting_steps` was reached",
    ),
    (Outcome.REJECTED, (Reason.UNKNOWN_MODEL,), "no model of this name and version is served"),
    (
        Outcome.REJECTED,
        (Reason.QUEUE_REQUESTS, Reason.QUEUE_GROUPS, Reason.QUEUE_ROWS, Reason.QUEUE_BYTES),
        "the queue is full: `queue.max_requests`, `max_groups`, `max_rows` or `max_bytes` was reached",
    ),
    (
        Outcome.REJECTED,
        (Reason.PREDICTED_LATE,),
        "it cannot be answered by its limit (the caller's deadline or `batching.limit`), or waited until that. With `limit: target`, by its target. `batcher_predicted_refusals_total` says what that is blamed on",
    ),
    (
        Outcome.REJECTED,
        (Reason.TOO_MANY_ROWS, Reason.TOO_MANY_BYTES),
        "this one request is larger than the model takes, even with an empty queue: `queue.max_batches_per_request`, `max_rows`, `max_bytes`",
    ),
    (
        Outcome.REJECTED,
        (Reason.BACKEND_OVERLOADED,),
        "the executor's backend (another server) has no room, and did not execute the batch",
    ),
    (
        Outcome.REJECTED,
        (Reason.NO_INSTANCE, Reason.MODEL_REMOVED),
        "no instance of the model is up (one is being started, or they [stay down](instances.md)), or it was unloaded while the request waited",
    ),
    (
        Outcome.EXPIRED,
        (Reason.CALLER_DEADLINE,),
        "the deadline of the caller passed, also while the answer was written",
    ),
    (
        Outcome.EXPIRED,
        (Reason.QUEUE_TIMEOUT,),
        "it waited for `queue.timeout`, or for the caller's own `timeout`",
    ),
    (
        Outcome.EXPIRED,
        (Reason.DEADLINE_TOO_SHORT,),
        "one batch alone takes longer than the deadline of the caller",
    ),
    (
        Outcome.CANCELLED,
        (Reason.CALLER_CANCELLED,),
        "the caller cancelled, or its connection ended",
    ),
    (
        Outcome.CANCELLED,
        (ReplyReason.ANSWER_LOST,),
        "the same, while the answer was written",
    ),
    (
        Outcome.CANCELLED,
        (ReplyReason.ANSWER_STALLED,),
        "the caller did not read the answer for `server.write_timeout`",
    ),
    (Outcome.FAILED, (Reason.DEVICE_FAILURE,), "the executor or its device failed"),
    (
        Outcome.FAILED,
        (Reason.DEVICE_MEMORY,),
        "the device had no memory for the request, not even in the smallest batch",
    ),
    (Outcome.FAILED, (Reason.INPUT_FAILURE,), "the executor refused the values of this request"),
    (
        Outcome.FAILED,
        (Reason.UNKNOWN_FAILURE,),
        "the executor failed without saying why, or refused an input (`input`) in a batch of several of which it cannot be told whose",
    ),
    (
        Outcome.FAILED,
        (Reason.INSTANCE_DOWN,),
        "the instance was lost while the batch ran, or took longer than `execute_timeout`",
    ),
    (
        Outcome.FAILED,
        (Reason.BACKEND_UNAVAILABLE,),
        "the executor's backend is not there, is draining, or the connection to it was lost",
    ),
    (
        Outcome.FAILED,
        (ReplyReason.ANSWER_TOO_LARGE,),
        "the answer is larger than `server.max_message`",
    ),
    (
        Outcome.FAILED,
        (ReplyReason.BUFFER_FULL,),
        "`server.max_buffered` left no space for the answer",
    ),
    (Outcome.FAILED, (ReplyReason.INTERNAL,), "a defect of batcher: its log has the traceback"),
)
"""Every combination of `ENDS`, once; reasons that mean the same share a line."""
